//! The fast scorer.
