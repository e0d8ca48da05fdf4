//! Networks and their files, against recorded tensors.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/golden.rs"]
mod golden;
#[path = "../support/safetensors.rs"]
mod safetensors;
#[path = "../support/tiny_kin.rs"]
mod tiny_kin;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;
#[path = "../support/tiny_qwen3.rs"]
mod tiny_qwen3;
#[path = "../support/tiny_qwen_21.rs"]
mod tiny_qwen_21;

mod adapters;
mod allocations;
mod bf16;
mod eight_bits;
mod layered;
mod pictures;
mod qwen3_vl;
mod qwen_image;
mod qwen_image_21;
mod qwen_image_21_vae;
mod switching;
mod text;
mod text_generation;
mod text_tokens;
mod vae;
mod weights;

/// How far everything is from what was recorded, after tests that ran with `COMFYD_GOLDENS` naming a file:
///
/// ```sh
/// export COMFYD_GOLDENS=/tmp/goldens.tsv
/// cargo test --test models --test sampling --test workflows
/// cargo test --test models -- --ignored --nocapture the_table_of_goldens
/// ```
#[test]
#[ignore = "needs what other tests wrote"]
fn the_table_of_goldens() {
    println!("{}", golden::table());
}
