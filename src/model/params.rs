//! Typed weights.
