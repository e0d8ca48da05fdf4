//! ESRGAN and its descendants: residual blocks of densely connected convolutions (Wang et al., 2018, 2021), in the
//! three spellings of their files.

use super::Upscaler;
use crate::model::Result;
use crate::model::planes::{Conv, Planes, leaky};
use crate::stop::Stop;
use crate::weights::Weights;

/// The multiple that sides are padded to where squares become channels.
const MULTIPLE: usize = 4;

/// How much of a block's change counts.
const SHARE: f32 = 0.2;

/// How the layers of a file are called.
#[derive(Clone, Copy)]
pub enum Names {
    /// Numbered, with the blocks at `model.1.sub`.
    Numbered,
    /// `body`, `conv_up1`, ...
    Named,
    /// `RRDB_trunk`, `upconv1`, ...
    Trunk,
}

impl Names {
    pub fn of(weights: &Weights) -> Option<Self> {
        [Self::Numbered, Self::Named, Self::Trunk]
            .into_iter()
            .find(|names| weights.has(&format!("{}.conv1{}.weight", names.dense(0, 1), names.inner())))
    }

    fn first(self) -> &'static str {
        match self {
            Self::Numbered => "model.0",
            Self::Named | Self::Trunk => "conv_first",
        }
    }

    /// A densely connected part, 1 to 3, of a block.
    fn dense(self, block: usize, part: usize) -> String {
        match self {
            Self::Numbered => format!("model.1.sub.{block}.RDB{part}"),
            Self::Named => format!("body.{block}.rdb{part}"),
            Self::Trunk => format!("RRDB_trunk.{block}.RDB{part}"),
        }
    }

    fn inner(self) -> &'static str {
        if matches!(self, Self::Numbered) { ".0" } else { "" }
    }

    fn blocks(self, weights: &Weights) -> usize {
        let mut blocks = 0;
        while weights.has(&format!("{}.conv1{}.weight", self.dense(blocks, 1), self.inner())) {
            blocks += 1;
        }
        blocks
    }

    fn after_blocks(self, blocks: usize) -> String {
        match self {
            Self::Numbered => format!("model.1.sub.{blocks}"),
            Self::Named => "conv_body".to_owned(),
            Self::Trunk => "trunk_conv".to_owned(),
        }
    }

    /// The layer after the `number`th doubling, from 1 on.
    fn doubling(self, number: usize) -> String {
        match self {
            Self::Numbered => format!("model.{}", 3 * number),
            Self::Named => format!("conv_up{number}"),
            Self::Trunk => format!("upconv{number}"),
        }
    }

    /// Of numbered layers, those that double have the multiples of 3.
    fn doublings(self, weights: &Weights) -> usize {
        let mut doublings = 0;
        while weights.has(&format!("{}.weight", self.doubling(doublings + 1))) {
            doublings += 1;
        }
        doublings
    }

    fn last(self, doublings: usize) -> [String; 2] {
        match self {
            Self::Numbered => [2, 4].map(|after| format!("model.{}", 3 * doublings + after)),
            Self::Named => ["conv_hr", "conv_last"].map(str::to_owned),
            Self::Trunk => ["HRconv", "conv_last"].map(str::to_owned),
        }
    }
}

pub struct Rrdb {
    /// Squares of this side become channels before the first layer.
    squares: usize,
    first: Conv,
    blocks: Vec<[Dense; 3]>,
    after_blocks: Conv,
    doublings: Vec<Conv>,
    last: [Conv; 2],
}

impl Rrdb {
    pub fn load(weights: Weights, names: Names) -> Result<Self> {
        weights.build(|weights| {
            let width = weights.side(&format!("{}.weight", names.first()), 0)?;
            let channels = weights.side(&format!("{}.weight", names.first()), 1)?;
            let conv = |name: &str, inputs, outputs| Conv::load(&weights.at(name), [inputs, outputs], 3);
            let count = names.blocks(weights);
            let block = |block: usize| -> Result<[Dense; 3]> {
                let part = |part| Dense::load(weights, &names.dense(block, part), names.inner(), width);
                Ok([part(1)?, part(2)?, part(3)?])
            };
            let doublings = names.doublings(weights);
            let [high, last] = names.last(doublings);
            Ok(Self {
                squares: match channels {
                    12 => 2,
                    48 => 4,
                    _ => 1,
                },
                first: conv(names.first(), channels, width)?,
                blocks: (0..count).map(block).collect::<Result<_>>()?,
                after_blocks: conv(&names.after_blocks(count), width, width)?,
                doublings: (1..=doublings)
                    .map(|number| conv(&names.doubling(number), width, width))
                    .collect::<Result<_>>()?,
                last: [conv(&high, width, width)?, conv(&last, width, 3)?],
            })
        })
    }
}

impl Upscaler for Rrdb {
    fn factor(&self) -> usize {
        (1 << self.doublings.len()) / self.squares
    }

    fn enlarge(&self, picture: &Planes, stop: &Stop) -> Result<Planes> {
        let (h, w) = picture.size;
        let padded = if self.squares > 1 { picture.padded_to(MULTIPLE) } else { picture.clone() };
        let mut x = self.first.forward(&padded.unshuffled(self.squares));
        let mut trunk = x.clone();
        for parts in &self.blocks {
            stop.check()?;
            let mut inner = trunk.clone();
            for part in parts {
                inner = part.forward(inner);
            }
            trunk.add(&inner.values, SHARE);
        }
        x.add(&self.after_blocks.forward(&trunk).values, 1.0);
        for conv in &self.doublings {
            stop.check()?;
            x = leaky(conv.doubled(&x));
        }
        let [high, last] = &self.last;
        let picture = last.forward(&leaky(high.forward(&x)));
        Ok(picture.cut((h * self.factor(), w * self.factor())))
    }
}

/// Five convolutions, each of which sees what all before it said.
struct Dense {
    convs: Vec<Conv>,
}

impl Dense {
    fn load(weights: &Weights, name: &str, inner: &str, width: usize) -> Result<Self> {
        let growth = weights.side(&format!("{name}.conv1{inner}.weight"), 0)?;
        let conv = |number: usize| {
            let outputs = if number == 5 { width } else { growth };
            let at = weights.at(format!("{name}.conv{number}{inner}"));
            Conv::load(&at, [width + (number - 1) * growth, outputs], 3)
        };
        Ok(Self { convs: (1..=5).map(conv).collect::<Result<_>>()? })
    }

    fn forward(&self, x: Planes) -> Planes {
        let length = x.values.len();
        let mut seen = x;
        let mut said = Vec::new();
        for (number, conv) in self.convs.iter().enumerate() {
            let next = conv.forward(&seen);
            if number + 1 == self.convs.len() {
                said = next.values;
            } else {
                seen.values.extend(leaky(next).values);
            }
        }
        seen.values.truncate(length);
        seen.add(&said, SHARE);
        seen
    }
}
