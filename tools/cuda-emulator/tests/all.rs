//! One test binary.

mod count;
