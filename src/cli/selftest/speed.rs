//! How fast the card is at what an edit of one megapixel consists of, beside what an RTX 3090 can do at most.

use std::time::Instant;

use super::super::Result;
use super::super::report::Line;
use crate::device::cuda::card::Card;
use crate::device::cuda::cases::{Draw, distance};
use crate::device::cuda::launch::{self, Address, Attention, Convolution, HEAD_WIDTH, Launch, Size};
use crate::device::cuda::machine::{Machine as _, Numbers, Product, bf16_bytes, bf16_values};
use crate::device::cuda::{self, twins};

/// Tokens of a picture of 1024x1024, a reference of that size, and the text.
const TOKENS: usize = 8492;
const HEADS: usize = 24;
const WIDTH: usize = HEADS * HEAD_WIDTH;

/// Sides and channels of a picture in the VAE at full size, and the rows of it that are convolved together.
const SIDE: usize = 1024;
const CHANNELS: usize = 96;
const BAND: usize = 64;

/// An RTX 3090 by its data sheet: bytes per second of its memory, and operations per second by the numbers' width.
const MEMORY: f64 = 936e9;
const BF16: f64 = 71e12;
const INT8: f64 = 284e12;

/// Bytes per second that its bus brings, and those of a block.
const BUS: f64 = 25e9;
const BLOCK: usize = 340 << 20;

/// Times of each thing, of which the best counts.
const TIMES: usize = 5;

/// One line for each thing that is measured.
pub(super) fn lines(card: &mut Card) -> Result<Vec<Line>> {
    let mut lines = kernels(card)?;
    lines.extend(picture_kernels(card)?);
    lines.extend(products(card)?);
    lines.push(attention(card)?);
    lines.push(way(card)?);
    Ok(lines)
}

/// The best of some times, in seconds.
fn best(card: &mut Card, mut work: impl FnMut(&mut Card) -> cuda::Result) -> Result<f64> {
    // The first one loads the kernel.
    let mut best = f64::INFINITY;
    for _ in 0..=TIMES {
        best = best.min(card.seconds(&mut work)?);
    }
    Ok(best)
}

fn told(place: String, seconds: f64, amount: f64, (unit, most): (&str, f64)) -> Line {
    let (rate, share) = (amount / seconds, 100.0 * amount / seconds / most);
    let (ms, rate) = (seconds * 1e3, rate / if unit == "GB/s" { 1e9 } else { 1e12 });
    Line::ok(place, format!("{ms:.3} ms, {rate:.1} {unit}, {share:.0} % of what an RTX 3090 has"))
}

/// What moves more than it computes, by the bytes it has to move.
fn kernels(card: &mut Card) -> Result<Vec<Line>> {
    let size = Size { rows: TOKENS, width: WIDTH };
    let wide = Size { width: 4 * WIDTH, ..size };
    let elements = |size: Size| size.rows * size.width;
    let [x, y, inner, weights] = {
        let weights = 4 * WIDTH * WIDTH;
        [elements(size), elements(size), elements(wide), weights].map(|count| 2 * count)
    }
    .map(|bytes| card.blank(bytes));
    let (x, y, inner, scratch) = (x?.at, y?.at, inner?.at, weights?.at);
    let vector = card.upload(&vec![0; 2 * 4 * WIDTH])?.at;
    let table = card.upload(&vec![0; 4 * TOKENS * HEAD_WIDTH / 2])?.at;
    let matrix = 4 * WIDTH * WIDTH;
    let all: [(Launch, usize); 6] = [
        (launch::fp8_to_bf16(inner, scratch, 1.0, matrix), 3 * matrix),
        (launch::layer_norm_modulate(x, [vector; 2], y, size, 1e-6), 4 * elements(size)),
        (launch::norm_rope(x, vector, [table; 2], [TOKENS, HEADS], 1e-6), 4 * elements(size)),
        (launch::gated_sum(x, vector, y, size), 6 * elements(size)),
        (launch::bias_gelu(inner, vector, wide), 4 * elements(wide)),
        (launch::quantise_rows(x, y, table, size), 3 * elements(size)),
    ];
    moving(card, &all)
}

/// The same of the VAE.
fn picture_kernels(card: &mut Card) -> Result<Vec<Line>> {
    let picture = Size { rows: SIDE * SIDE, width: CHANNELS };
    let scores = Size { rows: 2048, width: SIDE * SIDE / 64 };
    let convolution = Convolution {
        channels: CHANNELS,
        h: SIDE,
        w: SIDE,
        kernel: [3, 3],
        stride: 1,
        above: 1,
        left: 1,
        zoom: 1,
        out_w: SIDE,
    };
    let columns = BAND * SIDE * convolution.taps();
    let elements = |size: Size| size.rows * size.width;
    let [x, y, wide] = [2 * elements(picture), 2 * elements(picture), 4 * elements(scores).max(columns)]
        .map(|bytes| card.blank(bytes));
    let (x, y, wide) = (x?.at, y?.at, wide?.at);
    let vector = card.upload(&[0; 2 * CHANNELS])?.at;
    let all = [
        (convolution.columns(x, wide, 0, BAND), 2 * (columns + BAND * SIDE * CHANNELS)),
        (launch::channel_norm(x, vector, y, picture, true), 4 * elements(picture)),
        (launch::channel_sum(x, vector, Some(y), x, picture), 6 * elements(picture)),
        (launch::softmax_rows(wide, x, scores, 0.05), 6 * elements(scores)),
    ];
    moving(card, &all)
}

/// How fast launches move the bytes that they have to move.
fn moving(card: &mut Card, all: &[(Launch, usize)]) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (launch, bytes) in all {
        let seconds = best(card, |card| card.launch(launch))?;
        lines.push(told(launch.kernel.name.to_owned(), seconds, *bytes as f64, ("GB/s", MEMORY)));
    }
    card.clear()?;
    Ok(lines)
}

/// The matrix products of a block, and of a convolution of the VAE.
fn products(card: &mut Card) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let block = [[WIDTH, WIDTH], [WIDTH, 4 * WIDTH], [4 * WIDTH, WIDTH]];
    let block = block.map(|[inputs, outputs]| [TOKENS, inputs, outputs]);
    for [rows, inputs, outputs] in block.into_iter().chain([[BAND * SIDE, 9 * CHANNELS, CHANNELS]]) {
        for (numbers, word, most) in [(Numbers::Bf16, "BF16", BF16), (Numbers::Int8, "INT8", INT8)] {
            // Random bits would hold numbers that are none.
            let [x, w] = [rows * inputs, outputs * inputs].map(|count| card.upload(&vec![0x31; 2 * count]));
            let (x, w, out) = (x?.at, w?.at, card.blank(4 * rows * outputs)?.at);
            let product = Product { numbers, rows, inputs, outputs, x, w, out };
            let seconds = best(card, |card| card.multiply(&product))?;
            let operations = 2.0 * (rows * inputs * outputs) as f64;
            let place = format!("product in {word} {rows} x {inputs} x {outputs}");
            lines.push(told(place, seconds, operations, ("T/s", most)));
            card.clear()?;
        }
    }
    Ok(lines)
}

/// The way that weights come.
fn way(card: &mut Card) -> Result<Line> {
    let (bytes, room) = (vec![1; BLOCK], card.blank(BLOCK)?);
    let mut way = card.way()?;
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        let (begin, ready) = (Instant::now(), card.mark()?);
        way.wait(&ready)?;
        way.copy(&bytes, room.at)?;
        let arrived = way.mark()?;
        card.wait(&arrived)?;
        // Ends when all of that is done.
        card.seconds(|_| Ok(()))?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    card.clear()?;
    Ok(told("bringing a block of weights".to_owned(), best, BLOCK as f64, ("GB/s", BUS)))
}

/// The attention of a block, of which some queries are compared with their twin.
fn attention(card: &mut Card) -> Result<Line> {
    let scale = (HEAD_WIDTH as f32).powf(-0.5);
    let sizes = Attention {
        queries: TOKENS,
        keys: TOKENS,
        heads: HEADS,
        key_heads: HEADS,
        scale,
        causal: false,
        sequences: 1,
    };
    let mut draw = Draw::new(1);
    let tensors = [(); 3].map(|()| draw.numbers(TOKENS * WIDTH, 1.0));
    let mut addresses = [Address(0); 3];
    for (address, tensor) in addresses.iter_mut().zip(&tensors) {
        *address = card.upload(&bf16_bytes(tensor))?.at;
    }
    let out = card.blank(2 * TOKENS * WIDTH)?;
    let launch = sizes.launch(addresses, out.at);
    let seconds = best(card, |card| card.launch(&launch))?;
    let results = bf16_values(&card.download(out)?);
    card.clear()?;
    let one = Attention { queries: 1, heads: 1, key_heads: 1, ..sizes };
    let mut worst = 0.0f64;
    for (query, head) in [(0, 0), (63, 5), (64, 11), (4095, 17), (TOKENS - 1, HEADS - 1)] {
        let at = query * WIDTH + head * HEAD_WIDTH;
        let of_head = |tensor: &[f32]| {
            tensor.chunks(WIDTH).flat_map(|row| row[head * HEAD_WIDTH..][..HEAD_WIDTH].to_vec()).collect()
        };
        let [k, v]: [Vec<f32>; 2] = [of_head(&tensors[1]), of_head(&tensors[2])];
        let want = twins::attention(&one, [&tensors[0][at..][..HEAD_WIDTH], &k, &v]);
        worst = worst.max(distance(&results[at..][..HEAD_WIDTH], &want));
    }
    let place = format!("attention {TOKENS} x {TOKENS}, {HEADS} heads");
    if worst > 1e-2 {
        return Ok(Line::fail(
            place,
            format!("error {worst:.2e}, allowed 1.00e-2"),
            "please send the report",
        ));
    }
    let operations = 4.0 * (TOKENS * TOKENS * WIDTH) as f64;
    Ok(told(format!("{place}, error {worst:.2e}"), seconds, operations, ("T/s", BF16)))
}
