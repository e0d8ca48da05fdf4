//! What the network costs, told before.

use super::pass::Size;
use super::prefix::bytes_of_head;
use super::{QwenImage21, sequence_of};
use crate::model::diffusion::axes::HEAD_WIDTH;
use crate::model::diffusion::leases::{BLOCKS, ENDS};
use crate::model::estimate::{Estimate, Kind, Work};
use crate::model::{Cond, Prefix, Result};

impl QwenImage21 {
    /// Bytes that are kept of a conditioning.
    pub fn kept_bytes(&self, size: Size) -> u64 {
        let Prefix::Kept(precision) = self.changes.prefix else { return 0 };
        let blocks = self.blocks.iter().flatten().count();
        let heads = 2 * blocks * size.texts * size.prefix * (self.width / HEAD_WIDTH);
        (heads * bytes_of_head(precision, self.options.compute.numbers())) as u64
    }

    /// Memory that a pass over conditionings takes, about, besides the weights and what is kept.
    pub fn working_bytes(&self, sizes: &[Size]) -> u64 {
        // In a block, for one sequence at a time: tokens normed, the same laid out, queries, and what these come to.
        const IN_A_BLOCK: usize = 6;
        // Keys and values, and the same laid out.
        const SEEN: usize = 4;
        // A few panels of widened weights.
        const PANELS: u64 = 128 << 20;
        let longest = sizes.iter().map(|size| size.prefix.max(size.target)).max().unwrap_or(0);
        let whole = sizes.iter().map(|size| size.prefix + size.target).max().unwrap_or(0);
        let all: usize = sizes.iter().map(|size| size.all()).sum();
        let rows = IN_A_BLOCK * longest + SEEN * whole + all;
        (rows * self.width * size_of::<f32>()) as u64 + PANELS
    }

    pub fn cost(&self, x: &[usize], conds: &[&Cond]) -> Result<Estimate> {
        let [one, two] = &self.time;
        // The timestep, and the one without noise.
        let time = [one, two, &self.modulation].map(|layer| Work::product(layer, 2));
        let mut ends = time.into_iter().sum::<Work>() + Work::product(&self.norm_out, 1);
        let mut blocks = vec![Work::default(); self.blocks.len()];
        let (mut sizes, mut kept) = (Vec::new(), 0);
        for cond in conds {
            let sequence = sequence_of(x, cond)?;
            let size = Size::new(&sequence, x, cond)?;
            let (texts, targets) = (size.texts as f64, (size.items * size.frames) as f64);
            ends += (Work::product(&self.image_in, size.target) + Work::product(&self.proj_out, size.target))
                * targets;
            for (sum, block) in self.each_block(&mut blocks) {
                *sum += block.work(&[sequence.last()]) * targets;
            }
            if !self.knows(cond) {
                ends += Work::product(&self.image_in, sequence.pictured());
                let text = cond.text.dim(1)?;
                ends += self.text_in.iter().map(|layer| Work::product(layer, text)).sum::<Work>() * texts;
                for (sum, block) in self.each_block(&mut blocks) {
                    *sum += block.work(&sequence.pieces()) * texts;
                }
            }
            kept += self.kept_bytes(size);
            sizes.push(size);
        }
        let parts = blocks.into_iter().enumerate().filter(|(index, _)| self.blocks[*index].is_some());
        let parts = parts.map(|(index, work)| (BLOCKS + index, work));
        let estimate = Estimate {
            kind: Kind::Predict,
            network: self.resident.network().clone(),
            working_bytes: self.working_bytes(&sizes) + kept,
            parts: std::iter::once((ENDS, ends)).chain(parts).collect(),
        };
        Ok(estimate.using_weights(conds.len()))
    }

    /// The blocks that are there, each with a number.
    fn each_block<'a>(
        &'a self,
        all: &'a mut [Work],
    ) -> impl Iterator<Item = (&'a mut Work, &'a super::Block)> {
        all.iter_mut().zip(&self.blocks).filter_map(|(work, block)| Some((work, block.as_ref()?)))
    }

    /// Whether keys and values of what comes before the target were kept, or a plan has come past the step that does.
    fn knows(&self, cond: &Cond) -> bool {
        let keeps = matches!(self.changes.prefix, Prefix::Kept(_));
        keeps && (cond.notes.is_planned() || self.kept(cond).is_some())
    }
}
