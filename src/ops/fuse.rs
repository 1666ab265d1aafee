//! Element-wise means and weighted sums of feature maps, and dropping the class and register tokens.

use crate::error::{Error, Result};
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Elements handled by one task.
const CHUNK: usize = 4 * 1024;

/// Parts of one shape → their element-wise mean, added in the order given, then divided.
pub fn mean<E: Elem>(cpu: &Cpu, parts: &[&Tensor<E>]) -> Result<Tensor<E>> {
    let ones: Vec<_> = parts.iter().map(|&p| (E::ONE, p)).collect();
    combine(cpu, &ones, Some(E::from_f64(parts.len() as f64)))
}

/// Parts of one shape and their weights → `Σ wᵢ·xᵢ`, added in the order given.
pub fn weighted<E: Elem>(cpu: &Cpu, parts: &[(E, &Tensor<E>)]) -> Result<Tensor<E>> {
    combine(cpu, parts, None)
}

fn combine<E: Elem>(cpu: &Cpu, parts: &[(E, &Tensor<E>)], divisor: Option<E>) -> Result<Tensor<E>> {
    let (_, first) = parts.first().ok_or_else(|| Error::usage("fuse: there is no feature map to fuse"))?;
    for (_, p) in parts {
        p.expect("fuse", "part", first.shape())?;
    }
    let y = cpu.make_chunks(first.len(), CHUNK, |i, y| {
        cpu.dispatch(Combine { y, parts, first: i * CHUNK, divisor });
    });
    Ok(Tensor::new(first.shape(), y))
}

struct Combine<'a, E: Elem> {
    y: &'a mut [E],
    parts: &'a [(E, &'a Tensor<E>)],
    first: usize,
    divisor: Option<E>,
}
impl<E: Elem> Kernel<E> for Combine<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { y, parts, first, divisor } = self;
        for (w, p) in parts {
            slice::axpy(s, y, *w, &p.data[first..first + y.len()]);
        }
        if let Some(n) = divisor {
            let n = s.splat(n);
            slice::map(s, y, |y| s.div(y, n));
        }
    }
}

/// x `(B, T, C)` → `(B, T - prefix, C)`: the patch tokens, without the first `prefix`.
pub fn drop_prefix<E: Elem>(cpu: &Cpu, x: &Tensor<E>, prefix: usize) -> Result<Tensor<E>> {
    x.expect("fuse", "x", &[usize::MAX; 3])?;
    let (b, t, c) = (x.shape()[0], x.shape()[1], x.cols());
    if t <= prefix {
        return Err(Error::Shape {
            op: "fuse",
            tensor: "x",
            wanted: format!("(B, more than {prefix} tokens, C)"),
            got: format!("({b}, {t}, {c})"),
        });
    }
    let n = t - prefix;
    let y = cpu.make_chunks(b * n * c, c, |i, y| y.copy_from_slice(x.row(i / n * t + prefix + i % n)));
    Ok(Tensor::new(&[b, n, c], y))
}

/// `y += x`. Where x is smaller it is repeated along y's slowest axes: y `(B, P, C)`, x `(P, C)`.
pub fn add<E: Elem>(cpu: &Cpu, y: &mut Tensor<E>, x: &Tensor<E>) -> Result<()> {
    add_rows(cpu, y, x, None)
}

/// `y += scale ∘ x`, row by row: y and x `(…, C)`, scale `(C)`.
pub fn add_scaled<E: Elem>(cpu: &Cpu, y: &mut Tensor<E>, x: &Tensor<E>, scale: &Tensor<E>) -> Result<()> {
    scale.expect("fuse", "scale", &[y.cols()])?;
    add_rows(cpu, y, x, Some(&scale.data))
}

fn add_rows<E: Elem>(cpu: &Cpu, y: &mut Tensor<E>, x: &Tensor<E>, scale: Option<&[E]>) -> Result<()> {
    if x.is_empty() || !y.len().is_multiple_of(x.len()) || y.cols() != x.cols() {
        return Err(Error::Shape {
            op: "fuse",
            tensor: "x",
            wanted: format!("a shape that repeats to {:?}", y.shape()),
            got: format!("{:?}", x.shape()),
        });
    }
    let c = y.cols();
    let rows = CHUNK.div_ceil(c);
    cpu.for_chunks(&mut y.data, rows * c, |i, y| cpu.dispatch(AddRows { y, x, first: i * rows, scale }));
    Ok(())
}

/// Rows `first..` of `y += scale ∘ x`, x repeated.
struct AddRows<'a, E: Elem> {
    y: &'a mut [E],
    x: &'a Tensor<E>,
    first: usize,
    scale: Option<&'a [E]>,
}
impl<E: Elem> Kernel<E> for AddRows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let (c, n) = (self.x.cols(), self.x.rows());
        for (r, y) in self.y.chunks_mut(c).enumerate() {
            let x = self.x.row((self.first + r) % n);
            match self.scale {
                Some(scale) => slice::zip2(s, y, x, scale, |y, x, g| s.fma(x, g, y)),
                None => slice::add(s, y, x),
            }
        }
    }
}
