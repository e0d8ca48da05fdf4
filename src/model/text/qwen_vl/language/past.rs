//! What a layer remembers of rows it has seen, so that the next one need not take them through again.

use candle_core::{DType, Tensor};

use crate::model::Result;

/// Rows that room is made for at a time.
const STEP: usize = 256;

/// Keys and values: (1, heads, rows, width) each, in tensors with room for more.
#[derive(Default)]
pub struct Past {
    rooms: Option<[Tensor; 2]>,
    rows: usize,
}

impl Past {
    /// Remembers new rows too, and gives all.
    pub fn with(&mut self, new: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        let (_, heads, rows, width) = new[0].dims4()?;
        let room = self.rooms.as_ref().map_or(Ok(0), |[keys, _]| keys.dim(2))?;
        if self.rows + rows > room {
            let missing = (self.rows + rows - room).next_multiple_of(STEP);
            let more = || Tensor::zeros((1, heads, missing, width), DType::F32, new[0].device());
            self.rooms = Some(match self.rooms.take() {
                Some([keys, values]) => [
                    Tensor::cat(&[keys, more()?], 2)?.contiguous()?,
                    Tensor::cat(&[values, more()?], 2)?.contiguous()?,
                ],
                None => [more()?, more()?],
            });
        }
        let all = self.rows + rows;
        let Some([keys, values]) = &self.rooms else { return Ok(new.map(Clone::clone)) };
        for (room, new) in [(keys, new[0]), (values, new[1])] {
            room.slice_set(&new.contiguous()?, 2, self.rows)?;
        }
        self.rows = all;
        Ok([keys.narrow(2, 0, all)?, values.narrow(2, 0, all)?])
    }
}
