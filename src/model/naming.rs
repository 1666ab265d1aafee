//! Official, timm and Hugging Face names to the published ones.
