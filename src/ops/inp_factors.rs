//! What every decoder block needs of an image's prototypes: scaled keys, VW, VA and the Gram matrix of its middle's rows.
//! On the CPU this is part of `engine::forward`.

pub mod cuda;
