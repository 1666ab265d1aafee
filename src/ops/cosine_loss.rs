//! `cosine_loss`.
