//! Scoring pictures: what `score`, `eval` and programs use.

pub mod fold;
pub mod forward;
pub mod score;

pub use score::{Options, Scorer, Verdict};
