//! Tensors on disk: safetensors headers, memory maps, dtypes (fp8 and its scales).
//!
//! Deliberately does not know what a network is.
