//! `layernorm`.
pub fn all(_c: &mut criterion::Criterion) {}
