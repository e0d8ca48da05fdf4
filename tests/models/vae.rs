//! The autoencoder, against what ComfyUI recorded.

use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device, Tensor};
use comfyd::model::vae::{self, Tiling};
use comfyd::model::{Compute, Error, Result, Vae};
use comfyd::stop::Stop;
use comfyd::weights::File;

use crate::golden::Case;
use crate::pictures::encoded;
use crate::tiny_qwen;

/// Relative L2 distance: sums in another order differ by less, and any mistake by more.
const CLOSE: f64 = 1e-4;

static VAE: LazyLock<Arc<dyn Vae>> = LazyLock::new(|| load(Compute::F32));

fn load(compute: Compute) -> Arc<dyn Vae> {
    vae::load(File::open(tiny_qwen::models().join(tiny_qwen::VAE)).unwrap(), compute).unwrap()
}

/// Encodes what a case encoded; the latents by their number, where the recorded ones were kept.
fn encode(vae: &dyn Vae, case: &Case) -> Vec<(String, Tensor)> {
    let images: Vec<Tensor> = encoded(case).iter().map(|image| image.to_tensor().unwrap()).collect();
    let first =
        |index: &usize| case.facts["tensors"][format!("vae_encode_out.{index}")].get("same_as").is_none();
    let numbers = (0..8).take_while(|index| case.has(&format!("vae_encode_out.{index}"))).filter(first);
    let latent = |index: usize| {
        let pixels = format!("vae_encode_in.{index}");
        let same = |image: &&Tensor| {
            image.dims() == case.shape(&pixels) && case.distance(&pixels, image).is_none_or(|far| far < CLOSE)
        };
        let image =
            images.iter().find(same).unwrap_or_else(|| panic!("{}: {pixels} is not found", case.name));
        (format!("vae_encode_out.{index}"), vae.encode(image, &Stop::new()).unwrap())
    };
    numbers.map(latent).collect()
}

fn check_encoding(name: &str) {
    let case = Case::open(name);
    let latents = encode(&**VAE, &case);
    let kept = latents.iter().filter(|(name, latent)| case.assert_close(name, latent, CLOSE)).count();
    assert!(kept > 0, "{name} has latents to compare with");
}

/// Decodes the final latent of a case, or where nothing was sampled the encoded one.
fn decode(case: &Case, decode: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let latent = case.whole("latent_out.0").or_else(|| case.whole("vae_encode_out.0")).unwrap();
    decode(&latent).reshape(case.shape("image.0")).unwrap()
}

fn check_decoding(name: &str) {
    let case = Case::open(name);
    let image = decode(&case, |latent| VAE.decode(latent, &Stop::new()).unwrap());
    assert!(case.assert_close("image.0", &image, CLOSE), "{name} has a picture to compare with");
}

#[test]
fn pictures_become_the_recorded_latents() {
    let small =
        ["i2i_060", "i2i_gray", "ref_1img", "ref_3img", "ref_index", "ref_other_size", "vae_roundtrip"];
    for name in small {
        check_encoding(name);
    }
}

#[test]
fn of_pictures_with_odd_sides_the_centre_is_encoded() {
    for name in ["edit_old_no_vae", "i2i_odd", "ref_odd_latent", "vae_roundtrip_odd"] {
        check_encoding(name);
    }
}

#[test]
fn a_large_reference_becomes_the_recorded_latent() {
    check_encoding("edit2509_1img");
}

#[test]
fn a_batch_of_pictures_is_encoded_as_a_video() {
    check_encoding("vae_roundtrip_batch2");
    check_encoding("vae_roundtrip_batch5");
}

#[test]
fn latents_become_the_recorded_pictures() {
    let names = ["t2i_basic", "t2i_cfg1", "i2i_odd", "user_graph", "vae_roundtrip", "vae_roundtrip_odd"];
    for name in names {
        check_decoding(name);
    }
}

#[test]
fn batches_and_videos_become_the_recorded_pictures() {
    for name in ["t2i_nonsquare_batch2", "ref_batch2", "vae_roundtrip_batch2", "vae_roundtrip_batch5"] {
        check_decoding(name);
    }
}

#[test]
fn tiles_are_blended_as_recorded() {
    let case = Case::open("vae_tiled_decode");
    // Tiles of 64 pixels that overlap by 16.
    let tiling = Tiling::square(8, 2);
    let image = decode(&case, |latent| VAE.decode_tiled(latent, &tiling, &Stop::new()).unwrap());
    assert!(case.assert_close("image.0", &image, CLOSE));
    let whole = decode(&case, |latent| VAE.decode(latent, &Stop::new()).unwrap());
    assert!(case.distance("image.0", &whole).unwrap() > 0.01, "tiles leave traces");
}

#[test]
fn one_tile_for_all_changes_nothing() {
    let case = Case::open("vae_roundtrip_batch5");
    let pixels = encoded(&case)[0].to_tensor().unwrap();
    let latent = VAE.encode_tiled(&pixels, &Tiling::square(512, 64), &Stop::new()).unwrap();
    assert!(case.assert_close("vae_encode_out.0", &latent, CLOSE));
}

#[test]
fn tiles_of_a_video_fit_together() {
    let case = Case::open("vae_roundtrip_batch5");
    let pixels = encoded(&case)[0].to_tensor().unwrap();
    let latent = VAE.encode_tiled(&pixels, &Tiling::square(64, 32), &Stop::new()).unwrap();
    // A tile sees no further than its border, so only the shape is the same.
    assert_eq!(latent.dims(), case.shape("vae_encode_out.0"));
    let images = VAE.decode_tiled(&latent, &Tiling::square(8, 4), &Stop::new()).unwrap();
    assert_eq!(images.dims(), [5, 96, 96, 3]);
}

#[test]
fn work_stops_between_layers() {
    let stop = Stop::new();
    stop.request();
    let latent = Case::open("vae_roundtrip").whole("vae_encode_out.0").unwrap();
    assert!(matches!(VAE.decode(&latent, &stop), Err(Error::Stopped(_))));
}

#[test]
fn what_cannot_be_encoded_or_decoded_is_refused_in_words() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let refusal = |result: Result<Tensor>| result.unwrap_err().to_string();
    assert_eq!(
        refusal(VAE.encode(&zeros(&[1, 5, 64, 3]), &Stop::new())),
        "a picture of 64 by 5 pixels is too small to encode; 8 by 8 is the least"
    );
    assert_eq!(
        refusal(VAE.decode(&zeros(&[1, 4, 1, 8, 8]), &Stop::new())),
        "expected latents of 16 channels, found 4; these latents belong to another VAE"
    );
    let file = File::open(tiny_qwen::models().join(tiny_qwen::DIFFUSION_FP8)).unwrap();
    let message = vae::load(file, Compute::F32).err().unwrap().to_string();
    assert!(
        message.contains("is not a VAE") && message.contains("a Qwen-Image diffusion model"),
        "{message}"
    );
}
