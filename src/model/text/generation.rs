//! Text that a text encoder writes: what it is asked, and how its words are chosen.
//!
//! Deliberately knows no networks; a token is a number here.

use std::collections::BTreeSet;

use candle_core::Tensor;

use crate::device::MersenneTwister;

/// What an encoder is asked to answer.
#[derive(Clone, Debug, Default)]
pub struct Question {
    pub text: String,
    /// As in [`TextPrompt`](crate::model::TextPrompt).
    pub images: Vec<Tensor>,
    /// Replaces what the model is told about its part; empty for the model's own.
    pub system: String,
    /// Whether it may think before it answers, if it can.
    pub thinking: bool,
    /// Whether the text is put into the model's template of a conversation; else it is continued as it is.
    pub templated: bool,
}

/// How long an answer may be, and how its tokens are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choosing {
    /// Tokens at most.
    pub most: usize,
    /// Without it the likeliest token is taken each time.
    pub sampling: Option<Sampling>,
}

/// Choice by chance. Filters are applied in the order of the fields.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// What the scores of tokens that were written are divided by if they are positive, and multiplied with if not.
    pub repetition_penalty: f32,
    /// What is taken off the scores of tokens that were written.
    pub presence_penalty: f32,
    pub temperature: f32,
    /// How many of the likeliest tokens are in question; 0 for all.
    pub top_k: usize,
    /// The least probability of a token, as a share of the likeliest one's.
    pub min_p: f32,
    /// How much of all probability is in question: the fewest tokens that make it up.
    pub top_p: f32,
    pub seed: u64,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub text: String,
    /// What the model thought before.
    pub thinking: String,
}

const OPENING: &str = "<think>";
const CLOSING: &str = "</think>";

impl Written {
    /// Parts what a model wrote. `opened`: whether its prompt ended where thinking begins.
    pub fn parted(raw: &str, opened: bool) -> Self {
        let thought = raw.trim_start().strip_prefix(OPENING).or_else(|| opened.then_some(raw));
        let Some(thought) = thought else { return Self { text: raw.to_owned(), thinking: String::new() } };
        let (thinking, text) = thought.split_once(CLOSING).unwrap_or((thought, ""));
        Self { text: text.trim().to_owned(), thinking: thinking.trim().to_owned() }
    }
}

/// Chooses one token after the other.
pub struct Chooser {
    sampling: Option<Sampling>,
    dice: MersenneTwister,
    written: BTreeSet<u32>,
}

impl Chooser {
    pub fn new(sampling: Option<Sampling>) -> Self {
        let seed = sampling.map_or(0, |sampling| sampling.seed);
        let dice = MersenneTwister::new((seed ^ (seed >> 32)) as u32);
        Self { sampling, dice, written: BTreeSet::new() }
    }

    /// The next token, by the scores of all; `None` if there are none.
    pub fn next(&mut self, mut scores: Vec<f32>) -> Option<u32> {
        let chosen = match self.sampling {
            Some(sampling) => {
                sampling.penalise(&mut scores, &self.written);
                sampling.draw(&scores, self.dice.uniform_double())
            }
            // Of equal ones the first.
            None => (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a))),
        }?;
        self.written.insert(chosen as u32);
        Some(chosen as u32)
    }
}

impl Sampling {
    fn penalise(&self, scores: &mut [f32], written: &BTreeSet<u32>) {
        for id in written {
            if let Some(score) = scores.get_mut(*id as usize) {
                let factor = self.repetition_penalty.max(f32::MIN_POSITIVE);
                *score = if *score < 0.0 { *score * factor } else { *score / factor };
                *score -= self.presence_penalty;
            }
        }
    }

    /// The tokens in question, likeliest first, with what each counts.
    fn likely(&self, scores: &[f32]) -> Vec<(usize, f64)> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        let better = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        if (1..order.len()).contains(&self.top_k) {
            order.select_nth_unstable_by(self.top_k - 1, better);
            order.truncate(self.top_k);
        }
        order.sort_unstable_by(better);
        let Some(best) = order.first().map(|best| f64::from(scores[*best])) else { return Vec::new() };
        let temperature = f64::from(self.temperature.max(1e-4));
        let counts = |id: usize| ((f64::from(scores[id]) - best) / temperature).exp();
        let mut likely: Vec<_> = order.into_iter().map(|id| (id, counts(id))).collect();
        let enough = likely.partition_point(|(_, count)| *count >= f64::from(self.min_p));
        likely.truncate(enough.max(1));
        let total: f64 = likely.iter().map(|(_, count)| count).sum();
        let mut sum = 0.0;
        let before = likely.iter().take_while(|(_, count)| {
            let open = sum < f64::from(self.top_p) * total;
            sum += count;
            open
        });
        let kept = before.count().max(1);
        likely.truncate(kept);
        likely
    }

    /// The token at a place between 0 and 1.
    fn draw(&self, scores: &[f32], place: f64) -> Option<usize> {
        let likely = self.likely(scores);
        let mut left = place * likely.iter().map(|(_, count)| count).sum::<f64>();
        let reached = likely.iter().find(|(_, count)| {
            left -= count;
            left < 0.0
        });
        reached.or(likely.last()).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use std::f32::consts::LN_2;

    use super::*;

    const ALL: Sampling = Sampling {
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        temperature: 1.0,
        top_k: 0,
        min_p: 0.0,
        top_p: 1.0,
        seed: 7,
    };
    /// Of probabilities 0.25, 0.5, 0.125, 0.125.
    const SCORES: [f32; 4] = [0.0, LN_2, -LN_2, -LN_2];

    fn ids(sampling: Sampling) -> Vec<usize> {
        sampling.likely(&SCORES).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn filters_leave_the_likeliest() {
        assert_eq!(ids(ALL), [1, 0, 2, 3]);
        assert_eq!(ids(Sampling { top_k: 3, ..ALL }), [1, 0, 2]);
        assert_eq!(ids(Sampling { min_p: 0.4, ..ALL }), [1, 0]);
        assert_eq!(ids(Sampling { top_p: 0.74, ..ALL }), [1, 0]);
        assert_eq!(ids(Sampling { top_p: 0.76, ..ALL }), [1, 0, 2]);
        assert_eq!(ids(Sampling { top_p: 0.0, min_p: 2.0, ..ALL }), [1]);
        assert_eq!(ids(Sampling { temperature: 0.5, min_p: 0.2, ..ALL }), [1, 0]);
        assert!(ALL.draw(&[], 0.5).is_none());
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let mut chooser = Chooser::new(Some(ALL));
        let mut counts = [0; 4];
        (0..8000).for_each(|_| counts[chooser.next(SCORES.to_vec()).unwrap() as usize] += 1);
        for (count, expected) in counts.into_iter().zip([2000, 4000, 1000, 1000]) {
            assert!((expected - 200..expected + 200).contains(&count), "{counts:?}");
        }
        let again = |seed| {
            let mut chooser = Chooser::new(Some(Sampling { seed, ..ALL }));
            (0..50).map(|_| chooser.next(SCORES.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(again(3), again(3));
        assert_ne!(again(3), again(4));
    }

    #[test]
    fn what_was_written_becomes_unlikely() {
        let punished = Sampling { top_k: 1, presence_penalty: 5.0, ..ALL };
        let mut chooser = Chooser::new(Some(punished));
        let ids: Vec<_> = (0..4).map(|_| chooser.next(SCORES.to_vec()).unwrap()).collect();
        assert_eq!(ids, [1, 0, 2, 3]);
        let mut chooser = Chooser::new(Some(Sampling { top_k: 1, repetition_penalty: 3.0, ..ALL }));
        let ids: Vec<_> = (0..2).map(|_| chooser.next(vec![1.0, 2.0, -1.0]).unwrap()).collect();
        assert_eq!(ids, [1, 0]);
        let mut greedy = Chooser::new(None);
        let ids: Vec<_> = (0..2).map(|_| greedy.next(vec![1.0, 2.0, 2.0]).unwrap()).collect();
        assert_eq!(ids, [1, 1]);
    }

    #[test]
    fn thoughts_are_parted_from_answers() {
        let parted = |raw: &str, opened| {
            let Written { text, thinking } = Written::parted(raw, opened);
            [text, thinking]
        };
        assert_eq!(parted(" a fox ", false), [" a fox ", ""]);
        assert_eq!(parted("<think>\nhm\n</think>\n\na fox", false), ["a fox", "hm"]);
        assert_eq!(parted("hm\n</think>\n\na fox", true), ["a fox", "hm"]);
        assert_eq!(parted("never done", true), ["", "never done"]);
    }
}
