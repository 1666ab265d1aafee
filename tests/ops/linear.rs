//! `linear`.
