//! One test binary.

mod alu;
mod copy;
mod count;
mod coverage;
mod cvt;
mod driver;
mod exact;
mod fatbin;
mod float;
mod flow;
mod foreign;
mod forms;
mod fuzz;
mod half;
mod int;
mod mbarrier;
mod memory_ops;
mod pairs;
mod parse;
mod round;
mod select;
mod sparse;
mod syntax;
mod tensor;
mod video;
mod warpops;
