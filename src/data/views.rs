//! The 22 few-shot views.
