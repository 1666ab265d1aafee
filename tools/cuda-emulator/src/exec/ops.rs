//! Instruction families. Each has `decode(&Scope, &Instr) -> Decoded`.

pub mod atomic;
pub mod bits;
pub mod copy;
pub mod cvt;
pub mod float;
pub mod flow;
pub mod formats;
pub mod half;
pub mod int;
mod lanes;
pub mod mbarrier;
pub mod memory;
pub mod mov;
pub mod round;
pub mod select;
pub mod stack;
pub mod sync;
pub mod tensor;
pub mod video;
pub mod warpops;

use super::decode::{Decoded, Scope};
use crate::ptx::ast::Instr;

/// Families in the order asked.
pub const FAMILIES: &[fn(&Scope, &Instr) -> Decoded] = &[
    memory::decode,
    atomic::decode,
    copy::decode,
    mbarrier::decode,
    tensor::decode,
    int::decode,
    flow::decode,
    sync::decode,
    bits::decode,
    mov::decode,
    select::decode,
    half::decode,
    float::decode,
    cvt::decode,
    warpops::decode,
    video::decode,
    stack::decode,
];
