//! Data-set layouts: MVTec-AD, VisA, Real-IAD, plain folders.
