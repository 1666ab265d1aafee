//! One test binary.

mod count;
mod exact;
mod round;
mod foreign;
mod pairs;
