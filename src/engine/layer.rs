//! The engine's large layers. Each multiplies operands X or int8, whatever the others do.

use std::collections::BTreeMap;

use crate::ops::layernorm;
use crate::ops::linear::int8;
use crate::ops::linear::packed::{self, Cell, Epilogue, Input, Narrow, Packed, Panels};
use crate::runtime::Cpu;
use crate::runtime::simd::Operand;
use crate::runtime::simd::aligned::Aligned;

use super::fold::Plain;

/// Layers that multiply int8 → what their inputs `(K)` are multiplied with before they are rounded.
pub type Smoothing = BTreeMap<String, Vec<f32>>;

/// Says of a layer, by its name and weights, what its inputs are multiplied with in int8; `None`: not in int8.
pub type Decide<'a> = &'a mut dyn FnMut(&str, &Plain) -> Option<Vec<f32>>;

/// A linear layer with many rows of inputs.
pub struct Layer<X> {
    name: String,
    weights: Weights<X>,
}

enum Weights<X> {
    Wide(Packed<X>),
    /// Of inputs that were multiplied by the second `(K)`.
    Int8(int8::Packed, Vec<f32>),
}

/// Where inputs are rounded.
#[derive(Clone)]
pub struct Inputs<X: Narrow> {
    /// `(T, C)`.
    wide: Aligned<X>,
    rows: int8::Rows,
    /// Packed for products in pairs.
    pairs: Aligned<f32>,
    /// Looks at the inputs of layers that are not in int8.
    pub watch: Option<Watch>,
}

impl<X: Narrow> Inputs<X> {
    /// For `rows` rows of `c` channels, `hidden` where they are operands already.
    pub fn new(rows: usize, c: usize, hidden: usize) -> Self {
        let pairs = if X::PAIRS { packed::paired_len(rows, hidden.max(c)) } else { 0 };
        let rows_of = int8::Rows::new(rows, hidden);
        Self { wide: Aligned::zeros(rows * c), rows: rows_of, pairs: Aligned::zeros(pairs), watch: None }
    }
}

impl<X: Narrow> Layer<X> {
    /// Rounds and packs.
    pub fn new(cpu: &Cpu, name: String, mut p: Plain, decide: Decide) -> Self {
        let (n, k) = (p.b.len(), p.k());
        let weights = match decide(&name, &p) {
            None => Weights::Wide(Packed::paired(cpu, &p.w, n, k, p.b)),
            Some(by) => {
                p.smooth(&by);
                Weights::Int8(int8::Packed::new(cpu, &p.w, n, k, p.b), by)
            }
        };
        Self { name, weights }
    }
    /// On rows `(·, K)` of sums, normalised first if there is an epsilon.
    pub fn on_sums<Y: Cell<X> + Narrow>(
        &self,
        cpu: &Cpu,
        x: &[f32],
        eps: Option<f32>,
        via: &mut Inputs<X>,
        to: &mut [Y],
        epilogue: Epilogue,
    ) {
        match &self.weights {
            Weights::Wide(w) => {
                let wide = &mut via.wide[..x.len()];
                match eps {
                    Some(eps) => layernorm::normalise(cpu, x, w.k, eps, wide),
                    None => packed::round(cpu, x, wide),
                }
                if let Some(watch) = &mut via.watch {
                    watch.see(&self.name, wide, w.k);
                }
                Self::wide(cpu, w, &via.wide[..x.len()], &mut via.pairs, None, to, epilogue, None);
            }
            Weights::Int8(w, by) => {
                match eps {
                    Some(eps) => via.rows.normalise(cpu, x, eps, by),
                    None => via.rows.quantise(cpu, x, by),
                }
                int8::forward(cpu, &via.rows, w, to, w.n, epilogue, None);
            }
        }
    }
    /// On rows `(·, K)` of operands; a second product `tail` is added, and the result to `sum`, as in [`packed::forward`].
    #[allow(clippy::too_many_arguments)]
    pub fn on_operands(
        &self,
        cpu: &Cpu,
        x: &[X],
        tail: Option<(Input<X>, Panels<X>)>,
        via: &mut Inputs<X>,
        to: &mut [f32],
        epilogue: Epilogue,
        sum: Option<&mut [f32]>,
    ) {
        match &self.weights {
            Weights::Wide(w) => {
                if let Some(watch) = &mut via.watch {
                    watch.see(&self.name, x, w.k);
                }
                Self::wide(cpu, w, x, &mut via.pairs, tail, to, epilogue, sum);
            }
            Weights::Int8(w, by) => {
                let epilogue = match tail {
                    None => epilogue,
                    Some((a, b)) => {
                        let (m, start) = (x.len() / w.k, epilogue);
                        packed::forward(cpu, m, a, b, None, to, w.n, start, None);
                        Epilogue::Residual
                    }
                };
                via.rows.quantise(cpu, x, by);
                int8::forward(cpu, &via.rows, w, to, w.n, epilogue, sum);
            }
        }
    }
    #[allow(clippy::too_many_arguments)]
    fn wide<Y: Cell<X>>(
        cpu: &Cpu,
        w: &Packed<X>,
        x: &[X],
        pairs: &mut [f32],
        tail: Option<(Input<X>, Panels<X>)>,
        to: &mut [Y],
        epilogue: Epilogue,
        sum: Option<&mut [f32]>,
    ) {
        let m = x.len() / w.k;
        let a = packed::pair(cpu, m, Input { data: x, ld: w.k }, w, pairs);
        packed::forward(cpu, m, a, w.view(), tail, to, w.n, epilogue, sum)
    }
}

/// What calibration looks at: the inputs of each layer.
#[derive(Clone, Default)]
pub struct Watch {
    /// By the layer's name.
    pub layers: BTreeMap<String, Seen>,
}

/// Inputs of one layer.
#[derive(Clone, Default)]
pub struct Seen {
    /// Largest magnitude of each `(K)`; NaN is passed over.
    pub top: Vec<f32>,
    /// Some of the rows, `(·, K)`.
    pub rows: Vec<f32>,
}

/// Of this many rows one is kept: all over the picture, as it is prime.
const STRIDE: usize = 31;
/// Rows that are kept of each layer.
const KEPT: usize = 192;

impl Watch {
    fn see<X: Operand<Sum = f32>>(&mut self, name: &str, x: &[X], k: usize) {
        let seen = self.layers.entry(name.into()).or_default();
        seen.top.resize(k, 0.0);
        for row in x.chunks_exact(k) {
            seen.top.iter_mut().zip(row).for_each(|(t, x)| *t = t.max(x.widen().abs()));
        }
        let room = KEPT.saturating_sub(seen.rows.len() / k);
        for row in x.chunks_exact(k).step_by(STRIDE).take(room) {
            seen.rows.extend(row.iter().map(|x| x.widen()));
        }
    }
}
