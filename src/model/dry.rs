//! Networks that only tell what they would cost, and give zeros of the right shape: a graph that is run over them is a
//! plan of the real run.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::card::Card;
use super::estimate::{Estimate, TextEstimate};
use super::lora::Names;
use super::memo::Memo;
use super::text::generation::{Choosing, Question, Written};
use super::vae::Tiling;
use super::{
    Compute, Cond, Diffusion, EncodedText, Flow, Hint, LatentFormat, Prefix, Result, TextEncoder, TextPrompt,
    Vae,
};
use crate::stop::Stop;
use crate::weights::{Dtype, File, Patches, Weights};

/// Where dry networks write what they are asked for.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Vec<Estimate>>>);

impl Ledger {
    fn add(&self, estimate: Estimate) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(estimate);
    }

    /// Everything so far, in order.
    pub fn entries(&self) -> Vec<Estimate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn diffusion(&self, network: Arc<dyn Diffusion>) -> Arc<dyn Diffusion> {
        Arc::new(Dry::new(network, self))
    }

    pub fn text(&self, network: Arc<dyn TextEncoder>) -> Arc<dyn TextEncoder> {
        Arc::new(Dry::new(network, self))
    }

    pub fn vae(&self, network: Arc<dyn Vae>) -> Arc<dyn Vae> {
        Arc::new(Dry::new(network, self))
    }
}

struct Dry<T: ?Sized> {
    network: Arc<T>,
    ledger: Ledger,
    /// Pictures that are known are no work, as in the real networks.
    known: Memo<()>,
}

impl<T: ?Sized> Dry<T> {
    fn new(network: Arc<T>, ledger: &Ledger) -> Self {
        Self { network, ledger: ledger.clone(), known: Memo::default() }
    }

    fn add_picture(&self, picture: &Tensor, estimate: Estimate) -> Result<()> {
        self.known.get_or(picture, "", || {
            self.ledger.add(estimate);
            Ok(())
        })
    }
}

impl Diffusion for Dry<dyn Diffusion> {
    fn latent(&self) -> &'static LatentFormat {
        self.network.latent()
    }

    fn flow(&self) -> Flow {
        self.network.flow()
    }

    fn forward(&self, x: &Tensor, _t: f64, conds: &[&Cond], stop: &Stop) -> Result<Vec<Tensor>> {
        stop.check()?;
        self.ledger.add(self.network.estimate(x.dims(), conds)?);
        for cond in conds {
            cond.notes.plan();
        }
        Ok(vec![x.zeros_like()?; conds.len()])
    }

    fn estimate(&self, x: &[usize], conds: &[&Cond]) -> Result<Estimate> {
        self.network.estimate(x, conds)
    }

    fn weights(&self) -> &Weights {
        self.network.weights()
    }

    fn patched(&self, patches: Arc<Patches>) -> Result<Arc<dyn Diffusion>> {
        Ok(self.ledger.diffusion(self.network.patched(patches)?))
    }

    fn with_control(
        &self,
        control: Arc<File>,
        hint: Arc<dyn Hint>,
        strength: f64,
    ) -> Result<Arc<dyn Diffusion>> {
        Ok(self.ledger.diffusion(self.network.with_control(control, hint, strength)?))
    }

    fn computing_in(&self, compute: Compute) -> Result<Arc<dyn Diffusion>> {
        Ok(self.ledger.diffusion(self.network.computing_in(compute)?))
    }

    fn without_blocks(&self, blocks: &[usize]) -> Result<Arc<dyn Diffusion>> {
        Ok(self.ledger.diffusion(self.network.without_blocks(blocks)?))
    }

    fn keeping(&self, prefix: Prefix) -> Result<Option<Arc<dyn Diffusion>>> {
        Ok(self.network.keeping(prefix)?.map(|network| self.ledger.diffusion(network)))
    }
}

impl TextEncoder for Dry<dyn TextEncoder> {
    fn encode(&self, prompt: &TextPrompt, stop: &Stop) -> Result<EncodedText> {
        stop.check()?;
        let TextEstimate { looks, reading, shape: [rows, width] } = self.network.estimate(prompt)?;
        for (picture, look) in prompt.images.iter().zip(looks) {
            self.add_picture(picture, look)?;
        }
        self.ledger.add(reading);
        let hidden = Tensor::zeros((1, rows, width), DType::F32, &Device::Cpu)?;
        Ok(EncodedText { hidden, pictures: Vec::new(), attention_mask: None, pooled: None })
    }

    /// Counts the reading of the question. How long an answer becomes nobody knows before.
    fn generate(
        &self,
        question: &Question,
        _how: &Choosing,
        stop: &Stop,
        _told: &mut dyn FnMut(usize),
    ) -> Result<Written> {
        let Question { text, images, .. } = question.clone();
        self.encode(&TextPrompt { text, images, template: None }, stop)?;
        Ok(Written::default())
    }

    fn estimate(&self, prompt: &TextPrompt) -> Result<TextEstimate> {
        self.network.estimate(prompt)
    }

    fn ending_at(&self, layer: usize) -> Result<Arc<dyn TextEncoder>> {
        Ok(self.ledger.text(self.network.ending_at(layer)?))
    }

    fn on_card(&self, card: &Card) -> Result<Arc<dyn TextEncoder>> {
        Ok(self.ledger.text(self.network.on_card(card)?))
    }

    fn weights(&self) -> &Weights {
        self.network.weights()
    }

    fn lora_names(&self) -> Names {
        self.network.lora_names()
    }

    fn held_in(&self) -> Option<Dtype> {
        self.network.held_in()
    }

    fn patched(&self, patches: Arc<Patches>) -> Result<Arc<dyn TextEncoder>> {
        Ok(self.ledger.text(self.network.patched(patches)?))
    }
}

impl Vae for Dry<dyn Vae> {
    fn latent(&self) -> &'static LatentFormat {
        self.network.latent()
    }

    fn colours(&self) -> usize {
        self.network.colours()
    }

    fn joins_pictures(&self) -> bool {
        self.network.joins_pictures()
    }

    fn encode(&self, pixels: &Tensor, stop: &Stop) -> Result<Tensor> {
        stop.check()?;
        let (pictures, h, w, _) = pixels.dims4()?;
        let batch = if self.network.joins_pictures() { 1 } else { pictures };
        for index in 0..batch {
            let seen = pixels.narrow(0, index, pictures / batch)?;
            self.add_picture(&seen, self.network.estimate_encoding(h, w))?;
        }
        let LatentFormat { channels, scale, .. } = self.network.latent();
        Ok(Tensor::zeros((batch, *channels, 1, h / scale, w / scale), DType::F32, &Device::Cpu)?)
    }

    fn decode(&self, latent: &Tensor, stop: &Stop) -> Result<Tensor> {
        stop.check()?;
        let (batch, _, frames, h, w) = latent.dims5()?;
        let (scale, colours) = (self.network.latent().scale, self.network.colours());
        (0..batch * frames).for_each(|_| self.ledger.add(self.network.estimate_decoding(h, w)));
        Ok(Tensor::zeros((batch * frames, h * scale, w * scale, colours), DType::F32, &Device::Cpu)?)
    }

    fn encode_tiled(&self, pixels: &Tensor, _tiling: &Tiling, stop: &Stop) -> Result<Tensor> {
        self.encode(pixels, stop)
    }

    fn decode_tiled(&self, latent: &Tensor, _tiling: &Tiling, stop: &Stop) -> Result<Tensor> {
        self.decode(latent, stop)
    }

    fn weights(&self) -> &Weights {
        self.network.weights()
    }

    fn on_card(&self, card: &Card) -> Result<Arc<dyn Vae>> {
        Ok(self.ledger.vae(self.network.on_card(card)?))
    }

    fn estimate_encoding(&self, h: usize, w: usize) -> Estimate {
        self.network.estimate_encoding(h, w)
    }

    fn estimate_decoding(&self, h: usize, w: usize) -> Estimate {
        self.network.estimate_decoding(h, w)
    }

    fn working_bytes(&self, h: usize, w: usize) -> u64 {
        self.network.working_bytes(h, w)
    }
}
