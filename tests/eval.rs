//! Metrics against goldens and brute force; reports; pictures; files that are whole or not there.

mod files;
mod heatmap;
mod metrics;
mod report;
