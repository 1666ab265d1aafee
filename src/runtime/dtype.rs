//! The element types that CUDA kernels multiply in, as bytes on the device.

use crate::error::{Error, Result};
use half::{bf16, f16};

/// What a kernel's operands are stored as (E in the kernels' comments); sums are f32 in every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 8 bits of mantissa, the range of f32.
    Bf16,
    /// 11 bits of mantissa, up to 65504.
    F16,
    /// f32 in memory with 11 bits of mantissa: for checking the other two.
    Tf32,
}

impl DType {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::Tf32];

    /// As kernels' names end.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Tf32 => "tf32",
        }
    }
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::Tf32 => 4,
        }
    }
    /// Elements in 16 bytes: what rows must be multiples of.
    pub fn vector(self) -> usize {
        16 / self.bytes()
    }
    /// Half the distance from 1 to the next number: the largest relative error of rounding.
    pub fn epsilon(self) -> f64 {
        match self {
            Self::Bf16 => 1.0 / 256.0,
            Self::F16 | Self::Tf32 => 1.0 / 2048.0,
        }
    }
    /// The nearest element. bf16 and f16: ties to even; tf32: ties away from zero, as `cvt.rna.tf32` does.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::Bf16 => bf16::from_f32(x).to_f32(),
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::Tf32 if x.is_finite() => f32::from_bits((x.to_bits() + 0x1000) & !0x1fff),
            Self::Tf32 => x,
        }
    }
    /// Rounded, as the device holds them.
    pub fn encode(self, x: &[f32]) -> Vec<u8> {
        match self {
            Self::Bf16 => x.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            Self::F16 => x.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Self::Tf32 => x.iter().flat_map(|x| self.round(*x).to_le_bytes()).collect(),
        }
    }
    /// What [`DType::encode`] wrote, or a kernel.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let half = |f: fn([u8; 2]) -> f32| bytes.chunks_exact(2).map(|b| f([b[0], b[1]])).collect();
        match self {
            Self::Bf16 => half(|b| bf16::from_le_bytes(b).to_f32()),
            Self::F16 => half(|b| f16::from_le_bytes(b).to_f32()),
            Self::Tf32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
        }
    }
    /// As [`DType::encode`]. Errors: a finite number that becomes infinite, named by `what`.
    pub fn encode_weights(self, what: &str, x: &[f32]) -> Result<Vec<u8>> {
        match x.iter().find(|x| x.is_finite() && !self.round(**x).is_finite()) {
            Some(x) => Err(Error::usage(format!(
                "{what} holds {x:e}, too large for {}; use --precision bf16",
                self.name()
            ))),
            None => Ok(self.encode(x)),
        }
    }
}

/// What a kernel multiplies in, and what it writes: mostly the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types {
    /// Of weights and of what they are multiplied with.
    pub operands: DType,
    /// Of the result.
    pub outputs: DType,
}

impl From<DType> for Types {
    fn from(dtype: DType) -> Self {
        Self { operands: dtype, outputs: dtype }
    }
}

impl Types {
    /// Outputs of `dtype`, and operands; for bf16 operands in f16 where that holds all of these weights more precisely: unless
    /// one is too large for it or many are too small.
    pub fn finest(dtype: DType, weights: &[&[f32]]) -> Self {
        let error = |d: DType, w: &[f32]| w.iter().map(|x| f64::from(d.round(*x) - x).powi(2)).sum::<f64>();
        let finer =
            dtype == DType::Bf16 && weights.iter().all(|w| error(DType::F16, w) < error(DType::Bf16, w));
        Self { operands: if finer { DType::F16 } else { dtype }, outputs: dtype }
    }
    /// As kernels' names end.
    pub fn name(self) -> String {
        let Self { operands, outputs } = self;
        if operands == outputs {
            operands.name().into()
        } else {
            format!("{}_{}", operands.name(), outputs.name())
        }
    }
}
