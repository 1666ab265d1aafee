//! Instruction families. Each has `decode(&Scope, &Instr) -> Decoded`.

pub mod atomic;
pub mod copy;
pub mod mbarrier;
pub mod memory;
pub mod tensor;

use super::decode::{Decoded, Scope};
use crate::ptx::ast::Instr;

/// Families in the order asked.
pub const FAMILIES: &[fn(&Scope, &Instr) -> Decoded] =
    &[memory::decode, atomic::decode, copy::decode, mbarrier::decode, tensor::decode];
