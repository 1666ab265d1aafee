//! Scoring pictures: what `score`, `eval` and programs use.

pub mod score;

pub use score::{Options, Scorer, Verdict};
