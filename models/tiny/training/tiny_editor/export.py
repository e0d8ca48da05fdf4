"""Stage 5: the checkpoints as the three files of Qwen-Image-Edit's layout, compressed for the server."""

import torch
import zstandard
from safetensors.torch import save

from . import paths, tokens
from .autoencoder import LATENT, MEAN, STD, Down, Up
from .latent_space import LatentSpace
from .train_editor import models
from .progress import Stage

F8, BF16 = torch.float8_e4m3fn, torch.bfloat16
LARGEST_F8 = 448
# The vision tower of the layout, as narrow as its heads allow; all zeros but its last bias.
VISION = 80
FILES = {"diffusion_models": "tiny_edit_diffusion_fp8_e4m3fn", "text_encoders": "tiny_edit_text_encoder_fp8_scaled",
         "vae": "tiny_edit_vae"}


def f8(tensor):
    return tensor.clamp(-LARGEST_F8, LARGEST_F8).to(F8).contiguous()


def transformer_file(transformer):
    return {name: f8(tensor) for name, tensor in transformer.state_dict().items()}


def scaled(name, matrix):
    scale = (matrix.abs().max() / LARGEST_F8).clamp_min(1e-12).float()
    return {f"{name}.weight": f8(matrix / scale), f"{name}.scale_weight": scale.clone(),
            f"{name}.scale_input": torch.tensor(1.0)}


def text_encoder_file(encoder, vocabulary):
    state, width = encoder.state_dict(), encoder.picture.shape[0]
    rows = torch.zeros(tokens.ROWS, width)
    known = list(vocabulary.of_token)
    rows[known] = state["embed.weight"][[vocabulary.of_token[i] for i in known]]
    file = {"model.embed_tokens.weight": rows.to(BF16), "model.norm.weight": state["norm.weight"].to(BF16),
            "scaled_fp8": torch.empty(0, dtype=F8)}
    for name, tensor in state.items():
        if name.startswith("layers."):
            if name.endswith(("norm.weight", ".bias")):
                file[f"model.{name}"] = tensor.to(BF16)
            else:
                file |= scaled(f"model.{name}".removesuffix(".weight"), tensor)
    return file | vision_file(encoder.picture.detach())


def vision_file(picture):
    block, merger, width = "visual.blocks.0.", "visual.merger.", picture.shape[0]
    file = {"visual.patch_embed.proj.weight": torch.zeros(VISION, 3, 2, 14, 14, dtype=BF16),
            f"{block}norm1.weight": torch.ones(VISION, dtype=BF16),
            f"{block}norm2.weight": torch.ones(VISION, dtype=BF16),
            f"{merger}ln_q.weight": torch.ones(VISION, dtype=BF16),
            f"{merger}mlp.0.bias": torch.zeros(4 * VISION, dtype=BF16), f"{merger}mlp.2.bias": picture.to(BF16)}
    shapes = {"attn.qkv": (3 * VISION, VISION), "attn.proj": (VISION, VISION), "mlp.gate_proj": (VISION, VISION),
              "mlp.up_proj": (VISION, VISION), "mlp.down_proj": (VISION, VISION)}
    for name, shape in shapes.items():
        file |= scaled(block + name, torch.zeros(shape))
        file[f"{block}{name}.bias"] = torch.zeros(shape[0], dtype=BF16)
    file |= scaled(f"{merger}mlp.0", torch.zeros(4 * VISION, 4 * VISION))
    return file | scaled(f"{merger}mlp.2", torch.zeros(width, 4 * VISION))


def autoencoder_file(space):
    """Three-dimensional kernels with the data in the last tap, attention off, the white space folded in."""
    model, file = space.autoencoder, {}
    for name, tensor in folded(space).items():
        if name.endswith("gamma"):
            tensor = tensor.reshape(-1, 1, 1, 1)
        elif tensor.dim() == 4 and ".resample.1." not in name:
            taps = torch.zeros(*tensor.shape[:2], tensor.shape[-1], *tensor.shape[2:])
            taps[:, :, -1] = tensor
            tensor = taps
        file[name] = tensor
    for side, layers, kind, factor in (("encoder.downsamples", model.encoder.downsamples, Down, 1),
                                       ("decoder.upsamples", model.decoder.upsamples, Up, 2)):
        at = [i for i, layer in enumerate(layers) if isinstance(layer, kind)]
        for i in at[1:] if kind is Down else at[:2]:
            channels = file[f"{side}.{i}.resample.1.weight"].shape[1]
            file[f"{side}.{i}.time_conv.weight"] = torch.zeros(factor * channels, channels, 3, 1, 1)
            file[f"{side}.{i}.time_conv.bias"] = torch.zeros(factor * channels)
    top = model.encoder.conv1.weight.shape[0] * 4
    for side in ("encoder", "decoder"):
        middle = f"{side}.middle.1."
        file |= {middle + "norm.gamma": torch.ones(top, 1, 1), middle + "to_qkv.weight": torch.zeros(3 * top, top, 1, 1),
                 middle + "to_qkv.bias": torch.zeros(3 * top), middle + "proj.weight": torch.zeros(top, top, 1, 1),
                 middle + "proj.bias": torch.zeros(top)}
    return {name: tensor.to(BF16).contiguous() for name, tensor in file.items()}


def folded(space):
    """The server divides by STD after subtracting MEAN; what it gets must be the white latent then."""
    state = {name: tensor.float().clone() for name, tensor in space.autoencoder.state_dict().items()}
    weight, bias = state["conv1.weight"][:LATENT, :, 0, 0].clone(), state["conv1.bias"][:LATENT].clone()
    state["conv1.weight"].zero_()
    state["conv1.bias"].zero_()
    state["conv1.weight"][:LATENT, :, 0, 0] = torch.diag(STD) @ space.matrix @ weight
    state["conv1.bias"][:LATENT] = STD * (space.matrix @ (bias - space.mean)) + MEAN
    weight, bias = state["conv2.weight"][:, :, 0, 0].clone(), state["conv2.bias"].clone()
    state["conv2.weight"][:, :, 0, 0] = weight @ space.inverse @ torch.diag(1 / STD)
    state["conv2.bias"] = bias + weight @ (space.mean - space.inverse @ (MEAN / STD))
    return state


@torch.no_grad()
def export(target=paths.MODELS):
    vocabulary, space = tokens.Vocabulary(), LatentSpace()
    encoder, transformer = models(vocabulary)
    Stage("editor", 1).resume(encoder=encoder, transformer=transformer, space=space)
    made = {"diffusion_models": transformer_file(transformer), "text_encoders": text_encoder_file(encoder, vocabulary),
            "vae": autoencoder_file(space)}
    for folder, tensors in made.items():
        raw = save(tensors)
        packed = zstandard.ZstdCompressor(level=19).compress(raw)
        path = target / folder / f"{FILES[folder]}.safetensors.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed)
        print(f"{path.name}: {len(raw) / 1e6:.1f} MB, packed {len(packed) / 1e6:.2f} MB")
