//! `inp_attention`.
