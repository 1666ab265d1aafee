//! The plain model: what the paper says.

pub mod config;
pub mod naming;
pub mod params;
