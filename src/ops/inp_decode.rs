//! The MLP of a decoder block in low-rank form. On the CPU this is part of `engine::forward`.

pub mod cuda;
