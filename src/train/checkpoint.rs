//! A run that was stopped: weights, optimiser moments and the number of iterations made. The order of images and the
//! learning rate follow from the seed and the iteration, so nothing else is needed to continue bit-equal.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::params::Trained;
use crate::ops::optimizer::State;
use crate::runtime::Tensor;
use crate::runtime::weights::{RawTensor, WeightFile};
use crate::train::step::Optimizer;

const PARTS: [&str; 4] = ["p", "m", "v", "vmax"];

/// Writes the state atomically: a run killed at any moment leaves the last whole checkpoint.
pub fn save(
    path: &Path,
    cfg: &Config,
    p: &Trained,
    opt: &Optimizer,
    settings: &Map<String, Value>,
) -> Result<()> {
    let mut file = WeightFile { path: path.to_path_buf(), ..WeightFile::default() };
    for ((name, p), s) in Trained::<f32>::names(cfg).iter().zip(p.tensors()).zip(&opt.states) {
        for (part, t) in PARTS.iter().zip([p, &s.m, &s.v, &s.vmax]) {
            file.tensors.insert(format!("{part}.{name}"), RawTensor::from_f32(t));
        }
    }
    let state = json!({ "iteration": opt.steps, "settings": settings });
    file.metadata.insert("inp_former_checkpoint".into(), state.to_string());
    file.write(path)
}

fn state(file: &WeightFile) -> Result<Value> {
    let text = file.metadata.get("inp_former_checkpoint");
    text.and_then(|s| serde_json::from_str(s).ok())
        .ok_or_else(|| Error::file(&file.path, "this is not a training checkpoint (those end in .ckpt)"))
}

/// Iterations made when the checkpoint was written.
pub fn iteration(path: &Path) -> Result<u64> {
    Ok(state(&WeightFile::read(path)?)?["iteration"].as_u64().unwrap_or(0))
}

/// Reads a state back; settings that differ from `settings` are an error that names each.
pub fn load(path: &Path, cfg: &Config, settings: &Map<String, Value>) -> Result<(Trained, Optimizer)> {
    let file = WeightFile::read(path)?;
    let state = state(&file)?;
    let empty = Map::new();
    let old = state["settings"].as_object().unwrap_or(&empty);
    let differs: Vec<String> = settings
        .iter()
        .filter(|(k, v)| old.get(*k) != Some(v))
        .map(|(k, v)| match k.as_str() {
            "features" => "features: other pictures, encoder weights, resize, crop or version".into(),
            _ => format!("{k}: {} then, {v} now", old.get(k).unwrap_or(&Value::Null)),
        })
        .collect();
    if !differs.is_empty() {
        let what = format!("the run was started with other settings ({})", differs.join("; "));
        return Err(Error::file(path, format!("{what}; resume with the same ones")));
    }
    let steps =
        state["iteration"].as_u64().ok_or_else(|| Error::file(path, "the checkpoint names no iteration"))?;
    let mut parts = PARTS.iter().map(|part| {
        Trained::build(cfg, &mut |name, shape| match file.tensors.get(&format!("{part}.{name}")) {
            Some(t) if t.shape == shape => t.to_f32(),
            _ => Err(Error::file(path, format!("the checkpoint lacks `{part}.{name}` of shape {shape:?}"))),
        })
    });
    let mut next = || parts.next().expect("four parts");
    let (p, m, v, vmax) = (next()?, next()?, next()?, next()?);
    let owned = |t: &Trained| t.tensors().into_iter().cloned().collect::<Vec<Tensor<f32>>>();
    let states =
        owned(&m).into_iter().zip(owned(&v)).zip(owned(&vmax)).map(|((m, v), vmax)| State { m, v, vmax });
    Ok((p, Optimizer { states: states.collect(), steps }))
}
