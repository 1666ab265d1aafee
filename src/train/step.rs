//! One training step: loss, gradients, clipping, update (docs/spec.md, section 6).

use crate::error::{Error, Result};
use crate::model::encoder::Features;
use crate::model::params::Trained;
use crate::model::{Config, inp_former};
use crate::ops::{cosine_loss, gather_loss, optimizer};
use crate::runtime::{Cpu, Elem, Tensor};
use crate::train::folded;

/// Weight of the coherence loss.
const GATHER_WEIGHT: f64 = 0.2;
/// Largest global gradient norm.
pub const MAX_NORM: f64 = 0.1;

/// The loss of one batch and its gradients.
pub struct Gradients<E: Elem> {
    /// `loss_cos + 0.2·g_loss`.
    pub loss: f64,
    /// Mean over the groups of `mean_b (1 - cos(flat(a_b), flat(d_b)))`.
    pub loss_cos: f64,
    /// Coherence loss.
    pub g_loss: f64,
    /// Gradient of `loss`, soft mining applied.
    pub grads: Trained<E>,
}

/// Which form of the trained part runs: both give the same gradients, up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// By exact folds ([`folded`]): less than half of the operations.
    Folds,
    /// As the paper writes it ([`inp_former`]): what the folds are checked against.
    Plain,
}

impl Path {
    /// As `--path` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Folds => "folds",
            Self::Plain => "plain",
        }
    }
}

/// Whether a weight's gradient is one product (most of them by far), which need not be added to zeros.
fn is_product(name: &str) -> bool {
    let of_inputs =
        name.ends_with("attn.q.weight") || name.starts_with("decoder") && name.ends_with("attn.kv.weight");
    of_inputs || name.ends_with("fc1.weight") || name.ends_with("fc2.weight")
}

/// Forward and backward over the features of one batch.
pub fn gradients<E: Elem>(
    cpu: &Cpu,
    p: &Trained<E>,
    cfg: &Config,
    features: &Features<E>,
    path: Path,
) -> Result<Gradients<E>> {
    let start = |name: &str, s: &[usize]| if is_product(name) { Tensor::unset(s) } else { Tensor::zeros(s) };
    let mut grads = Trained::build(cfg, &mut |name, s| Ok(start(name, s)))?;
    let l = match path {
        Path::Folds => {
            let head = folded::forward(cpu, p, cfg, features)?;
            let mut l = losses(cpu, features, &head.de, &head.fused, &head.inp, &head.gather)?;
            let dinp = std::mem::take(&mut l.dinp);
            folded::backward(cpu, p, cfg, head, &l.dde, dinp, &mut grads)?;
            l
        }
        Path::Plain => {
            let head = inp_former::forward(cpu, p, cfg, features, false, &mut |_, _| {})?;
            let mut l = losses(cpu, features, &head.de, &head.fused, &head.inp, &head.gather)?;
            let dinp = std::mem::take(&mut l.dinp);
            inp_former::backward(cpu, p, cfg, head, &l.dde, dinp, &mut grads)?;
            l
        }
    };
    let whole = |g: &&Tensor<E>| g.len() == g.shape().iter().product::<usize>();
    assert!(grads.tensors().iter().all(whole), "a weight got no gradient");
    Ok(Gradients { loss: l.loss, loss_cos: l.loss_cos, g_loss: l.g_loss, grads })
}

/// Losses as in [`Gradients`], and their gradients.
struct Losses<E: Elem> {
    loss: f64,
    loss_cos: f64,
    g_loss: f64,
    /// Of each decoder group `(B, N, C)`.
    dde: Vec<Tensor<E>>,
    /// Of the prototypes `(B, P, C)`: the coherence loss's part.
    dinp: Tensor<E>,
}

fn losses<E: Elem>(
    cpu: &Cpu,
    features: &Features<E>,
    de: &[Tensor<E>],
    fused: &Tensor<E>,
    inp: &Tensor<E>,
    gather: &gather_loss::Saved<E>,
) -> Result<Losses<E>> {
    let groups = de.len() as f64;
    let (mut loss_cos, mut dde) = (0.0, Vec::new());
    for (a, d) in features.groups.iter().zip(de) {
        let saved = cosine_loss::forward(cpu, a, d)?;
        loss_cos += saved.loss.to_f64() / groups;
        dde.push(cosine_loss::backward(cpu, a, d, &saved, E::from_f64(1.0 / groups))?);
    }
    let g_loss = gather.loss.to_f64();
    let loss = loss_cos + GATHER_WEIGHT * g_loss;
    if !loss.is_finite() {
        return Err(Error::NotFinite(format!(
            "the loss became {loss}: the weights or the pictures hold values that cannot be trained on, or --lr is too high"
        )));
    }
    let dinp = gather_loss::backward(cpu, fused, inp, gather, E::from_f64(GATHER_WEIGHT))?;
    Ok(Losses { loss, loss_cos, g_loss, dde, dinp })
}

/// Optimiser moments of every trained tensor, and the number of updates made.
#[derive(Clone, Debug)]
pub struct Optimizer {
    /// One a tensor, in `Trained::tensors` order.
    pub states: Vec<optimizer::State<f32>>,
    /// Updates made.
    pub steps: u64,
}

impl Optimizer {
    /// All moments zero.
    pub fn new(cfg: &Config) -> Self {
        Self {
            states: Trained::zeros(cfg).tensors().into_iter().map(optimizer::State::new).collect(),
            steps: 0,
        }
    }

    /// Updates `p` by `grads` clipped to the largest allowed norm; returns the norm before clipping.
    pub fn step(&mut self, cpu: &Cpu, p: &mut Trained, grads: &Trained, lr: f64) -> Result<f64> {
        self.steps += 1;
        let norm = optimizer::global_norm(cpu, &grads.tensors());
        let hyper = optimizer::Hyper { scale: optimizer::clip_scale(norm, MAX_NORM), ..Default::default() };
        for ((p, g), s) in p.tensors_mut().into_iter().zip(grads.tensors()).zip(&mut self.states) {
            optimizer::step(cpu, p, g, s, lr, self.steps, &hyper)?;
        }
        Ok(norm)
    }
}
