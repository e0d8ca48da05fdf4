//! The kernels of graphics cards without a card: their own sources, acted out on the processor (`kernels/host.h`).

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod agreement;
mod host;
mod ptxas;
mod safety;
