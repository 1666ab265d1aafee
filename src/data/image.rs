//! Picture files to RGB8, as PIL decodes and converts them.
