//! Metrics against goldens and brute force; reports; pictures.

mod heatmap;
mod metrics;
mod report;
