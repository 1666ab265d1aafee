//! A contiguous row-major tensor in host memory: a shape and its elements, nothing else.

use crate::error::{Error, Result};
use crate::runtime::simd::Elem;

/// Contiguous, row-major, slowest axis first. `f32` in production, `f64` where tests check gradients.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tensor<E: Elem = f32> {
    shape: Vec<usize>,
    /// The elements, `shape().iter().product()` of them.
    pub data: Vec<E>,
}

impl<E: Elem> Tensor<E> {
    /// All zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), data: vec![E::ZERO; shape.iter().product()] }
    }
    /// Takes the elements as they are; panics when the count does not match (a bug, never a user's input).
    pub fn new(shape: &[usize], data: Vec<E>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "Tensor::new: shape {shape:?}");
        Self { shape: shape.to_vec(), data }
    }
    /// Of this shape, but without elements yet: a sum that its first addend makes, `ops::linear::gemm::add`.
    pub fn unset(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), data: Vec::new() }
    }
    /// The same shape, all zeros.
    pub fn zeros_like(&self) -> Self {
        Self::zeros(&self.shape)
    }
    /// Sizes of the axes, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
    /// Size of the fastest axis (1 for a scalar).
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
    /// Product of all axes but the fastest.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }
    /// One row: the slice at `i` along all axes but the fastest.
    pub fn row(&self, i: usize) -> &[E] {
        let c = self.cols();
        &self.data[i * c..(i + 1) * c]
    }
    /// The `i`-th slice along the slowest axis.
    pub fn slab(&self, i: usize) -> &[E] {
        let n = self.data.len() / self.shape[0];
        &self.data[i * n..(i + 1) * n]
    }
    /// The same elements under another shape.
    pub fn reshaped(mut self, shape: &[usize]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), self.data.len(), "Tensor::reshaped: {shape:?}");
        self.shape = shape.to_vec();
        self
    }
    /// Element-wise conversion (through f64, exact from f32).
    pub fn cast<F: Elem>(&self) -> Tensor<F> {
        Tensor {
            shape: self.shape.clone(),
            data: self.data.iter().map(|x| F::from_f64(x.to_f64())).collect(),
        }
    }
    /// Checks the shape at an op's border; `wanted` may hold `usize::MAX` for "any".
    pub fn expect(&self, op: &'static str, tensor: &'static str, wanted: &[usize]) -> Result<()> {
        let fits = self.shape.len() == wanted.len()
            && self.shape.iter().zip(wanted).all(|(a, b)| *b == usize::MAX || a == b);
        if fits {
            return Ok(());
        }
        let wanted: Vec<String> =
            wanted.iter().map(|w| if *w == usize::MAX { "_".into() } else { w.to_string() }).collect();
        Err(Error::Shape {
            op,
            tensor,
            wanted: format!("({})", wanted.join(", ")),
            got: format!("{:?}", self.shape).replace('[', "(").replace(']', ")"),
        })
    }
}
