//! One test binary.

mod count;
mod foreign;
mod pairs;
