//! The one test binary: ops against f64 references, model against goldens, data, metrics, training, the command line.

mod cli;
mod config;
mod data;
mod encoder;
mod eval;
mod features;
mod files;
mod house;
mod model;
mod models;
mod ops;
mod support;
mod synthetic;
mod train;
mod weights;
