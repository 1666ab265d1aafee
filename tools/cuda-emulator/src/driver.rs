//! The CUDA driver API as cudarc 0.19.10 uses it. Only this module exports C symbols.
