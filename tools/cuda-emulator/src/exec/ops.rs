//! Instruction families. Each has `decode(&Scope, &Instr) -> Decoded`.

pub mod copy;

use super::decode::{Decoded, Scope};
use crate::ptx::ast::Instr;

/// Families in the order asked.
pub const FAMILIES: &[fn(&Scope, &Instr) -> Decoded] = &[];
