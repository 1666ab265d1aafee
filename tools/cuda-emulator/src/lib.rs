//! A software CUDA driver: parses PTX, runs it on the CPU, checks it as a sanitizer would and counts what a profiler
//! would. See the README for what it can and cannot show.
#![warn(missing_docs)]

pub mod check;
pub mod count;
pub mod driver;
pub mod error;
pub mod exec;
pub mod fatbin;
pub mod gpu;
pub mod memory;
pub mod options;
pub mod ptx;
pub mod roofline;
pub mod run;
pub mod switch;
