//! Tables, JSON, CSV.
