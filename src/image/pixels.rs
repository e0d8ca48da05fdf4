//! Batches of float pixels: what travels along IMAGE and MASK links.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::picture::Picture;
use super::resize::{Crop, Filter, center_crop, resize};
use super::{Error, Result};

/// A batch of pictures: f32, (batch, height, width, channels), 0..1, row-major. Usually 3 channels, RGB.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    shape: [usize; 4],
    data: Vec<f32>,
}

/// A batch of masks: f32, (batch, height, width), 0..1, row-major; 1 means "change here".
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    shape: [usize; 3],
    data: Vec<f32>,
}

/// Room for `shape` values, all zero; an error rather than an abort when there is no such room.
pub(super) fn zeros(shape: &[usize]) -> Result<Vec<f32>> {
    let count = shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
    let count = count.ok_or(Error::OutOfMemory { count: usize::MAX })?;
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Error::OutOfMemory { count })?;
    values.resize(count, 0.0);
    Ok(values)
}

/// Fewer values are changed sooner by one thread than others wake up.
const WORTH_SHARING: usize = 1 << 16;

fn changed(values: &[f32], change: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    if values.len() < WORTH_SHARING {
        return values.iter().map(|value| change(*value)).collect();
    }
    values.par_iter().map(|value| change(*value)).collect()
}

impl Image {
    /// Wraps `data` laid out as `[batch, height, width, channels]`.
    pub fn new(shape: [usize; 4], data: Vec<f32>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "the data must fill the shape {shape:?}");
        Self { shape, data }
    }

    /// Black pictures.
    pub fn zeros(shape: [usize; 4]) -> Result<Self> {
        Ok(Self { shape, data: zeros(&shape)? })
    }

    /// Pictures of one colour; `color` has one value per channel.
    pub fn filled([batch, height, width]: [usize; 3], color: &[f32]) -> Result<Self> {
        let mut image = Self::zeros([batch, height, width, color.len()])?;
        image.data.chunks_mut(color.len().max(1)).for_each(|pixel| pixel.copy_from_slice(color));
        Ok(image)
    }

    /// One RGB picture per entry; all must have the size of the first.
    pub fn from_pictures(pictures: &[Picture]) -> Result<Self> {
        let Some(first) = pictures.first() else { return Self::zeros([0, 1, 1, 3]) };
        let mut image = Self::zeros([pictures.len(), first.height(), first.width(), 3])?;
        for (frame, picture) in image.frames_mut().zip(pictures) {
            if picture.size() != first.size() {
                return Err(Error::SizesDiffer { expected: first.size(), found: picture.size() });
            }
            let pixels = frame.chunks_mut(3).zip(picture.bytes().chunks(picture.channels()));
            for (to, from) in pixels {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = f32::from(*from) / 255.0;
                }
            }
        }
        Ok(image)
    }

    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }
    pub fn batch(&self) -> usize {
        self.shape[0]
    }
    pub fn height(&self) -> usize {
        self.shape[1]
    }
    pub fn width(&self) -> usize {
        self.shape[2]
    }
    pub fn channels(&self) -> usize {
        self.shape[3]
    }
    /// Width and height.
    pub fn size(&self) -> (usize, usize) {
        (self.width(), self.height())
    }
    pub fn data(&self) -> &[f32] {
        &self.data
    }
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The values of each picture of the batch, (height, width, channels).
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.frame_len())
    }
    pub fn frames_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [f32]> {
        let length = self.frame_len();
        self.data.chunks_exact_mut(length)
    }
    fn frame_len(&self) -> usize {
        (self.height() * self.width() * self.channels()).max(1)
    }

    /// The same pictures with every value replaced.
    #[must_use]
    pub fn map(&self, change: impl Fn(f32) -> f32 + Sync) -> Self {
        Self { shape: self.shape, data: changed(&self.data, change) }
    }

    /// Pictures `start..start + count` of the batch.
    #[must_use]
    pub fn batch_range(&self, start: usize, count: usize) -> Self {
        let [_, height, width, channels] = self.shape;
        let range = start * self.frame_len()..(start + count) * self.frame_len();
        Self { shape: [count, height, width, channels], data: self.data[range].to_vec() }
    }

    /// All pictures of `images` in one batch; all must have the shape of the first.
    pub fn concatenated(images: &[&Self]) -> Result<Self> {
        let Some(first) = images.first() else { return Self::zeros([0, 1, 1, 3]) };
        let [_, height, width, channels] = first.shape;
        let batch = images.iter().map(|image| image.batch()).sum();
        let mut all = Self::zeros([batch, height, width, channels])?;
        let mut filled = 0;
        for image in images {
            if image.shape[1..] != first.shape[1..] {
                return Err(Error::SizesDiffer { expected: first.size(), found: image.size() });
            }
            all.data[filled..filled + image.data.len()].copy_from_slice(&image.data);
            filled += image.data.len();
        }
        Ok(all)
    }

    /// The rectangle of `width` x `height` at (`x`, `y`), which must lie inside.
    #[must_use]
    pub fn rectangle(&self, (x, y): (usize, usize), (width, height): (usize, usize)) -> Self {
        let [batch, from_height, from_width, channels] = self.shape;
        let data = rectangle(&self.data, [batch, from_height, from_width, channels], (x, y), (width, height));
        Self { shape: [batch, height, width, channels], data }
    }

    /// Scaled to `(width, height)`, cut to that aspect before if `crop` says so.
    pub fn resized(&self, size: (usize, usize), filter: Filter, crop: Crop) -> Result<Self> {
        let [batch, _, _, channels] = self.shape;
        let data = resized(&self.data, self.shape, size, filter, crop)?;
        Ok(Self { shape: [batch, size.1, size.0, channels], data })
    }

    /// Puts `other` over this picture at (`x`, `y`), where it must fit; batch and channels must agree.
    pub fn paste(&mut self, other: &Self, (x, y): (usize, usize)) {
        let [batch, height, width, channels] = self.shape;
        let fits = x + other.width() <= width && y + other.height() <= height;
        assert!(fits && other.batch() == batch && other.channels() == channels, "the picture must fit");
        let length = other.width() * channels;
        for (index, row) in other.data.chunks_exact(length.max(1)).enumerate() {
            let (frame, below) = (index / other.height(), index % other.height());
            let start = ((frame * height + y + below) * width + x) * channels;
            self.data[start..start + length].copy_from_slice(row);
        }
    }

    /// A picture of `(width, height)` whose pixel (x, y) is the pixel `from(x, y)` of this one.
    pub fn rearranged(
        &self,
        (width, height): (usize, usize),
        from: impl Fn(usize, usize) -> (usize, usize),
    ) -> Result<Self> {
        let [batch, _, _, channels] = self.shape;
        let mut moved = Self::zeros([batch, height, width, channels])?;
        for (to, source) in moved.frames_mut().zip(self.frames()) {
            for (index, pixel) in to.chunks_exact_mut(channels).enumerate() {
                let (x, y) = from(index % width, index / width);
                pixel.copy_from_slice(&source[(y * self.width() + x) * channels..][..channels]);
            }
        }
        Ok(moved)
    }

    /// With channels cut off, or opaque ones (1.0) added.
    #[must_use]
    pub fn with_channels(&self, channels: usize) -> Self {
        let [batch, height, width, found] = self.shape;
        let mut data = Vec::with_capacity(batch * height * width * channels);
        for pixel in self.data.chunks_exact(found) {
            data.extend((0..channels).map(|channel| pixel.get(channel).copied().unwrap_or(1.0)));
        }
        Self { shape: [batch, height, width, channels], data }
    }

    /// One channel as a mask; `None` when there is no such channel.
    pub fn channel(&self, index: usize) -> Option<Mask> {
        let [batch, height, width, channels] = self.shape;
        (index < channels).then(|| {
            Mask::new(
                [batch, height, width],
                self.data.iter().skip(index).step_by(channels).copied().collect(),
            )
        })
    }

    /// A batch of `count`: the first ones, or all of them over and over.
    pub fn repeated_to(&self, count: usize) -> Result<Self> {
        let [_, height, width, channels] = self.shape;
        let data = repeated(&self.data, self.batch(), count)?;
        Ok(Self { shape: [count, height, width, channels], data })
    }

    /// A batch of `count`: the first ones, or all of them and then the last over and over.
    pub fn repeating_last(&self, count: usize) -> Result<Self> {
        let known = self.batch_range(0, self.batch().min(count));
        if known.batch() == count {
            return Ok(known);
        }
        let last = self.batch_range(self.batch() - 1, 1).repeated_to(count - known.batch())?;
        Self::concatenated(&[&known, &last])
    }

    /// Picture `index` in 8 bits: `clip(255 * x)` cut off, not rounded, as ComfyUI saves it.
    pub fn picture(&self, index: usize) -> Picture {
        let (channels, values) = self.shown(index);
        Picture::new(self.size(), channels, values.map(to_byte).collect())
    }

    /// Channels and values of picture `index` in a file. Four channels stay four; a single one becomes grey.
    pub(super) fn shown(&self, index: usize) -> (usize, impl Iterator<Item = f32>) {
        let channels = self.channels();
        let keep = if channels == 4 { 4 } else { 3 };
        let frame = &self.data[index * self.frame_len()..(index + 1) * self.frame_len()];
        let pixels = frame.chunks_exact(channels.max(1));
        (keep, pixels.flat_map(move |pixel| (0..keep).map(move |channel| pixel[channel.min(channels - 1)])))
    }

    /// The values on the CPU as (batch, height, width, channels).
    pub fn to_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.data, &self.shape, &Device::Cpu)?)
    }

    /// Takes (batch, height, width, channels) of any number type from any device.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let (batch, height, width, channels) = tensor.dims4()?;
        Ok(Self { shape: [batch, height, width, channels], data: values(tensor)? })
    }
}

impl Mask {
    /// Wraps `data` laid out as `[batch, height, width]`.
    pub fn new(shape: [usize; 3], data: Vec<f32>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "the data must fill the shape {shape:?}");
        Self { shape, data }
    }

    /// Masks that are `value` everywhere.
    pub fn filled(shape: [usize; 3], value: f32) -> Result<Self> {
        let mut data = zeros(&shape)?;
        data.fill(value);
        Ok(Self { shape, data })
    }

    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }
    pub fn batch(&self) -> usize {
        self.shape[0]
    }
    pub fn height(&self) -> usize {
        self.shape[1]
    }
    pub fn width(&self) -> usize {
        self.shape[2]
    }
    /// Width and height.
    pub fn size(&self) -> (usize, usize) {
        (self.width(), self.height())
    }
    pub fn data(&self) -> &[f32] {
        &self.data
    }
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The values of each mask of the batch, (height, width).
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact((self.height() * self.width()).max(1))
    }

    /// The same masks with every value replaced.
    #[must_use]
    pub fn map(&self, change: impl Fn(f32) -> f32 + Sync) -> Self {
        Self { shape: self.shape, data: changed(&self.data, change) }
    }

    /// The rectangle of `width` x `height` at (`x`, `y`), which must lie inside.
    #[must_use]
    pub fn rectangle(&self, (x, y): (usize, usize), (width, height): (usize, usize)) -> Self {
        let [batch, from_height, from_width] = self.shape;
        let data = rectangle(&self.data, [batch, from_height, from_width, 1], (x, y), (width, height));
        Self { shape: [batch, height, width], data }
    }

    /// Scaled to `(width, height)`, cut to that aspect before if `crop` says so.
    pub fn resized(&self, size: (usize, usize), filter: Filter, crop: Crop) -> Result<Self> {
        let [batch, height, width] = self.shape;
        let data = resized(&self.data, [batch, height, width, 1], size, filter, crop)?;
        Ok(Self { shape: [batch, size.1, size.0], data })
    }

    /// A batch of `count`: the first ones, or all of them over and over.
    pub fn repeated_to(&self, count: usize) -> Result<Self> {
        let [_, height, width] = self.shape;
        Ok(Self { shape: [count, height, width], data: repeated(&self.data, self.batch(), count)? })
    }

    /// Grey pictures.
    pub fn to_image(&self) -> Image {
        let [batch, height, width] = self.shape;
        Image::new([batch, height, width, 3], self.data.iter().flat_map(|value| [*value; 3]).collect())
    }

    /// The values on the CPU as (batch, height, width).
    pub fn to_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.data, &self.shape, &Device::Cpu)?)
    }

    /// Takes (batch, height, width) of any number type from any device.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let (batch, height, width) = tensor.dims3()?;
        Ok(Self { shape: [batch, height, width], data: values(tensor)? })
    }
}

/// A float in 0..1 as a byte: clipped, then cut off.
pub(super) fn to_byte(value: f32) -> u8 {
    (255.0 * value) as u8
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}

fn resized(
    from: &[f32],
    shape: [usize; 4],
    to: (usize, usize),
    filter: Filter,
    crop: Crop,
) -> Result<Vec<f32>> {
    let size = (shape[2], shape[1]);
    // Lanczos goes through bytes even where there is nothing to scale.
    if size == to && filter != Filter::Lanczos {
        return Ok(from.to_vec());
    }
    if crop == Crop::Disabled || size.0 * size.1 * to.0 * to.1 == 0 {
        return resize(from, shape, to, filter);
    }
    let (corner, cut) = center_crop(size, to);
    let middle = rectangle(from, shape, corner, cut);
    resize(&middle, [shape[0], cut.1, cut.0, shape[3]], to, filter)
}

/// `count` items, from `batch` of them over and over.
fn repeated(from: &[f32], batch: usize, count: usize) -> Result<Vec<f32>> {
    let length = from.len() / batch.max(1);
    let mut all = zeros(&[count, length])?;
    if length > 0 {
        all.chunks_exact_mut(length)
            .zip(from.chunks_exact(length).cycle())
            .for_each(|(to, from)| to.copy_from_slice(from));
    }
    Ok(all)
}

/// Copies a rectangle out of every picture of (n, h, w, c) values.
fn rectangle(
    from: &[f32],
    [batch, from_height, from_width, channels]: [usize; 4],
    (x, y): (usize, usize),
    (width, height): (usize, usize),
) -> Vec<f32> {
    assert!(x + width <= from_width && y + height <= from_height, "the rectangle must lie inside");
    let mut to = Vec::with_capacity(batch * height * width * channels);
    for picture in 0..batch {
        for row in y..y + height {
            let start = ((picture * from_height + row) * from_width + x) * channels;
            to.extend_from_slice(&from[start..start + width * channels]);
        }
    }
    to
}
