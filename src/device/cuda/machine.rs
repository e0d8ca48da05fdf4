//! What carries launches out: memory, kernels, matrix products.

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

/// The numbers of a matrix product: BF16 summed in `f32`, or 8-bit integers summed in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    Bf16,
    Int8,
}

/// `out = x wᵀ`. `x`: (rows, inputs), `w`: (outputs, inputs), `out`: (rows, outputs), all by rows; `out` is BF16, or 32-bit
/// integers.
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

/// Something that has memory of its own and runs kernels, one after the other.
pub trait Machine: Send {
    /// Memory with these bytes, aligned for every kernel. It lasts until it is released.
    fn upload(&mut self, bytes: &[u8]) -> Result<Buffer>;

    /// Memory with anything in it.
    fn blank(&mut self, bytes: usize) -> Result<Buffer>;

    /// What is in memory after everything that was launched.
    fn download(&mut self, buffer: Buffer) -> Result<Vec<u8>>;

    fn launch(&mut self, launch: &Launch) -> Result;

    fn multiply(&mut self, product: &Product) -> Result;

    /// Gives memory back, once what was launched is done with it.
    fn release(&mut self, buffer: Buffer);

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
