//! PTX text to a module of kernels, functions and variables. Source: PTX ISA.

pub mod ast;
