//! The vision tower on a card that is acted out, beside the same tower on the processor.

use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use comfyd::device::cuda::store::Limits;
use comfyd::model::Error;
use comfyd::model::card::Card;
use comfyd::model::text::qwen2_5_vl::Encoder;
use comfyd::stop::Stop;
use comfyd::weights::{File, Weights};

use crate::host::{Against, Host};
use crate::network::{PLENTY, distance};
use crate::streams::Streams;
use crate::tiny_qwen;

/// How far tokens may be from those in `f32`: a card rounds states to BF16 after each of some 15 steps in each of eight
/// blocks, by 2e-3 on average.
const ALLOWED: f64 = 3e-2;

static HERE: LazyLock<Encoder> = LazyLock::new(|| {
    let file = File::open(tiny_qwen::models().join(tiny_qwen::TEXT_ENCODER)).unwrap();
    Encoder::load(Weights::new(file, "")).unwrap()
});

/// A picture of so many cells.
fn picture([rows, columns]: [usize; 2]) -> Tensor {
    let count = 3 * 28 * 28 * rows * columns;
    let values: Vec<f32> = (0..count).map(|index| (index as f32 * 0.013).sin().abs()).collect();
    Tensor::from_vec(values, (1, 28 * rows, 28 * columns, 3), &Device::Cpu).unwrap()
}

fn look(encoder: &Encoder, picture: &Tensor) -> Result<Tensor, Error> {
    encoder.look(picture, &Stop::new()).map(|(seen, _)| seen.tokens)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_card_sees_what_the_processor_sees() {
    let there = HERE.with_card(&Card::new(Host::new(Against::End, 3), PLENTY)).unwrap();
    // One window, and several of two sizes.
    for cells in [[2, 2], [1, 9]] {
        let picture = picture(cells);
        let error = distance(&look(&there, &picture).unwrap(), &look(&HERE, &picture).unwrap());
        println!("{cells:?} cells: {error:.2e}, {ALLOWED:.2e} is allowed");
        assert!(error > 0.0 && error <= ALLOWED, "{cells:?}: {error}");
    }
}

#[test]
fn blocks_that_do_not_fit_come_in_turn_and_nothing_is_lost() {
    let picture = picture([2, 2]);
    let all = Streams::new(1 << 40, 1e9);
    let there = HERE.with_card(&Card::new(Host::accounted(all.clone()), PLENTY)).unwrap();
    let wanted = values(&look(&there, &picture).unwrap());
    let weights = all.count().held;
    let budget = all.count().peak - weights / 4;
    let tight = Streams::new(budget, 1e9);
    let limits = Limits { budget, overhead: 0 };
    let there = HERE.with_card(&Card::new(Host::accounted(tight.clone()), limits)).unwrap();
    assert_eq!(values(&look(&there, &picture).unwrap()), wanted);
    assert!(tight.count().refused == 0 && tight.count().copied >= weights, "{:?}", tight.count());
    drop(there);
    assert_eq!(tight.count().rooms, 0);
    // Some of the pieces of memory are refused once.
    for number in (0..all.count().asked).step_by(5) {
        let streams = Streams::new(1 << 40, 1e9);
        let there = HERE.with_card(&Card::new(Host::accounted(streams.clone()), PLENTY)).unwrap();
        streams.refuse(number);
        match look(&there, &picture) {
            Ok(found) => assert_eq!(values(&found), wanted, "piece {number}"),
            Err(error) => assert!(error.to_string().contains("out of memory"), "{error}"),
        }
        drop(there);
        assert_eq!(streams.count().rooms, 0, "lost after piece {number}");
    }
}
