//! Arithmetic on slices of main memory: what the tensor library has not, or not fast enough.
//!
//! Every operation is a safe function; this is the only place besides the file maps that needs `unsafe`.

mod attention;
mod bf16;
mod codes;
mod conv;
mod exp;
mod gemm;
mod memory;
mod softmax;
mod vectorised;

pub use attention::{Attention, Heads};
pub use bf16::{Factor, Finish, LaidOut, Numbers, UNDIVIDED, Unit, multiply};
pub use codes::{Table, look_up};
pub use conv::{PlaneConv, Resize, Term};
pub use exp::exp;
pub use gemm::{Matrix, MatrixMut, Threads, gemm, matmul};
pub use memory::{lengthen, sized, zeros};
pub use softmax::Softmax;
#[cfg(target_arch = "x86_64")]
pub use vectorised::has_avx512;
pub(crate) use vectorised::vectorised;
