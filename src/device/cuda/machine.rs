//! What carries launches out: memory, kernels, matrix products, and copies beside them.

use std::any::Any;
use std::sync::Arc;

use half::bf16;

use super::Result;
use super::launch::{Address, Launch};

/// A piece of a machine's memory.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub at: Address,
    pub bytes: usize,
}

impl Buffer {
    /// The address of element `index`, of so many bytes each.
    pub fn element(self, index: usize, width_bytes: usize) -> Address {
        Address(self.at.0 + (index * width_bytes) as u64)
    }
}

/// The numbers of a matrix product: BF16 summed in `f32`, or 8-bit integers summed in 32 bits. Sums of BF16 are rounded
/// to BF16, or left as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    Bf16,
    Bf16Sums,
    Int8,
}

/// `out = x wᵀ`. `x`: (rows, inputs), `w`: (outputs, inputs), `out`: (rows, outputs), all by rows; `out` is BF16, `f32`,
/// or 32-bit integers.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub numbers: Numbers,
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub x: Address,
    pub w: Address,
    pub out: Address,
}

/// A point in the order of launches, or of copies.
#[derive(Clone)]
pub struct Mark(pub Arc<dyn Any + Send + Sync>);

/// Copies to a machine's memory, one after the other, beside the launches. The two orders meet at marks only.
pub trait Way: Send {
    /// What is copied from now on begins when launches have come to a mark.
    fn wait(&mut self, mark: &Mark) -> Result;

    /// Copies bytes, which may change as soon as this returns.
    fn copy(&mut self, bytes: &[u8], to: Address) -> Result;

    /// A mark after everything that was copied.
    fn mark(&mut self) -> Result<Mark>;
}

/// Something that has memory of its own and runs kernels, one after the other.
pub trait Machine: Send {
    /// Memory with these bytes, aligned for every kernel. It lasts until it is released.
    fn upload(&mut self, bytes: &[u8]) -> Result<Buffer>;

    /// Memory with anything in it. Launches before this may still use it.
    fn blank(&mut self, bytes: usize) -> Result<Buffer>;

    /// What is in memory after everything that was launched.
    fn download(&mut self, buffer: Buffer) -> Result<Vec<u8>>;

    fn launch(&mut self, launch: &Launch) -> Result;

    fn multiply(&mut self, product: &Product) -> Result;

    /// Gives memory back, once what was launched is done with it.
    fn release(&mut self, buffer: Buffer);

    /// A way to its memory.
    fn way(&mut self) -> Result<Box<dyn Way>>;

    /// A mark after everything that was launched.
    fn mark(&mut self) -> Result<Mark>;

    /// What is launched from now on begins when copies have come to a mark.
    fn wait(&mut self, mark: &Mark) -> Result;

    /// Gives all memory back, when everything is done.
    fn clear(&mut self) -> Result;
}

/// The bytes of numbers.
pub fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The numbers of bytes.
pub fn bf16_values(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().map(|number| bf16::from_le_bytes(*number).to_f32()).collect()
}

pub fn f32_values(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()
}
