//! The autoencoder of Qwen-Image 2.1, against what diffusers 0.42.1 with torch 2.15 (`AutoencoderKLQwenImage21`, F32, on
//! a processor) makes of the same weights and draws: `values/qwen_image_21_vae.safetensors`. The weights are draws of
//! seeds, in the order of the names that `values/qwen_image_21_vae.json` tells with their shapes: all stages as they
//! were published, with 8 channels at full size in the encoder and 12 in the decoder.

use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device, Tensor};
use comfyd::image::Image;
use comfyd::model::vae::{self, Tiling};
use comfyd::model::{self, Compute, Error, Result, Vae, latents};
use comfyd::stop::Stop;
use comfyd::weights::File;

use crate::golden;
use crate::tiny_kin::{self, Tensors, draw};
use crate::{tiny_qwen, tiny_qwen_21};

static EXPECTED: LazyLock<Tensors> = LazyLock::new(|| {
    let path = golden::path("../values/qwen_image_21_vae.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
});

/// As diffusers names them.
static TENSORS: LazyLock<Tensors> = LazyLock::new(tiny_qwen_21::vae);

static VAE: LazyLock<Arc<dyn Vae>> = LazyLock::new(|| load(&TENSORS, Compute::F32).unwrap());

fn file(tensors: &Tensors) -> Arc<File> {
    let folder = tempfile::tempdir().unwrap();
    File::open(tiny_kin::save(folder.path(), "tiny.safetensors", tensors)).unwrap()
}

fn load(tensors: &Tensors, compute: Compute) -> Result<Arc<dyn Vae>> {
    vae::load(file(tensors), compute)
}

/// The same network as ComfyUI's file has it: Wan's names, and kernels with a side for time.
fn as_in_comfyui(tensors: &Tensors) -> Tensors {
    const OF_BLOCKS: [(&str, &str); 5] = [
        ("norm1", "residual.0"),
        ("conv1", "residual.2"),
        ("norm2", "residual.3"),
        ("conv2", "residual.6"),
        ("conv_shortcut", "shortcut"),
    ];
    const OTHERS: [(&str, &str); 13] = [
        ("post_quant_conv", "conv2"),
        ("quant_conv", "conv1"),
        ("conv_in", "conv1"),
        ("mid_block.resnets.0", "middle.0"),
        ("mid_block.attentions.0", "middle.1"),
        ("mid_block.resnets.1", "middle.2"),
        ("norm_out", "head.0"),
        ("conv_out", "head.2"),
        ("down_blocks", "downsamples"),
        ("up_blocks", "upsamples"),
        ("downsampler", "downsamples.2"),
        ("upsampler", "upsamples.3"),
        ("resnets", "?"),
    ];
    let renamed = |(name, tensor): (&String, &Tensor)| {
        let blocks = if name.starts_with("encoder") { "downsamples" } else { "upsamples" };
        let is_plane = ["resample.1", "to_qkv", "proj"].iter().any(|part| name.contains(part));
        let tensor = if tensor.rank() == 4 && name.ends_with(".weight") && !is_plane {
            tensor.unsqueeze(2).unwrap()
        } else {
            tensor.clone()
        };
        let name = OF_BLOCKS.iter().chain(&OTHERS).fold(name.clone(), |name, (ours, theirs)| {
            if name.contains(&format!("{ours}.")) { name.replacen(ours, theirs, 1) } else { name }
        });
        (name.replace('?', blocks), tensor)
    };
    tensors.iter().map(renamed).collect()
}

fn pixels(seed: u64, shape: &[usize]) -> Tensor {
    (draw(seed, shape, 1.0).neg().unwrap().exp().unwrap() + 1.0).unwrap().recip().unwrap()
}

fn encode(pixels: &Tensor) -> Tensor {
    VAE.encode(pixels, &Stop::new()).unwrap()
}

fn decode(latent: &Tensor) -> Tensor {
    VAE.decode(latent, &Stop::new()).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference.
fn far(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let differences = values(found).into_iter().zip(values(expected)).map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(0.0, f64::max)
}

fn assert_close(name: &str, found: &Tensor) {
    let error = far(found, &EXPECTED[name]);
    golden::record("the autoencoder of Qwen-Image 2.1, at most", error, 2e-5);
    assert!(error < 2e-5, "{name} is off by {error:.1e}");
}

#[test]
fn pictures_become_the_recorded_latents() {
    assert_close("four colours encoded", &encode(&pixels(201, &[1, 64, 96, 4])));
    assert_close("three colours encoded", &encode(&pixels(202, &[1, 48, 80, 3])));
    assert_close("odd sides encoded", &encode(&pixels(203, &[1, 70, 101, 4])));
}

#[test]
fn every_picture_of_a_batch_is_encoded_alone() {
    let batch = pixels(204, &[3, 32, 48, 4]);
    assert_close("a batch encoded", &encode(&batch));
    assert!(!VAE.joins_pictures());
}

#[test]
fn latents_become_the_recorded_pictures_with_their_alpha() {
    let decoded = decode(&draw(205, &[1, 64, 1, 4, 6], 1.0));
    assert_close("decoded", &decoded);
    assert_close("a batch decoded", &decode(&draw(206, &[2, 64, 1, 2, 3], 1.0)));
    let again = decode(&encode(&pixels(201, &[1, 64, 96, 4])));
    assert_close("there and back", &again.narrow(1, 0, 32).unwrap().narrow(2, 0, 32).unwrap());
    assert_eq!((VAE.colours(), Image::from_tensor(&decoded).unwrap().picture(0).channels()), (4, 4));
}

#[test]
fn three_colours_are_opaque() {
    let colours = pixels(202, &[1, 48, 80, 3]);
    let opaque = Tensor::ones((1, 48, 80, 1), DType::F32, &Device::Cpu).unwrap();
    let four = Tensor::cat(&[&colours, &opaque], 3).unwrap();
    assert_eq!(values(&encode(&colours)), values(&encode(&four)));
}

#[test]
fn comfyuis_names_are_of_the_same_network() {
    let tensors = as_in_comfyui(&TENSORS);
    let name = |part: &str| tensors.get(part).map(|tensor| tensor.dims().to_vec());
    assert_eq!(name("decoder.upsamples.0.upsamples.0.residual.2.weight"), Some(vec![96, 96, 1, 3, 3]));
    assert_eq!(name("encoder.downsamples.1.downsamples.2.time_conv.weight"), Some(vec![16, 16, 1, 1, 1]));
    let vae = load(&tensors, Compute::F32).unwrap();
    let (picture, latent) = (pixels(201, &[1, 64, 96, 4]), draw(206, &[2, 64, 1, 2, 3], 1.0));
    assert_eq!(values(&vae.encode(&picture, &Stop::new()).unwrap()), values(&encode(&picture)));
    assert_eq!(values(&vae.decode(&latent, &Stop::new()).unwrap()), values(&decode(&latent)));
    for vae in [&vae, &*VAE] {
        assert_eq!(vae.weights().held(None, false).unwrap().len(), TENSORS.len(), "all of it is saved");
    }
}

#[test]
fn other_arithmetic_stays_near() {
    let (picture, latent) = (pixels(201, &[1, 64, 96, 4]), draw(205, &[1, 64, 1, 4, 6], 1.0));
    for compute in [Compute::Fast, Compute::Bf16] {
        let vae = load(&TENSORS, compute).unwrap();
        let encoded = far(&vae.encode(&picture, &Stop::new()).unwrap(), &EXPECTED["four colours encoded"]);
        let decoded = far(&vae.decode(&latent, &Stop::new()).unwrap(), &EXPECTED["decoded"]);
        // diffusers in BF16: 0.035 where it decodes.
        assert!(encoded > 1e-5 && encoded < 0.06, "{compute:?}: {encoded}");
        assert!(decoded > 1e-5 && decoded < 0.05, "{compute:?}: {decoded}");
    }
}

#[test]
fn a_tile_for_all_is_the_whole_and_small_ones_are_near() {
    let (picture, latent) = (pixels(201, &[1, 64, 96, 4]), draw(205, &[1, 64, 1, 4, 6], 1.0));
    let encode_in = |tiling| VAE.encode_tiled(&picture, &tiling, &Stop::new()).unwrap();
    let decode_in = |tiling| VAE.decode_tiled(&latent, &tiling, &Stop::new()).unwrap();
    assert_close("four colours encoded", &encode_in(Tiling::square(96, 32)));
    assert_close("decoded", &decode_in(Tiling::square(6, 2)));
    // A tile sees no further than its border: far from all others its middle is that of the whole.
    let (latent, picture) = (encode_in(Tiling::square(64, 32)), decode_in(Tiling::square(4, 2)));
    assert_eq!((latent.dims(), picture.dims()), (&[1, 64, 1, 4, 6][..], &[1, 64, 96, 4][..]));
    let near = |tiled: &Tensor, whole: &Tensor| golden::relative_l2(&wide(tiled), &wide(whole));
    let errors = [near(&latent, &EXPECTED["four colours encoded"]), near(&picture, &EXPECTED["decoded"])];
    assert!(errors.iter().all(|error| *error > 1e-4 && *error < 0.5), "{errors:?}");
}

fn wide(x: &Tensor) -> Vec<f64> {
    values(x).into_iter().map(f64::from).collect()
}

#[test]
fn work_is_counted_and_memory_is_bounded() {
    let convolutions =
        |estimate: &model::estimate::Estimate| estimate.parts[0].1.convolutions / (64.0 * 96.0);
    let (encoding, decoding) = (VAE.estimate_encoding(70, 101), VAE.estimate_decoding(4, 6));
    // Of each kernel, what it multiplies for a pixel of the whole; at the ends of stages, it is met less often.
    let taps = |half: &str| -> f64 {
        let all = TENSORS.iter().filter(|(name, _)| name.ends_with("weight") && !name.contains("time_conv"));
        all.filter(|(name, _)| name.starts_with(half))
            .map(|(name, x)| x.elem_count() as f64 * often(name))
            .sum()
    };
    let points = |name: &str| TENSORS[name].elem_count() as f64 / 256.0;
    let expected = 2.0 * (taps("encoder") + points("quant_conv.weight"));
    assert!((convolutions(&encoding) / expected - 1.0).abs() < 1e-9);
    let expected = 2.0 * (taps("decoder") + points("post_quant_conv.weight"));
    assert!((convolutions(&decoding) / expected - 1.0).abs() < 1e-9);
    assert_eq!(decoding.working_bytes, VAE.working_bytes(64, 96));
    // 12 channels of what goes in, comes out, and adds up.
    assert_eq!(decoding.working_bytes, 5 * 12 * 64 * 96 * 4);
}

/// How often a kernel is met for each pixel of the whole picture.
fn often(name: &str) -> f64 {
    let stage =
        |start: &str| name.strip_prefix(start).and_then(|rest| rest.split('.').next()?.parse::<i32>().ok());
    let halvings = match (stage("encoder.down_blocks."), stage("decoder.up_blocks.")) {
        (Some(stage), _) => stage + i32::from(name.contains("resample")),
        (_, Some(stage)) => 4 - stage - i32::from(name.contains("resample")),
        _ if name.starts_with("encoder.conv_in") || name.starts_with("decoder.conv_out") => 0,
        _ => 4,
    };
    0.25f64.powi(halvings)
}

#[test]
fn what_it_is_and_what_it_is_not() {
    assert_eq!(VAE.latent().mean, latents::QWEN_IMAGE_2_1.mean);
    let identify = |tensors: &Tensors| model::identify(&file(tensors));
    for tensors in [TENSORS.clone(), as_in_comfyui(&TENSORS)] {
        let found = identify(&tensors);
        assert_eq!((found.families, found.folder), (vec!["Qwen-Image 2.1 VAE"], Some("vae")));
    }
    let of_wan = File::open(tiny_qwen::models().join(tiny_qwen::VAE)).unwrap();
    assert_eq!(model::identify(&of_wan).families, ["Wan 2.1 / Qwen-Image VAE"]);
    // Wan 2.2: kernels that see three frames, and latents of other channels.
    let mut of_wan = as_in_comfyui(&TENSORS);
    let head = &of_wan["decoder.head.2.weight"];
    let longer = Tensor::cat(&[head, head, head], 2).unwrap();
    of_wan.insert("decoder.head.2.weight".to_owned(), longer);
    let found = identify(&of_wan);
    assert_eq!((found.families.len(), found.kind.as_str()), (0, "a Wan or Qwen-Image VAE"));
    let mut other = TENSORS.clone();
    other.insert("post_quant_conv.weight".to_owned(), draw(1, &[48, 48, 1, 1], 1.0));
    assert_eq!(identify(&other).families.len(), 0);
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let refusal = |result: Result<Tensor>| result.unwrap_err().to_string();
    assert_eq!(
        refusal(VAE.encode(&zeros(&[1, 15, 64, 3]), &Stop::new())),
        "a picture of 64 by 15 pixels is too small to encode; 16 by 16 is the least"
    );
    assert_eq!(
        refusal(VAE.decode(&zeros(&[1, 16, 1, 8, 8]), &Stop::new())),
        "expected latents of 64 channels, found 16; these latents belong to another VAE"
    );
    assert_eq!(
        refusal(VAE.decode(&zeros(&[1, 64, 3, 2, 2]), &Stop::new())),
        "this VAE decodes pictures, and the latent is a video of 3 frames; decode them one by one, as a batch"
    );
    let stop = Stop::new();
    stop.request();
    assert!(matches!(VAE.decode(&zeros(&[1, 64, 1, 2, 2]), &stop), Err(Error::Stopped(_))));
    let mut lacking = TENSORS.clone();
    lacking.remove("decoder.up_blocks.1.resnets.0.conv1.weight");
    lacking.remove("encoder.norm_out.gamma");
    let message = load(&lacking, Compute::F32).err().unwrap().to_string();
    assert!(message.contains("`encoder.norm_out.gamma`"), "{message}");
    assert!(message.contains("`decoder.up_blocks.1.resnets.0.conv1.weight`"), "{message}");
}
