//! One test binary.

mod count;
mod exact;
mod flow;
mod foreign;
mod pairs;
mod round;
