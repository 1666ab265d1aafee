//! Models whose weights come from the goldens' generator, built as files and loaded as a user's file would be.

use inp_former::Result;
use inp_former::model::params::{Encoder, Trained};
use inp_former::model::{Config, Model};
use inp_former::runtime::Tensor;
use inp_former::runtime::weights::{RawTensor, WeightFile};

use crate::support::golden_weight;

/// The published module sizes of goldens/README.md.
pub fn config(name: &str) -> Config {
    let (channels, heads, depth, layers, crop) = match name {
        "tiny" => (64, 2, 6, vec![1, 2, 3, 4], 112),
        "tiny518" => (64, 2, 6, vec![1, 2, 3, 4], 518),
        "mini" => (128, 2, 6, vec![1, 2, 3, 4], 112),
        "small112" => (384, 6, 12, (2..10).collect(), 112),
        "small252" => (384, 6, 12, (2..10).collect(), 252),
        "small392" => (384, 6, 12, (2..10).collect(), 392),
        "large112" => (1024, 16, 24, (4..19).step_by(2).collect(), 112),
        "base392" => (768, 12, 12, (2..10).collect(), 392),
        "base98" => (768, 12, 12, (2..10).collect(), 98),
        _ => panic!("no golden model {name}"),
    };
    let half = layers.len() / 2;
    let groups = vec![(0..half).collect::<Vec<_>>(), (half..layers.len()).collect()];
    Config {
        channels,
        heads,
        hidden: 4 * channels,
        depth,
        registers: 4,
        pos_grid: 37,
        decoder_blocks: layers.len(),
        target_layers: layers,
        decoder_groups: groups.clone(),
        groups,
        prototypes: 6,
        resize: crop + 16,
        crop,
        trained: true,
        other: Default::default(),
    }
}

/// The model as a safetensors file in memory, metadata included.
pub fn file(cfg: &Config) -> WeightFile {
    let mut file = WeightFile { path: "generated".into(), ..WeightFile::default() };
    let mut put = |name: &str, shape: &[usize]| -> Result<Tensor> {
        let t = golden_weight(name, shape);
        file.tensors.insert(name.to_string(), RawTensor::from_f32(&t));
        Ok(t)
    };
    // Blocks past the last target layer stand in the file too, as in a published one.
    let whole = Config { target_layers: (0..cfg.depth).collect(), ..cfg.clone() };
    Encoder::build(&whole, &mut put).unwrap();
    if cfg.trained {
        Trained::build(cfg, &mut put).unwrap();
    }
    file.metadata.insert("inp_former".into(), cfg.to_json().to_string());
    file
}

/// The model, loaded.
pub fn model(name: &str) -> Model {
    Model::load(file(&config(name))).unwrap()
}

/// The pixel map of the plain model computed in f64 from its f32 weights (post-processing in f32 apart).
pub fn maps64(m: &Model, input: &Tensor) -> Vec<f64> {
    use inp_former::model::{encoder, inp_former as net};
    let cpu = inp_former::runtime::Cpu::new(Some(1)).unwrap();
    let cfg = &m.config;
    let weights = m.to_file();
    let mut get =
        |name: &str, _: &[usize]| -> Result<Tensor<f64>> { Ok(weights.tensors[name].to_f32()?.cast()) };
    let enc = Encoder::build(cfg, &mut get).unwrap();
    let trained = Trained::build(cfg, &mut get).unwrap();
    let features = encoder::forward(&cpu, &enc, cfg, &input.cast(), &mut |_, _| {}).unwrap();
    let head = net::forward(&cpu, &trained, cfg, &features, false, &mut |_, _| {}).unwrap();
    let native = net::native_maps(&cpu, &features, &head).unwrap();
    let side = cfg.side();
    let matrix = inp_former::ops::anomaly_map::axis_matrix(side, cfg.crop);
    let grid: Vec<f64> = (0..side * side)
        .map(|i| native.iter().map(|n| n.data[i]).sum::<f64>() / native.len() as f64)
        .collect();
    let mut half = vec![0.0; 256 * side];
    for i in 0..256 {
        for k in 0..side {
            for j in 0..side {
                half[i * side + j] += matrix[i * side + k] * grid[k * side + j];
            }
        }
    }
    let at = |i: usize| (0..side).map(|k| matrix[i % 256 * side + k] * half[i / 256 * side + k]).sum();
    (0..256 * 256).map(at).collect()
}
