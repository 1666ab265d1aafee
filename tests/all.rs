//! The one test binary: ops against f64 references, model against goldens, data, metrics, training, the command line.

mod cli;
mod config;
mod data;
mod encoder;
mod engine;
mod eval;
mod features;
mod files;
mod house;
mod model;
mod models;
mod ops;
mod runtime;
mod support;
mod synthetic;
mod team;
mod train;
mod weights;
