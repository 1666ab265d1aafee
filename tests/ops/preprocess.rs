//! `preprocess`.
