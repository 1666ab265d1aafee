//! `inp_extract`.
pub fn all(_c: &mut criterion::Criterion) {}
