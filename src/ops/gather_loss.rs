//! `gather_loss`.
