//! After the first step, steps of a run ask for next to no memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use candle_core::{Device, Tensor};
use comfyd::model::diffusion::Options;
use comfyd::model::{Cond, Diffusion as _};
use comfyd::stop::Stop;

use crate::{qwen_image, tiny_qwen};

/// Counts allocations of at least so many bytes that a thread asks for.
struct Counter;

thread_local! {
    static LEAST: Cell<usize> = const { Cell::new(usize::MAX) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTER: Counter = Counter;

fn note(bytes: usize) {
    if LEAST.try_with(Cell::get).is_ok_and(|least| bytes >= least) {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
    }
}

#[expect(unsafe_code, reason = "an allocator that looks on")]
// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[test]
fn blocks_ask_for_their_result_and_nothing_else_of_its_size() {
    const SIDE: usize = 128;
    const TOKENS: usize = SIDE / 2 * SIDE / 2;
    const WIDTH: usize = 256;
    let network = qwen_image::network(tiny_qwen::DIFFUSION_FP8, Options::default());
    let blocks = network.weights().count("transformer_blocks");
    let latent = Tensor::zeros((1, 16, 1, SIDE, SIDE), candle_core::DType::F32, &Device::Cpu).unwrap();
    let cond = Cond::new(Tensor::ones((1, 8, 64), candle_core::DType::F32, &Device::Cpu).unwrap());
    LEAST.set(TOKENS * WIDTH * size_of::<f32>());
    let steps = [0.9, 0.6, 0.3].map(|t| {
        COUNT.set(0);
        drop(network.forward(&latent, t, &[&cond], &Stop::new()).unwrap());
        COUNT.get()
    });
    LEAST.set(usize::MAX);
    // Beside the tokens after each block: those before the first, those after the last norm, and the same laid out.
    assert!(steps[1] <= blocks + 3, "{steps:?} for {blocks} blocks");
    assert_eq!(steps[1], steps[2]);
    assert!(steps[0] > steps[1], "the first step makes room: {steps:?}");
}
