"""ComfyUI's modules at full width, timed one call at a time for `cargo bench --bench model`.

Started with the folder of ComfyUI in `COMFYUI`. Reads lines `CASE PRECISION` from standard input, runs the case once,
and answers with the seconds it took. The first run of a case builds it and is answered as well; whoever asks throws it
away. Weights are random: of fp8 files as ComfyUI keeps them (fp8, cast in every call), of the VAE as its loader does.
"""

import os
import sys
import time

sys.path.insert(0, os.environ["COMFYUI"])
sys.argv = sys.argv[:1] + ["--cpu"]

import torch

import comfy.options

comfy.options.enable_args_parsing()
torch.set_num_threads(int(os.environ.get("THREADS", os.cpu_count())))

import comfy.ops

FP8 = torch.float8_e4m3fn
PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16}
WIDTH = 3072


def random_weights(module, scale=0.02):
    """Fills what ComfyUI leaves empty; normal numbers, so that nothing is subnormal."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * scale
        parameter.data = noise.to(parameter.dtype)
        parameter.requires_grad_(False)
    return module


def block(precision, kept=FP8):
    from comfy.ldm.qwen_image.model import QwenImageTransformerBlock

    dtype = PRECISIONS[precision]
    module = QwenImageTransformerBlock(
        dim=WIDTH,
        num_attention_heads=24,
        attention_head_dim=128,
        dtype=kept or dtype,
        device="cpu",
        operations=comfy.ops.manual_cast,
    )
    random_weights(module)
    image = torch.randn(1, 1024, WIDTH).to(dtype)
    text = torch.randn(1, 64, WIDTH).to(dtype)
    time_embedding = torch.randn(1, WIDTH).to(dtype)
    angles = torch.rand(1, 1088, 1, 64) * 6.28
    rotations = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1)
    rotations = rotations.reshape(1, 1088, 1, 64, 2, 2).to(dtype)
    return lambda: module(image, text, None, time_embedding, rotations)


def vae(precision):
    from comfy.ldm.wan.vae import WanVAE

    dtype = PRECISIONS[precision]
    module = WanVAE(dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
                    temperal_downsample=[False, True, True], dropout=0.0)
    return random_weights(module).to(dtype), dtype


def decode(precision):
    module, dtype = vae(precision)
    latent = torch.randn(1, 16, 1, 64, 64).to(dtype)
    return lambda: module.decode(latent)


def encode(precision):
    module, dtype = vae(precision)
    pixels = torch.rand(1, 3, 1, 512, 512).to(dtype) * 2 - 1
    return lambda: module.encode(pixels)


def scaled_fp8(dtype):
    """How ComfyUI opens files of scaled fp8."""
    return comfy.ops.scaled_fp8_ops(fp8_matrix_mult=False, scale_input=False, override_dtype=FP8)


def language(precision):
    from comfy.text_encoders.llama import Llama2_, Qwen25_7BVLI_Config

    dtype = PRECISIONS[precision]
    config = Qwen25_7BVLI_Config(num_hidden_layers=4, vocab_size=8)
    module = random_weights(Llama2_(config, device="cpu", dtype=dtype, ops=scaled_fp8(dtype)))
    x = torch.randn(1, 300, 3584).to(dtype)
    return lambda: module(None, embeds=x.clone(), dtype=dtype)


def vision(precision):
    from comfy.text_encoders.qwen_vl import Qwen2VLVisionTransformer

    dtype = PRECISIONS[precision]
    module = Qwen2VLVisionTransformer(hidden_size=1280, output_hidden_size=3584, num_layers=8, device="cpu",
                                      dtype=dtype, ops=scaled_fp8(dtype))
    random_weights(module)
    patches = torch.randn(784, 1176).to(dtype)
    grid = torch.tensor([[1, 28, 28]])
    return lambda: module(patches, grid)


CASES = {
    "block": block,
    "block-resident": lambda precision: block(precision, None),
    "decode": decode,
    "encode": encode,
    "language": language,
    "vision": vision,
}


@torch.inference_mode()
def main():
    built = {}
    print("ready", flush=True)
    for line in sys.stdin:
        case, precision = line.split()
        if (case, precision) not in built:
            if not any(name.split("-")[0] == case.split("-")[0] for name, _ in built):
                built.clear()
            built[case, precision] = CASES[case](precision)
        run = built[case, precision]
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


main()
