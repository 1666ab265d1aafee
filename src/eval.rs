//! Metrics and reports.

pub mod heatmap;
pub mod metrics;
pub mod report;
