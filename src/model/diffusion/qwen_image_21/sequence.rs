//! The one sequence that text and pictures make: who is in it, who sees whom, and where each token sits.
//!
//! A reference takes the place of the rows of the text that its picture has in it. A picture without a reference stays
//! text; a reference without a picture comes after the text. The target is last.

use std::ops::Range;

use crate::model::diffusion::axes::Position;

/// Rows and columns of a picture.
pub type Grid = (usize, usize);

/// A part of what comes before the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Some rows of the text.
    Text(Range<usize>),
    /// A reference, by its number.
    Picture(usize),
}

/// Tokens that see everything before them and each other; each of a text only those up to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub rows: Range<usize>,
    pub causal: bool,
}

pub struct Sequence {
    pub parts: Vec<Part>,
    references: Vec<Grid>,
    target: Grid,
}

/// Rows of text that look around together: what hides the words after each is a matrix of them.
const TOGETHER: usize = 512;

fn cells((rows, columns): Grid) -> usize {
    rows * columns
}

impl Sequence {
    /// Of so many rows of text, of which pictures have some.
    pub fn new(text: usize, pictures: &[Range<usize>], references: Vec<Grid>, target: Grid) -> Self {
        let mut parts = Vec::new();
        let mut row = 0;
        let add_text = |parts: &mut Vec<Part>, rows: Range<usize>| {
            if !rows.is_empty() {
                parts.push(Part::Text(rows));
            }
        };
        let mut placed = 0;
        for picture in pictures.iter().take(references.len()) {
            if picture.start < row || picture.end < picture.start || text < picture.end {
                break;
            }
            add_text(&mut parts, row..picture.start);
            parts.push(Part::Picture(placed));
            row = picture.end;
            placed += 1;
        }
        add_text(&mut parts, row..text);
        parts.extend((placed..references.len()).map(Part::Picture));
        Self { parts, references, target }
    }

    fn tokens(&self, part: &Part) -> usize {
        match part {
            Part::Text(rows) => rows.len(),
            Part::Picture(reference) => cells(self.references[*reference]),
        }
    }

    /// How many tokens come before the target.
    pub fn prefix(&self) -> usize {
        self.parts.iter().map(|part| self.tokens(part)).sum()
    }

    pub fn target(&self) -> usize {
        cells(self.target)
    }

    /// How many tokens references have.
    pub fn pictured(&self) -> usize {
        self.references.iter().copied().map(cells).sum()
    }

    /// The tokens before the target, by what they see.
    pub fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut first = 0;
        for part in &self.parts {
            let end = first + self.tokens(part);
            let (causal, step) = match part {
                Part::Text(_) => (true, TOGETHER),
                Part::Picture(_) => (false, end - first),
            };
            pieces.extend(
                (first..end)
                    .step_by(step.max(1))
                    .map(|from| Piece { rows: from..end.min(from + step), causal }),
            );
            first = end;
        }
        pieces
    }

    /// The target's tokens.
    pub fn last(&self) -> Piece {
        let prefix = self.prefix();
        Piece { rows: prefix..prefix + self.target(), causal: false }
    }

    /// Where each token sits. Text counts on along all axes. A picture is centred on the last two and takes one place
    /// of the first; what comes after it counts on after its longer side.
    pub fn positions(&self) -> Vec<Position> {
        let mut all = Vec::new();
        let mut place = 0;
        for part in &self.parts {
            match part {
                Part::Text(rows) => {
                    all.extend((place..place + rows.len()).map(|place| [place as f64; 3]));
                    place += rows.len();
                }
                Part::Picture(reference) => {
                    let grid = self.references[*reference];
                    add_grid(&mut all, place, grid, self.target);
                    place += grid.0.max(grid.1);
                }
            }
        }
        add_grid(&mut all, place, self.target, self.target);
        all
    }
}

/// An odd number of rows or columns in one of grid and target and an even one in the other are half a place apart.
fn add_grid(all: &mut Vec<Position>, place: usize, (rows, columns): Grid, target: Grid) {
    let centred = |index: usize, size: usize, target: usize| {
        let apart = (size % 2) as f64 - (target % 2) as f64;
        index as f64 - size.div_ceil(2) as f64 + apart / 2.0
    };
    all.extend((0..rows).flat_map(|row| {
        (0..columns).map(move |column| {
            [place as f64, centred(row, rows, target.0), centred(column, columns, target.1)]
        })
    }));
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    const TARGET: Grid = (2, 3);

    #[test]
    fn references_take_the_places_of_their_pictures_and_the_others_come_after_the_text() {
        use Part::{Picture, Text};
        let parts = |pictures: &[Range<usize>], references: usize| {
            Sequence::new(10, pictures, vec![(3, 2); references], TARGET).parts
        };
        assert_eq!(parts(&[2..4, 6..8], 0), [Text(0..10)]);
        assert_eq!(parts(&[2..4, 6..8], 1), [Text(0..2), Picture(0), Text(4..10)]);
        assert_eq!(parts(&[0..4, 4..10], 2), [Picture(0), Picture(1)]);
        assert_eq!(parts(from_ref(&(2..4)), 2), [Text(0..2), Picture(0), Text(4..10), Picture(1)]);
        assert_eq!(parts(&[8..12, 1..2], 1), [Text(0..10), Picture(0)], "a picture that is not in the text");
    }

    #[test]
    fn text_sees_what_was_before_it_and_pictures_see_themselves() {
        let sequence = Sequence::new(TOGETHER + 4, from_ref(&(1..2)), vec![(3, 2)], TARGET);
        let piece = |rows, causal| Piece { rows, causal };
        let end = 7 + TOGETHER + 2;
        let expected = [piece(0..1, true), piece(1..7, false), piece(7..7 + TOGETHER, true)];
        let expected = [&expected[..], &[piece(7 + TOGETHER..end, true)]].concat();
        assert_eq!(sequence.pieces(), expected);
        assert_eq!((sequence.prefix(), sequence.last()), (end, piece(end..end + 6, false)));
    }

    #[test]
    fn text_counts_on_after_the_longer_side_of_a_picture() {
        let sequence = Sequence::new(3, from_ref(&(1..2)), vec![(3, 2)], TARGET);
        // Half a place further and half a place back, to be centred as the target is.
        let picture =
            (-2..1).flat_map(|y| (-1..1).map(move |x| [1.0, f64::from(y) + 0.5, f64::from(x) - 0.5]));
        let target = (-1..1).flat_map(|y| (-2..1).map(move |x| [5.0, f64::from(y), f64::from(x)]));
        let expected: Vec<Position> =
            [[0.0; 3]].into_iter().chain(picture).chain([[4.0; 3]]).chain(target).collect();
        assert_eq!(sequence.positions(), expected);
    }
}
