//! Layer normalisation over the last axis, two-pass statistics, forward and backward.

use crate::error::Result;
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// What the backward needs of the forward: mean and 1/deviation of each row, `(rows)` each.
#[derive(Clone, Debug)]
pub struct Stats<E: Elem> {
    pub mean: Vec<E>,
    pub rstd: Vec<E>,
}

/// x `(…, C)`, gain and bias `(C)` → `((x - mean)·rstd·gain + bias, statistics)`; `rstd = 1/sqrt(var + eps)`.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    x: &Tensor<E>,
    gain: &Tensor<E>,
    bias: &Tensor<E>,
    eps: f64,
) -> Result<(Tensor<E>, Stats<E>)> {
    let c = x.cols();
    gain.expect("layernorm", "gain", &[c])?;
    bias.expect("layernorm", "bias", &[c])?;
    let mut y = x.zeros_like();
    let mut stats = vec![(E::ZERO, E::ZERO); x.rows()];
    cpu.for_chunks2(&mut y.data, c, &mut stats, 1, |r, y, st| {
        st[0] =
            cpu.dispatch(Row { y, x: x.row(r), gain: &gain.data, bias: &bias.data, eps: E::from_f64(eps) })
    });
    let (mean, rstd) = stats.into_iter().unzip();
    Ok((y, Stats { mean, rstd }))
}

struct Row<'a, E> {
    y: &'a mut [E],
    x: &'a [E],
    gain: &'a [E],
    bias: &'a [E],
    eps: E,
}
impl<E: Elem> Kernel<E> for Row<'_, E> {
    type Output = (E, E);
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) -> (E, E) {
        let c = E::from_f64(self.x.len() as f64);
        let mean = slice::sum(s, self.x) / c;
        let var = slice::sum_sq_dev(s, self.x, mean) / c;
        let rstd = E::ONE / (var + self.eps).sqrt();
        for i in 0..self.x.len() {
            self.y[i] = (self.x[i] - mean) * rstd * self.gain[i] + self.bias[i];
        }
        (mean, rstd)
    }
}

/// dy `(…, C)` → dx `(…, C)`; `dgain += Σ dy·x̂`, `dbias += Σ dy`.
pub fn backward<E: Elem>(
    cpu: &Cpu,
    dy: &Tensor<E>,
    x: &Tensor<E>,
    gain: &Tensor<E>,
    stats: &Stats<E>,
    dgain: &mut Tensor<E>,
    dbias: &mut Tensor<E>,
) -> Result<Tensor<E>> {
    let c = x.cols();
    dy.expect("layernorm", "dy", x.shape())?;
    dgain.expect("layernorm", "dgain", &[c])?;
    dbias.expect("layernorm", "dbias", &[c])?;
    let mut dx = x.zeros_like();
    let n = E::from_f64(c as f64);
    cpu.for_chunks(&mut dx.data, c, |r, out| {
        let (x, dy, mean, rstd) = (x.row(r), dy.row(r), stats.mean[r], stats.rstd[r]);
        let (mut a, mut b) = (E::ZERO, E::ZERO);
        for i in 0..c {
            let g = dy[i] * gain.data[i];
            a += g;
            b += g * (x[i] - mean) * rstd;
        }
        for i in 0..c {
            let g = dy[i] * gain.data[i];
            out[i] = rstd * (g - a / n - (x[i] - mean) * rstd * b / n);
        }
    });
    for r in 0..x.rows() {
        let (x, dy, mean, rstd) = (x.row(r), dy.row(r), stats.mean[r], stats.rstd[r]);
        for i in 0..c {
            dgain.data[i] += dy[i] * (x[i] - mean) * rstd;
            dbias.data[i] += dy[i];
        }
    }
    Ok(dx)
}
