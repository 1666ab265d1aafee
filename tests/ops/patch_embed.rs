//! `patch_embed`.
