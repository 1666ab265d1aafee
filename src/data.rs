//! Pictures, data sets, loading.

pub mod dataset;
pub mod image;
pub mod prefetch;
pub mod synthetic;
pub mod views;
