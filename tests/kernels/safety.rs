//! The net itself: what the processor notices that a card would not tell.

use comfyd::device::cuda::Result;
use comfyd::device::cuda::launch::{self, Argument, Kernel, Launch, Size};
use comfyd::device::cuda::machine::{Buffer, Machine as _, f32_values};

use crate::host::{Against, Host};

const SIZE: Size = Size { rows: 5, width: 33 };

/// Adds a bias to a matrix; `change` spoils the arguments before.
fn biased(against: Against, shift: i64, size: Size) -> Result {
    let mut host = Host::new(against, 0);
    let x = host.upload(&vec![0; 2 * SIZE.rows * SIZE.width])?;
    let bias = host.upload(&[0x3f; 2 * SIZE.width])?;
    let moved = Buffer { at: launch::Address(x.at.0.wrapping_add_signed(shift)), ..x };
    host.launch(&launch::add_bias(moved.at, bias.at, size))
}

fn told<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn what_is_in_range_passes() {
    biased(Against::End, 0, SIZE).unwrap();
    biased(Against::Start, 0, SIZE).unwrap();
}

#[test]
fn memory_before_and_after_a_buffer_is_out_of_range() {
    let far = told(biased(Against::End, 0, Size { rows: 6, ..SIZE }));
    assert!(far.starts_with("add_bias: memory out of range at 0x"), "{far}");
    let before = told(biased(Against::Start, -2, SIZE));
    assert!(before.starts_with("add_bias: memory out of range at 0x"), "{before}");
}

#[test]
fn a_few_bytes_too_far_are_noticed() {
    // The buffer ends 22 bytes before its page does.
    assert_eq!(told(biased(Against::End, 2, SIZE)), "add_bias: something beside a buffer was written");
}

#[test]
fn shared_memory_has_an_end() {
    let mut host = Host::new(Against::End, 0);
    let x = host.upload(&[0; 2 * 40]).unwrap();
    let mut launch = launch::rms_norm(x.at, x.at, x.at, Size { rows: 1, width: 40 }, 1e-6);
    launch.kernel.shared_bytes = 16;
    let told = host.launch(&launch).unwrap_err().to_string();
    assert!(told.starts_with("rms_norm: memory out of range at 0x"), "{told}");
}

#[test]
fn arguments_have_to_be_the_kernels() {
    let mut host = Host::new(Against::End, 0);
    let x = host.upload(&[0; 64]).unwrap();
    let mut launch = launch::add_bias(x.at, x.at, Size { rows: 1, width: 8 });
    launch.arguments[2] = Argument::Count(1);
    assert_eq!(told(host.launch(&launch)), "add_bias: an argument has another size in the kernel");
    launch.arguments.pop();
    assert_eq!(told(host.launch(&launch)), "add_bias: the kernel takes another number of arguments");
}

/// What a kernel of `spoilt.cu` makes of zeros.
fn spoilt(name: &'static str, order: u32) -> Result<Vec<f32>> {
    let kernel = Kernel { name, source: "spoilt", threads: 64, shared_bytes: 64 * 16 };
    let mut host = Host::spoilt(order);
    let out = host.upload(&[0; 64 * 16])?;
    host.launch(&Launch { kernel, grid: [1, 1, 1], arguments: vec![out.at.into()] })?;
    host.download(out).map(|bytes| f32_values(&bytes))
}

#[test]
fn a_missing_barrier_shows_in_the_order_of_threads() {
    let [forwards, backwards] = [0, 1].map(|order| spoilt("without_barrier", order).unwrap());
    assert!(forwards.iter().zip(&backwards).any(|(a, b)| a.to_bits() != b.to_bits()));
}

#[test]
fn threads_that_wait_for_ever_are_noticed() {
    assert_eq!(told(spoilt("without_all", 0)), "without_all: some threads wait for others that do not come");
}

#[test]
fn a_copy_arrives_no_sooner_than_it_is_waited_for() {
    assert!(spoilt("without_waiting", 0).unwrap()[0].is_nan());
}
