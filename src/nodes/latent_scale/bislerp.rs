//! ComfyUI's bislerp: linear interpolation of latents that turns each channel vector instead of mixing it.

use candle_core::{Device, Tensor};

use crate::graph::Result;

/// Scales (batch, channels, \[frames,\] h, w) to `(width, height)` cells.
pub fn scaled(samples: &Tensor, (width, height): (usize, usize)) -> Result<Tensor> {
    let mut shape = samples.dims().to_vec();
    let rank = shape.len();
    // Channels last, so that a cell is one slice.
    let mut cells_last: Vec<usize> = (0..rank).filter(|axis| *axis != 1).collect();
    cells_last.push(1);
    let (h, w, channels) = (shape[rank - 2], shape[rank - 1], shape[1]);
    let cells = samples.permute(cells_last)?.flatten_all()?.to_vec1::<f32>()?;
    let frames = cells.chunks_exact(h * w * channels);
    let scaled: Vec<f32> = frames
        .flat_map(|frame| {
            let wide: Vec<f32> = frame
                .chunks_exact(w * channels)
                .flat_map(|row| stretched(&row.chunks_exact(channels).collect::<Vec<_>>(), width))
                .collect();
            let columns: Vec<Vec<f32>> = (0..width)
                .map(|x| {
                    let column: Vec<&[f32]> =
                        (0..h).map(|y| &wide[(y * width + x) * channels..][..channels]).collect();
                    stretched(&column, height)
                })
                .collect();
            let cell = move |y: usize, x: usize| columns[x][y * channels..][..channels].to_vec();
            (0..height * width).flat_map(move |place| cell(place / width, place % width))
        })
        .collect();
    shape.remove(1);
    shape[rank - 3..].copy_from_slice(&[height, width]);
    shape.push(channels);
    let mut channels_second: Vec<usize> = (0..rank - 1).collect();
    channels_second.insert(1, rank - 1);
    Ok(Tensor::from_vec(scaled, shape, &Device::Cpu)?.permute(channels_second)?.contiguous()?)
}

/// A line of cells at another length.
fn stretched(line: &[&[f32]], length: usize) -> Vec<f32> {
    let places = (0..length).map(|target| {
        let (near, share) = place(line.len(), length, target, 0);
        let (far, _) = place(line.len(), length, target, 1);
        (line[near], line[far], share)
    });
    places.flat_map(|(near, far, share)| slerp(near, far, share)).collect()
}

/// Where a cell comes from: the interpolated number of the cell `offset` cells on, as a whole number and
/// the rest of it.
fn place(from: usize, to: usize, target: usize, offset: usize) -> (usize, f32) {
    let number = |cell: usize| if offset == 1 { (cell + 1).min(from - 1) } else { cell } as f32;
    let scale = from as f32 / to as f32;
    let position = scale.mul_add(target as f32 + 0.5, -0.5).max(0.0);
    let first = (position as usize).min(from - 1);
    let share = (position - first as f32).clamp(0.0, 1.0);
    let value = number(first) * (1.0 - share) + number((first + 1).min(from - 1)) * share;
    ((value as usize).min(from - 1), value - value.floor())
}

/// From one vector to another, a share `r` of the angle and of the length between them.
fn slerp(from: &[f32], to: &[f32], r: f32) -> Vec<f32> {
    const NEARLY: f32 = 1.0 - 1e-5;
    let length = |vector: &[f32]| vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    let (from_length, to_length) = (length(from), length(to));
    let unit = |value: f32, length: f32| if length == 0.0 { 0.0 } else { value / length };
    let pairs = || from.iter().zip(to).map(|(a, b)| (unit(*a, from_length), unit(*b, to_length)));
    let dot: f32 = pairs().map(|(a, b)| a * b).sum();
    if dot > NEARLY {
        return from.to_vec();
    }
    if dot < -NEARLY {
        return from.iter().zip(to).map(|(a, b)| a * (1.0 - r) + b * r).collect();
    }
    let omega = dot.acos();
    let (near, far) = (((1.0 - r) * omega).sin() / omega.sin(), (r * omega).sin() / omega.sin());
    let long = from_length * (1.0 - r) + to_length * r;
    pairs().map(|(a, b)| (near * a + far * b) * long).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_way_between_two_directions_both_angle_and_length_are_half_way() {
        let between = slerp(&[1.0, 0.0], &[0.0, 3.0], 0.5);
        assert!(between.iter().all(|value| (value - 2.0 * 0.5_f32.sqrt()).abs() < 1e-6), "{between:?}");
        assert_eq!(slerp(&[1.0, 2.0], &[2.0, 4.0], 0.5), [1.0, 2.0]);
        assert_eq!(slerp(&[1.0], &[-3.0], 0.5), [-1.0]);
    }
}
