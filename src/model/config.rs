//! What a model file says of its shape.
