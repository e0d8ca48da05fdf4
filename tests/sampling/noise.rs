use candle_core::{Device, Tensor};
use comfyd::sampling::noise::{self, Noise};

use crate::tensors;

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_seed_and_shape_gives_the_bits_of_torch() {
    let recorded = tensors("tables/noise.safetensors");
    assert_eq!(recorded.len(), 40);
    for (name, expected) in recorded {
        let seed = name.strip_prefix("seed").unwrap().split(':').next().unwrap().parse().unwrap();
        let drawn = Noise::new(seed).draw(expected.dims(), &Device::Cpu).unwrap();
        assert_eq!(bits(&drawn), bits(&expected), "{name}");
    }
}

#[test]
fn batch_indices_choose_among_the_draws_of_one_generator() {
    let recorded = tensors("tables/noise_batch_index.safetensors");
    assert_eq!(recorded.len(), 4);
    for (name, expected) in recorded {
        let indices = name.trim_start_matches("seed5:inds(").trim_end_matches(')').split(',');
        let indices: Vec<usize> = indices.filter_map(|index| index.trim().parse().ok()).collect();
        let drawn = noise::initial(5, expected.dims(), Some(&indices), &Device::Cpu).unwrap();
        assert_eq!(bits(&drawn), bits(&expected), "{name}");
    }
}

#[test]
fn one_generator_goes_on_where_its_last_draw_ended() {
    let mut noise = Noise::new(7);
    let first = noise.draw(&[4, 16], &Device::Cpu).unwrap();
    let second = noise.draw(&[4, 16], &Device::Cpu).unwrap();
    let both = Noise::new(7).draw(&[8, 16], &Device::Cpu).unwrap();
    assert_eq!(bits(&Tensor::cat(&[first, second], 0).unwrap()), bits(&both));
}

#[test]
fn the_second_value_of_a_pair_waits_for_the_next_small_draw() {
    let mut noise = Noise::new(7);
    let mut drawn: Vec<u32> = (0..6).flat_map(|_| bits(&noise.draw(&[1], &Device::Cpu).unwrap())).collect();
    drawn.extend(bits(&noise.draw(&[3], &Device::Cpu).unwrap()));
    assert_eq!(drawn, bits(&Noise::new(7).draw(&[9], &Device::Cpu).unwrap()));
}
