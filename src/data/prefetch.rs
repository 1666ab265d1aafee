//! Ordered loading on worker threads.
