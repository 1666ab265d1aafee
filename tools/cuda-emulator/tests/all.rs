//! One test binary.

mod copy;
mod count;
mod exact;
mod flow;
mod foreign;
mod mbarrier;
mod memory_ops;
mod pairs;
mod round;
mod tensor;
