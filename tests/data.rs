//! Pictures, data sets, few-shot views.
