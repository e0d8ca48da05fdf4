//! Arithmetic on slices of main memory: what the tensor library has not, or not fast enough.
//!
//! Every operation is a safe function; this is the only place besides the file maps that needs `unsafe`.

mod bf16;
mod conv;
mod exp;
mod gemm;
mod softmax;
mod vectorised;

pub use bf16::{Left, Unit, multiply_bf16};
pub use conv::{PlaneConv, Resize, Term};
pub use exp::exp;
pub use gemm::{Matrix, MatrixMut, Threads, gemm};
pub use softmax::Softmax;
pub use vectorised::vectorised;
