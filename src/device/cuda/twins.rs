//! What each kernel computes, written plainly and in `f64`: what a machine's results are compared with.
//!
//! Inputs are numbers that the kernel's formats hold; results are not rounded, so a kernel may differ by its rounding.
//! Where it has to agree to the last bit, the twin takes the same steps in `f32`.

use half::bf16;

use super::launch::{Attention, Convolution, HEAD_WIDTH};

/// The value of an E4M3 code.
pub fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// To the last bit.
pub fn fp8_to_bf16(codes: &[u8], scale: f32) -> Vec<f64> {
    codes.iter().map(|code| f64::from(bf16::from_f32(e4m3(*code) * scale))).collect()
}

pub fn layer_norm_modulate(x: &[f32], shift: &[f32], scale: &[f32], eps: f32) -> Vec<f64> {
    let width = shift.len();
    let row = |row: &[f32]| {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
        let factor = 1.0 / (variance + f64::from(eps)).sqrt();
        let columns = row.iter().zip(shift).zip(scale);
        columns
            .map(|((x, shift), scale)| {
                (f64::from(*x) - mean) * factor * (1.0 + f64::from(*scale)) + f64::from(*shift)
            })
            .collect::<Vec<_>>()
    };
    x.chunks(width).flat_map(row).collect()
}

pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let width = weight.len();
    let row = |row: &[f32]| {
        let square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
        let factor = 1.0 / (square + f64::from(eps)).sqrt();
        row.iter()
            .zip(weight)
            .map(|(x, weight)| f64::from(*x) * factor * f64::from(*weight))
            .collect::<Vec<_>>()
    };
    x.chunks(width).flat_map(row).collect()
}

/// `x`: (tokens, heads, width); `cos`, `sin`: (tokens, width / 2).
pub fn norm_rope(x: &[f32], weight: &[f32], cos: &[f32], sin: &[f32], heads: usize, eps: f32) -> Vec<f64> {
    const PAIRS: usize = HEAD_WIDTH / 2;
    let mut y = rms_norm(x, weight, eps);
    for (index, head) in y.chunks_mut(HEAD_WIDTH).enumerate() {
        for (pair, y) in head.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let at = index / heads * PAIRS + pair;
            let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
            *y = [y[0] * cos - y[1] * sin, y[0] * sin + y[1] * cos];
        }
    }
    y
}

/// `x`: (tokens, heads, width); `cos`, `sin`: (tokens, width / 2).
pub fn rope_halves(x: &[f32], cos: &[f32], sin: &[f32], heads: usize) -> Vec<f64> {
    const PAIRS: usize = HEAD_WIDTH / 2;
    let turned = x.chunks(HEAD_WIDTH).enumerate().flat_map(|(index, head)| {
        let at = index / heads * PAIRS;
        (0..HEAD_WIDTH).map(move |number| {
            let pair = number % PAIRS;
            let (a, b) = (f64::from(head[pair]), f64::from(head[pair + PAIRS]));
            let (cos, sin) = (f64::from(cos[at + pair]), f64::from(sin[at + pair]));
            if number < PAIRS { a * cos - b * sin } else { a * sin + b * cos }
        })
    });
    turned.collect()
}

/// To the last bit.
pub fn gated_sum(x: &[f32], gate: &[f32], y: &[f32]) -> Vec<f64> {
    let gates = gate.iter().cycle();
    let all = x.iter().zip(gates).zip(y);
    all.map(|((x, gate), y)| f64::from(bf16::from_f32(gate.mul_add(*y, *x)))).collect()
}

pub fn add_bias(x: &[f32], bias: &[f32]) -> Vec<f64> {
    x.iter().zip(bias.iter().cycle()).map(|(x, bias)| f64::from(*x) + f64::from(*bias)).collect()
}

pub fn bias_gelu(x: &[f32], bias: &[f32]) -> Vec<f64> {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let gelu = |u: f64| 0.5 * u * (1.0 + (root * (u + 0.044_715 * u.powi(3))).tanh());
    add_bias(x, bias).into_iter().map(gelu).collect()
}

pub fn bias_gelu_erf(x: &[f32], bias: &[f32]) -> Vec<f64> {
    let gelu = |u: f64| 0.5 * u * (1.0 + libm::erf(u / std::f64::consts::SQRT_2));
    add_bias(x, bias).into_iter().map(gelu).collect()
}

fn silu(u: f64) -> f64 {
    u / (1.0 + (-u).exp())
}

pub fn silu_product(x: &[f32], y: &[f32]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| silu(f64::from(*x)) * f64::from(*y)).collect()
}

/// `q`: (queries, heads, width), `k`, `v`: (keys, key heads, width) of each sequence.
pub fn attention(sizes: &Attention, [q, k, v]: [&[f32]; 3]) -> Vec<f64> {
    let own = |tensor: &[f32], sequence: usize| {
        let length = tensor.len() / sizes.sequences;
        tensor[sequence * length..][..length].to_vec()
    };
    let one = |sequence| attention_of_one(sizes, [q, k, v].map(|tensor| own(tensor, sequence)));
    (0..sizes.sequences).flat_map(one).collect()
}

fn attention_of_one(sizes: &Attention, [q, k, v]: [Vec<f32>; 3]) -> Vec<f64> {
    let mut out = vec![0.0; q.len()];
    let (q_stride, k_stride) = (sizes.heads * HEAD_WIDTH, sizes.key_heads * HEAD_WIDTH);
    for (index, out) in out.chunks_mut(HEAD_WIDTH).enumerate() {
        let (query, head) = (index / sizes.heads, index % sizes.heads);
        let served = head * sizes.key_heads / sizes.heads * HEAD_WIDTH;
        let q = &q[query * q_stride + head * HEAD_WIDTH..][..HEAD_WIDTH];
        let seen = if sizes.causal { query + 1 + sizes.keys - sizes.queries } else { sizes.keys };
        let row = |tensor: &[f32], key: usize| {
            tensor[key * k_stride + served..][..HEAD_WIDTH].iter().map(|x| f64::from(*x)).collect::<Vec<_>>()
        };
        let score = |key: usize| q.iter().zip(row(&k, key)).map(|(q, k)| f64::from(*q) * k).sum::<f64>();
        let scores: Vec<f64> = (0..seen).map(|key| f64::from(sizes.scale) * score(key)).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let whole: f64 = weights.iter().sum();
        for (key, weight) in weights.iter().enumerate() {
            for (out, v) in out.iter_mut().zip(row(&v, key)) {
                *out += weight / whole * v;
            }
        }
    }
    out
}

/// (rows, width).
pub fn softmax_rows(x: &[f32], width: usize, scale: f32) -> Vec<f64> {
    let row = |row: &[f32]| {
        let scores: Vec<f64> = row.iter().map(|x| f64::from(scale) * f64::from(*x)).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let whole: f64 = weights.iter().sum();
        weights.into_iter().map(move |weight| weight / whole)
    };
    x.chunks(width).flat_map(row).collect()
}

/// (places, channels).
pub fn channel_norm(x: &[f32], weight: &[f32], with_silu: bool) -> Vec<f64> {
    let place = |place: &[f32]| {
        let length = place.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
        let factor = (weight.len() as f64).sqrt() / length;
        let scaled = place.iter().zip(weight).map(|(x, weight)| f64::from(*x) * factor * f64::from(*weight));
        scaled.map(|u| if with_silu { silu(u) } else { u }).collect::<Vec<_>>()
    };
    x.chunks(weight.len()).flat_map(place).collect()
}

/// (places, channels).
pub fn channel_sum(sum: &[f32], bias: &[f32], added: Option<&[f32]>) -> Vec<f64> {
    let added = |at: usize| added.map_or(0.0, |added| f64::from(added[at]));
    add_bias(sum, bias).into_iter().enumerate().map(|(at, sum)| sum + added(at)).collect()
}

/// To the last bit: (rows * out_w, taps).
pub fn picture_columns(sizes: &Convolution, x: &[f32], first_row: usize, rows: usize) -> Vec<f64> {
    let [kernel_h, kernel_w] = sizes.kernel;
    let mut columns = Vec::with_capacity(sizes.taps() * rows * sizes.out_w);
    for (out_y, out_x) in (first_row..first_row + rows).flat_map(|y| (0..sizes.out_w).map(move |x| (y, x))) {
        for (tap_y, tap_x) in (0..kernel_h).flat_map(|y| (0..kernel_w).map(move |x| (y, x))) {
            let y = (out_y * sizes.stride + tap_y).checked_sub(sizes.above).map(|y| y / sizes.zoom);
            let x_at = (out_x * sizes.stride + tap_x).checked_sub(sizes.left).map(|x| x / sizes.zoom);
            columns.extend((0..sizes.channels).map(|channel| match (y, x_at) {
                (Some(y), Some(x_at)) if y < sizes.h && x_at < sizes.w => {
                    f64::from(x[(y * sizes.w + x_at) * sizes.channels + channel])
                }
                _ => 0.0,
            }));
        }
    }
    columns
}

/// By the matrix: its element is the product of those of the matrix of four, over the digits of both places.
pub fn turn_groups(x: &[f32], group: usize) -> Vec<f64> {
    const FOUR: [[f64; 4]; 4] =
        [[0.5, 0.5, 0.5, -0.5], [0.5, 0.5, -0.5, 0.5], [0.5, -0.5, 0.5, 0.5], [-0.5, 0.5, 0.5, 0.5]];
    let digits = group.ilog2() / 2;
    let element = |row: usize, column: usize| -> f64 {
        (0..digits).map(|digit| FOUR[row >> (2 * digit) & 3][column >> (2 * digit) & 3]).product()
    };
    let turned = |x: &[f32], row| (0..group).map(|column| element(row, column) * f64::from(x[column])).sum();
    x.chunks(group).flat_map(|x| (0..group).map(move |row| turned(x, row))).collect()
}

/// To the last bit: the whole numbers and the scales of the rows.
pub fn quantise_rows(x: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    let most = |row: &[f32]| row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let numbers = x.chunks(width).flat_map(|row| {
        let factor = if most(row) > 0.0 { 127.0 / most(row) } else { 0.0 };
        row.iter().map(move |x| f64::from((x * factor).round_ties_even()))
    });
    (numbers.collect(), x.chunks(width).map(|row| f64::from(most(row) / 127.0)).collect())
}

pub fn rescale(sums: &[i32], row_scales: &[f32], column_scales: &[f32]) -> Vec<f64> {
    let width = column_scales.len();
    let value = |(at, sum): (usize, &i32)| {
        let (row, column) = (at / width, at % width);
        f64::from(*sum) * f64::from(row_scales[row]) * f64::from(column_scales[column])
    };
    sums.iter().enumerate().map(value).collect()
}

/// `x wᵀ`.
pub fn multiply(x: &[f32], w: &[f32], inputs: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
    x.chunks(inputs).flat_map(|x| w.chunks(inputs).map(move |w| dot(x, w))).collect()
}
