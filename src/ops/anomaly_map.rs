//! `anomaly_map`.
