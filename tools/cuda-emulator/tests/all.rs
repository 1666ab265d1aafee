//! One test binary.

mod count;
mod exact;
mod round;
mod flow;
mod foreign;
mod pairs;
