//! The layers of half a network, as they are read from a file.

use std::sync::Arc;

use candle_core::Tensor;

use super::layers::{Attention, Down, Layer, Norm, Residual, Up};
use super::names::{Direction, Form};
use super::past::Past;
use super::shortcut::Shortcut;
use crate::model::Result;
use crate::model::estimate::Work;
use crate::stop::Stop;
use crate::weights::Weights;

/// Layers, and what leads around all of them.
pub struct Stage {
    pub layers: Arc<[Layer]>,
    pub shortcut: Option<Shortcut>,
}

impl Stage {
    pub fn forward(&self, mut frames: Vec<Tensor>, past: &mut Past, stop: &Stop) -> Result<Vec<Tensor>> {
        let around = self.shortcut.map(|shortcut| (shortcut, frames.clone()));
        for layer in &*self.layers {
            stop.check()?;
            frames = layer.forward(frames, past)?;
        }
        let Some((shortcut, begun)) = around else { return Ok(frames) };
        frames.into_iter().zip(&begun).map(|(frame, begun)| shortcut.onto(&frame, begun)).collect()
    }

    /// What it costs for one picture of this size, and the size of what comes out.
    pub fn work(&self, mut size: (usize, usize)) -> (Work, (usize, usize)) {
        let mut work = Work::default();
        for layer in &*self.layers {
            let (more, next) = layer.work(size);
            work += more;
            size = next;
        }
        (work + self.shortcut.map(|shortcut| shortcut.work(size)).unwrap_or_default(), size)
    }
}

/// Stages being read, and the channels that the last of them puts out.
pub struct Stack {
    pub form: Form,
    pub channels: usize,
    stages: Vec<Stage>,
    /// Those that belong to no stage yet.
    layers: Vec<Layer>,
}

impl Stack {
    pub fn new(form: Form, channels: usize) -> Self {
        Self { form, channels, stages: Vec::new(), layers: Vec::new() }
    }

    /// All that was read.
    pub fn finish(mut self) -> Arc<[Stage]> {
        self.end_stage(None);
        self.stages.into()
    }

    /// Joins the layers since the last stage.
    pub fn end_stage(&mut self, shortcut: Option<Shortcut>) {
        if !self.layers.is_empty() {
            let layers = std::mem::take(&mut self.layers).into();
            self.stages.push(Stage { layers, shortcut });
        }
    }

    /// The convolution that begins the half at `weights`.
    pub fn first(&mut self, weights: &Weights) -> Result<()> {
        let weights = weights.at(self.form.names.first);
        let outputs = weights.side("weight", 0)?;
        self.layers.push(Layer::Conv(self.form.conv(&weights, [self.channels, outputs], 3)?));
        self.channels = outputs;
        Ok(())
    }

    pub fn residual(&mut self, weights: &Weights) -> Result<()> {
        let outputs = weights.at(self.form.names.convs[0]).side_or("weight", 0, self.channels);
        self.layers.push(Layer::Residual(Residual::load(weights, [self.channels, outputs], self.form)?));
        self.channels = outputs;
        Ok(())
    }

    /// What halves or doubles the sides.
    pub fn resize(&mut self, weights: &Weights, direction: Direction) -> Result<()> {
        let outputs = weights.side_or("resample.1.weight", 0, self.channels);
        let channels = [self.channels, outputs];
        self.layers.push(match direction {
            Direction::Down => Layer::Down(Down::load(weights, channels, self.form)?),
            Direction::Up => Layer::Up(Up::load(weights, channels, self.form)?),
        });
        self.channels = outputs;
        Ok(())
    }

    /// The middle of the half at `weights`.
    pub fn middle(&mut self, weights: &Weights) -> Result<()> {
        let [before, attention, after] = self.form.names.middle;
        self.residual(&weights.at(before))?;
        self.layers.push(Layer::Attention(Attention::load(&weights.at(attention), self.channels)?));
        self.residual(&weights.at(after))
    }

    /// The end of the half at `weights`.
    pub fn head(&mut self, weights: &Weights, outputs: usize) -> Result<()> {
        let [norm, conv] = self.form.names.head;
        let norm = Norm::load(&weights.at(norm), self.channels, 3)?;
        let conv = self.form.conv(&weights.at(conv), [self.channels, outputs], 3)?;
        self.layers.push(Layer::Head(norm, conv));
        self.channels = outputs;
        Ok(())
    }

    /// A convolution that mixes channels only.
    pub fn point(&mut self, weights: &Weights) -> Result<()> {
        self.layers.push(Layer::Conv(self.form.conv(weights, [self.channels; 2], 1)?));
        Ok(())
    }
}
