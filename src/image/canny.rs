//! Canny's edge detector, step by step as kornia has it: smooth, gradient, thin, trace.

use super::{Image, Mask};

/// Weights of the smoothing, a Gaussian of sigma 1 over five pixels.
const REACH: i64 = 2;

/// The neighbour that lies in each eighth of a turn, clockwise from the right as seen on the screen.
const NEIGHBOURS: [(i64, i64); 8] = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)];

/// 1 on every edge whose gradient exceeds `high`, and on what exceeds `low` and hangs together with it.
/// A step from black to white has a gradient of about 4.
pub fn canny(image: &Image, low: f32, high: f32) -> Mask {
    let [batch, height, width, channels] = image.shape();
    let mut edges = Vec::with_capacity(batch * height * width);
    for frame in image.frames() {
        let gray = frame.chunks_exact(channels).map(luma).collect();
        let gray = Plane { width: width as i64, height: height as i64, values: gray };
        edges.extend(gray.smoothed().thin_edges().traced(low, high));
    }
    Mask::new([batch, height, width], edges)
}

fn luma(pixel: &[f32]) -> f32 {
    match *pixel {
        [red, green, blue, ..] => 0.299 * red + 0.587 * green + 0.114 * blue,
        [gray, ..] => gray,
        [] => 0.0,
    }
}

/// One value per pixel.
struct Plane {
    width: i64,
    height: i64,
    values: Vec<f32>,
}

impl Plane {
    fn filled(&self, value: impl Fn(i64, i64) -> f32) -> Self {
        let places = (0..self.height).flat_map(|y| (0..self.width).map(move |x| (x, y)));
        Self { width: self.width, height: self.height, values: places.map(|(x, y)| value(x, y)).collect() }
    }

    /// The value at a pixel inside.
    fn at(&self, x: i64, y: i64) -> f32 {
        self.values[(y * self.width + x) as usize]
    }

    fn inside(&self, x: i64, y: i64) -> bool {
        (0..self.width).contains(&x) && (0..self.height).contains(&y)
    }

    /// A Gaussian along both axes, mirrored at the edges.
    fn smoothed(&self) -> Self {
        let weights: Vec<f32> = (-REACH..=REACH).map(|at| (-(at * at) as f32 / 2.0).exp()).collect();
        let total: f32 = weights.iter().sum();
        let sum = |value: &dyn Fn(i64) -> f32| -> f32 {
            (-REACH..=REACH).zip(&weights).map(|(offset, weight)| value(offset) * weight / total).sum()
        };
        let along = self.filled(|x, y| sum(&|offset| self.at(mirrored(x + offset, self.width), y)));
        self.filled(|x, y| sum(&|offset| along.at(x, mirrored(y + offset, self.height))))
    }

    /// The length of the gradient where it is larger than at both neighbours along it, 0 elsewhere.
    fn thin_edges(&self) -> Self {
        let near = |x: i64, y: i64| self.at(x.clamp(0, self.width - 1), y.clamp(0, self.height - 1));
        let sobel = |x: i64, y: i64, (dx, dy): (i64, i64)| {
            let side = |sign: i64| {
                let (x, y) = (x + sign * dx, y + sign * dy);
                near(x - dy, y - dx) + 2.0 * near(x, y) + near(x + dy, y + dx)
            };
            side(1) - side(-1)
        };
        let gradient = |x, y| (sobel(x, y, (1, 0)), sobel(x, y, (0, 1)));
        let length = self.filled(|x, y| {
            let (right, down) = gradient(x, y);
            (right * right + down * down + 1e-6).sqrt()
        });
        self.filled(|x, y| {
            let (right, down) = gradient(x, y);
            let eighth = (down.atan2(right).to_degrees() / 45.0).round_ties_even() as i64;
            let here = length.at(x, y);
            let largest = [eighth, eighth + 4].into_iter().all(|eighth| {
                let (dx, dy) = NEIGHBOURS[eighth.rem_euclid(8) as usize];
                let beside = if self.inside(x + dx, y + dy) { length.at(x + dx, y + dy) } else { 0.0 };
                here > beside
            });
            if largest { here } else { 0.0 }
        })
    }

    /// Follows weak edges from strong ones.
    fn traced(&self, low: f32, high: f32) -> Vec<f32> {
        let mut edges = vec![0.0; self.values.len()];
        let all = (0..self.height).flat_map(|y| (0..self.width).map(move |x| (x, y)));
        let mut open: Vec<_> = all.filter(|(x, y)| self.at(*x, *y) > high.max(low)).collect();
        while let Some((x, y)) = open.pop() {
            let edge = &mut edges[(y * self.width + x) as usize];
            if *edge == 0.0 {
                *edge = 1.0;
                let around = NEIGHBOURS.into_iter().map(|(dx, dy)| (x + dx, y + dy));
                open.extend(around.filter(|(x, y)| self.inside(*x, *y) && self.at(*x, *y) > low));
            }
        }
        edges
    }
}

/// A place beyond an edge of `length` pixels, mirrored without repeating the edge pixel.
fn mirrored(at: i64, length: i64) -> i64 {
    let period = (2 * (length - 1)).max(1);
    let at = at.rem_euclid(period);
    at.min(period - at).min(length - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_has_no_edges() {
        let image = Image::filled([2, 5, 4], &[0.3, 0.6, 0.9]).unwrap();
        assert!(canny(&image, 0.01, 0.02).data().iter().all(|edge| *edge == 0.0));
    }
}
