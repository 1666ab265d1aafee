//! `gelu`.
