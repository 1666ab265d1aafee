//! `inp_extract`.
