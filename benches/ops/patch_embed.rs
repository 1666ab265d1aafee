//! `patch_embed`.
pub fn all(_c: &mut criterion::Criterion) {}
