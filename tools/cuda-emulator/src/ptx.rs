//! PTX text to a module of kernels, functions and variables. Source: PTX ISA.

pub mod ast;
mod lex;
mod parse;

pub use parse::parse;

/// The newest PTX ISA version whose text this front end was written for.
pub const NEWEST: (u32, u32) = (9, 4);
