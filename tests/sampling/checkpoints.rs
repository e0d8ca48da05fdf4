use crate::tiny_qwen;

#[test]
fn the_tiny_checkpoints_are_made_bit_for_bit_from_their_seeds() {
    let names = [tiny_qwen::DIFFUSION_FP8, tiny_qwen::TEXT_ENCODER, tiny_qwen::VAE, tiny_qwen::LORA_UNET];
    for name in names {
        assert!(tiny_qwen::models().join(name).is_file(), "{name} was not written");
    }
}
