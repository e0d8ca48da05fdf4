//! What is read from weight files, and what is said about files that cannot be read.

use candle_core::{DType, Tensor};
use comfyd::model::parts::{Embedding, Linear};
use comfyd::model::{Error, Result};
use comfyd::weights::{File, Fp8, Storage, Weights};

use crate::safetensors::{Entry, write, write_raw};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The message a file with this header and data is refused with.
fn refusal(header: &str, data: &[u8]) -> String {
    let folder = folder();
    File::open(write_raw(folder.path(), "bad.safetensors", header, data)).unwrap_err().to_string()
}

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

#[test]
fn a_truncated_file_says_how_much_is_missing() {
    let message = refusal(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, &[0; 10]);
    assert_says(&message, &["bad.safetensors", "truncated", "need 16 bytes", "10 are there"]);
    let folder = folder();
    let path = folder.path().join("cut.safetensors");
    std::fs::write(&path, [200, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
    let message = File::open(&path).unwrap_err().to_string();
    assert_says(&message, &["200 bytes", "only 1 bytes follow", "truncated"]);
}

#[test]
fn a_corrupt_header_is_refused() {
    assert_says(&refusal("{\"a\":{\"dtype\"", &[]), &["not valid JSON"]);
    assert_says(&refusal("[1, 2]", &[]), &["not valid JSON"]);
    assert_says(&refusal(r#"{"a":{"dtype":"F32"}}"#, &[]), &["entry for tensor `a`", "shape"]);
    let message = refusal(r#"{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]);
    assert_says(&message, &["tensor `a`", "unknown type `F7`"]);
}

#[test]
fn offsets_must_fit_shapes_and_each_other() {
    let message = refusal(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}}"#, &[0; 16]);
    assert_says(&message, &["tensor `a`", "[3]", "needs 12 bytes", "span 16"]);
    let message = refusal(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[4,3]}}"#, &[0; 4]);
    assert_says(&message, &["ends before it begins"]);
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                     "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    assert_says(&refusal(header, &[0; 6]), &["`a` and `b` overlap"]);
    let huge = r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}"#;
    assert_says(&refusal(huge, &[0; 4]), &["needs too many bytes"]);
}

#[test]
fn other_things_than_safetensors_are_named() {
    let folder = folder();
    let refused = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        File::open(&path).unwrap_err().to_string()
    };
    assert_says(&refused("empty.safetensors", b""), &["empty.safetensors", "empty (0 bytes)"]);
    assert_says(&refused("short.safetensors", b"abc"), &["too short", "3 bytes"]);
    assert_says(&refused("old.ckpt", b"PK\x03\x04...."), &["PyTorch pickle", "expected a .safetensors file"]);
    assert_says(&refused("page.safetensors", b"<!DOCTYPE html>"), &["web page"]);
    let shard = refused("diffusion_pytorch_model-00002-of-00005.safetensors", b"");
    assert_says(&shard, &["part 2 of 5", "expected one .safetensors file", "diffusers"]);
    let message = File::open(folder.path()).unwrap_err().to_string();
    assert_says(&message, &["is a folder", "expected one .safetensors file"]);
    let message = File::open(folder.path().join("no.safetensors")).unwrap_err().to_string();
    assert_says(&message, &["cannot open", "no.safetensors"]);
}

#[test]
fn every_missing_tensor_is_named_at_once() {
    let folder = folder();
    let path = write(folder.path(), "file.safetensors", &[Entry::f32("a.weight", &[2, 2], &[0.0; 4])]);
    let weights = Weights::new(File::open(path).unwrap(), "");
    let built: Result<()> = weights.build(|weights| {
        Linear::load(&weights.at("a"), 2, 2)?;
        Linear::load(&weights.at("b").at(0), 2, 2)?;
        Ok(())
    });
    let message = built.unwrap_err().to_string();
    assert_eq!(message, "3 tensors are missing in file.safetensors: `a.bias`, `b.0.bias`, `b.0.weight`");
}

#[test]
fn a_wrong_shape_names_tensor_and_file() {
    let folder = folder();
    let path = write(folder.path(), "file.safetensors", &[Entry::f32("a.weight", &[1, 4], &[0.0; 4])]);
    let weights = Weights::new(File::open(path).unwrap(), "");
    let built: Result<()> = weights.build(|weights| {
        Linear::without_bias(&weights.at("a"), 2, 2)?;
        Ok(())
    });
    let message = built.unwrap_err().to_string();
    assert_eq!(message, "tensor `a.weight` in file.safetensors: expected [2, 2], found [1, 4]");
}

#[test]
fn a_linear_layer_applies_its_fp8_scale_and_rounds_its_bias() {
    let folder = folder();
    let entries = [
        Entry::fp8("l.weight", &[1, 2], &[0x38, 0xc0]),
        Entry::f32("l.scale_weight", &[], &[0.5]),
        Entry::f32("l.bias", &[1], &[1.0625]),
        Entry::fp8("scaled_fp8", &[0], &[]),
    ];
    let path = write(folder.path(), "file.safetensors", &entries);
    let weights = Weights::new(File::open(path).unwrap(), "");
    let linear = weights.build(|weights| Linear::load(&weights.at("l"), 2, 1)).unwrap();
    let x = Tensor::new(&[[3.0f32, 1.0]], &candle_core::Device::Cpu).unwrap();
    let y = linear.forward(&x).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(y, [[0.5 * (3.0 - 2.0) + 1.0]]);
    let y = linear.forward(&x.to_dtype(DType::BF16).unwrap()).unwrap();
    assert_eq!(
        (y.dtype(), y.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap()),
        (DType::BF16, vec![vec![1.5]])
    );
}

#[test]
fn every_parameter_is_rounded_to_the_chosen_storage() {
    let folder = folder();
    let entries = [Entry::f32("l.weight", &[1, 1], &[1.0625]), Entry::f32("l.bias", &[1], &[500.0])];
    let path = write(folder.path(), "file.safetensors", &entries);
    let file = File::open(path).unwrap();
    let result = |storage| {
        let weights = Weights::new(file.clone(), "").stored_as(storage);
        let linear = weights.build(|weights| Linear::load(&weights.at("l"), 1, 1)).unwrap();
        let x = Tensor::new(&[[1.0f32]], &candle_core::Device::Cpu).unwrap();
        linear.forward(&x).unwrap().to_vec2::<f32>().unwrap()[0][0]
    };
    let storages = [Storage::AsFile, Storage::Rounded(Fp8::E4M3), Storage::Rounded(Fp8::E5M2)];
    assert_eq!(storages.map(result).to_vec(), [501.0625, 449.0, 513.0]);
}

#[test]
fn embeddings_are_read_row_by_row() {
    let folder = folder();
    let path = write(folder.path(), "file.safetensors", &[Entry::f32("e.weight", &[3, 1], &[1.0, 2.0, 3.0])]);
    let weights = Weights::new(File::open(path).unwrap(), "");
    let table = weights.build(|weights| Embedding::load(&weights.at("e"), 3, 1)).unwrap();
    assert_eq!(table.forward(&[2, 0]).unwrap().to_vec2::<f32>().unwrap(), [[3.0], [1.0]]);
    assert!(matches!(table.forward(&[3]), Err(Error::Token { id: 3, count: 3 })));
}
