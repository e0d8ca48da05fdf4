//! Layers every network is made of.
//!
//! A layer computes in the type of its input: `f32` activations give `f32` arithmetic, BF16 activations give
//! what a graphics card computes (products summed in `f32`, every result rounded to BF16). Networks choose by
//! casting what they are given; no layer knows which network it is in.

mod activation;
mod attention;
mod embedding;
mod linear;
mod norm;
mod rows;

pub use activation::{gelu, gelu_tanh, silu};
pub use attention::attention;
pub use embedding::Embedding;
pub use linear::{Input, Linear, LinearOnCard, Scratch, Spread, Then};
pub use norm::{LayerNorm, RmsNorm, modulated_norm, modulated_row};
pub use rows::{add_gated, each_row, map, map_rows, round_to, with_all, with_slices};
