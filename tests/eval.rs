//! Metrics and reports.
