//! The decoder's attention to the prototypes, down to its coefficients. On the CPU this is part of `engine::forward`.

pub mod cuda;
