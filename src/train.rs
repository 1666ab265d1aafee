//! Training: loss and first gradients, one step, schedule, checkpoints, the loop.

pub mod backbone;
pub mod checkpoint;
pub mod features;
pub mod folded;
pub mod init;
pub mod run;
pub mod schedule;
pub mod step;

pub use backbone::Backbone;
