//! Weight files and namings.
