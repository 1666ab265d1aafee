//! `layernorm`.
