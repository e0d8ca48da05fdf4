//! Networks that enlarge pictures, against what ComfyUI 0.3.64 makes with the same small networks.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use comfyd::model::upscale;
use comfyd::sampling::Noise;
use comfyd::stop::Stop;
use comfyd::weights::File;
use serde_json::Value;

use crate::golden;

/// Tensors to be drawn: name, shape, deviation. Each is the first draw of a seed, from 100 on.
#[derive(Default)]
struct Recipe(Vec<(String, Vec<usize>, f64)>);

impl Recipe {
    fn conv(&mut self, name: &str, inputs: usize, outputs: usize, deviation: f64) {
        self.0.push((format!("{name}.weight"), vec![outputs, inputs, 3, 3], deviation));
        self.0.push((format!("{name}.bias"), vec![outputs], 0.1));
    }

    /// A convolution whose output has about `gain` times the deviation of its input.
    fn layer(&mut self, name: &str, inputs: usize, outputs: usize, gain: f64) {
        self.conv(name, inputs, outputs, gain / (9.0 * inputs as f64).sqrt());
    }

    fn write(self, folder: &Path) -> std::sync::Arc<File> {
        let tensors = self.0.into_iter().enumerate().map(|(index, (name, shape, deviation))| {
            let draw = Noise::new(100 + index as u64).draw(&shape, &Device::Cpu).unwrap();
            (name, (draw * deviation).unwrap())
        });
        let path = folder.join("upscaler.safetensors");
        candle_core::safetensors::save(&tensors.collect::<HashMap<_, _>>(), &path).unwrap();
        File::open(path).unwrap()
    }
}

fn rrdb(style: &str, [width, blocks, growth, channels, doublings]: [usize; 5]) -> Recipe {
    let numbered = style == "numbered";
    let (first, after) = match style {
        "numbered" => ("model.0", format!("model.1.sub.{blocks}")),
        "named" => ("conv_first", "conv_body".to_owned()),
        _ => ("conv_first", "trunk_conv".to_owned()),
    };
    let dense = |block: usize, part: usize| match style {
        "numbered" => format!("model.1.sub.{block}.RDB{part}"),
        "named" => format!("body.{block}.rdb{part}"),
        _ => format!("RRDB_trunk.{block}.RDB{part}"),
    };
    let doubling = |number: usize| match style {
        "numbered" => format!("model.{}", 3 * number),
        "named" => format!("conv_up{number}"),
        _ => format!("upconv{number}"),
    };
    let last = match style {
        "numbered" => [2, 4].map(|after| format!("model.{}", 3 * doublings + after)),
        "named" => ["conv_hr", "conv_last"].map(str::to_owned),
        _ => ["HRconv", "conv_last"].map(str::to_owned),
    };
    let mut recipe = Recipe::default();
    recipe.layer(first, channels, width, 1.0);
    for (block, part) in (0..blocks).flat_map(|block| (1..=3).map(move |part| (block, part))) {
        for conv in 1..=5 {
            let name = format!("{}.conv{conv}{}", dense(block, part), if numbered { ".0" } else { "" });
            let outputs = if conv == 5 { width } else { growth };
            recipe.layer(&name, width + (conv - 1) * growth, outputs, 1.4);
        }
    }
    recipe.layer(&after, width, width, 1.0);
    for number in 1..=doublings {
        recipe.layer(&doubling(number), width, width, 1.4);
    }
    recipe.layer(&last[0], width, width, 1.4);
    recipe.layer(&last[1], width, 3, 1.0);
    recipe
}

fn compact([width, layers, factor]: [usize; 3]) -> Recipe {
    let mut recipe = Recipe::default();
    for layer in 0..=layers {
        let (inputs, deviation) = if layer == 0 { (3, 0.25) } else { (width, 0.12) };
        recipe.conv(&format!("body.{}", 2 * layer), inputs, width, deviation);
        recipe.0.push((format!("body.{}.weight", 2 * layer + 1), vec![width], 0.3));
    }
    let (name, outputs) = (format!("body.{}", 2 * layers + 2), 3 * factor * factor);
    recipe.0.push((format!("{name}.weight"), vec![outputs, width, 3, 3], 0.05));
    recipe.0.push((format!("{name}.bias"), vec![outputs], 0.05));
    recipe
}

fn sizes<const N: usize>(of: &[Value]) -> [usize; N] {
    std::array::from_fn(|index| of[index].as_u64().unwrap() as usize)
}

#[test]
fn pictures_are_enlarged_as_in_comfyui() {
    let facts = std::fs::read(golden::path("../values/upscale.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&facts).unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let recipe = case["recipe"].as_array().unwrap();
        let recipe = match recipe[0].as_str().unwrap() {
            "rrdb" => rrdb(recipe[1].as_str().unwrap(), sizes(&recipe[2..])),
            _ => compact(sizes(&recipe[1..])),
        };
        let folder = tempfile::tempdir().unwrap();
        let network = upscale::load(recipe.write(folder.path())).unwrap();
        let picture = sizes::<4>(case["picture"].as_array().unwrap());
        let pictures = Noise::new(7).draw(&picture, &Device::Cpu).unwrap().affine(0.2, 0.5).unwrap();
        let pictures = pictures.clamp(0f32, 1f32).unwrap();
        let mut tiles = 0;
        let larger: Vec<Tensor> = (0..picture[0])
            .map(|index| {
                let mut done = |_, of| tiles = of;
                upscale::enlarge(network.as_ref(), &pictures.get(index).unwrap(), &Stop::new(), &mut done)
                    .unwrap()
            })
            .collect();
        let larger = Tensor::stack(&larger, 0).unwrap();
        assert_eq!(larger.dims(), sizes::<4>(case["shape"].as_array().unwrap()), "{name}");
        assert_eq!(tiles > 1, name.ends_with("in tiles"));
        let found = larger.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = case["values"].as_array().unwrap();
        let apart = expected.iter().enumerate().map(|(index, value)| {
            (f64::from(found[index * found.len() / expected.len()]) - value.as_f64().unwrap()).abs()
        });
        let worst = apart.fold(0.0, f64::max);
        golden::record("enlarged pictures (absolute)", worst, 1e-5);
        assert!(worst < 1e-5, "{name} is off by {worst:.1e}");
    }
}

#[test]
fn checkpoints_of_pytorch_are_unpacked() {
    let open = |name: &str| File::open(golden::path("../values").join(name)).unwrap();
    let (whole, half) = (open("upscaler.pth"), open("upscaler_half.pth"));
    assert_eq!(whole.header().shape("body.2.weight"), Some(&[12, 4, 3, 3][..]));
    assert_eq!(whole.name(), "upscaler.pth");
    let picture = Noise::new(7).draw(&[6, 5, 3], &Device::Cpu).unwrap().affine(0.1, 0.5).unwrap();
    let larger = |file| {
        let network = upscale::load(file).unwrap();
        let larger = upscale::enlarge(network.as_ref(), &picture, &Stop::new(), &mut |_, _| ()).unwrap();
        larger.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (whole, half) = (larger(whole), larger(half));
    assert_eq!(whole.len(), 12 * 10 * 3);
    assert!(whole.iter().zip(&half).all(|(whole, half)| (whole - half).abs() < 1e-3));
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.pth");
    std::fs::write(&broken, b"PK\x03\x04 and no archive").unwrap();
    let message = File::open(broken).unwrap_err().to_string();
    assert!(message.contains("broken.pth") && message.contains("expected a .safetensors file"), "{message}");
}

#[test]
fn other_files_are_no_upscale_models() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = Recipe::default();
    recipe.conv("txt_norm", 2, 2, 1.0);
    let Err(error) = upscale::load(recipe.write(folder.path())) else { panic!("accepted") };
    let message = error.to_string();
    assert!(message.contains("is not an upscale model") && message.contains("Qwen-Image"), "{message}");
}
