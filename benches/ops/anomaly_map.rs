//! `anomaly_map`.
pub fn all(_c: &mut criterion::Criterion) {}
