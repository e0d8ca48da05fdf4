//! What a difference of two networks says, as the tensors of a LoRA file: as ComfyUI extracts it.

use super::svd::{Factors, truncated_svd};
use crate::model::Result;
use crate::stop::{Stop, Stopped};
use crate::weights::{Dtype, Held};

/// What becomes of the differences of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Two thin ones of so many columns and rows, whose product is the nearest.
    Rank(usize),
    /// They stay as they are.
    Whole,
}

/// How much of the numbers of both factors is not cut off at its largest.
const KEPT: f64 = 0.99;

/// Numbers of a LoRA file.
const NUMBERS: Dtype = Dtype::F16;

/// The tensors of a LoRA file that changes a network by `differences`, whose names get `place` before them. `biases`:
/// whether it changes what is no matrix. `told` hears of each difference that is done.
pub fn extract(
    differences: Vec<Held>,
    place: &str,
    form: Form,
    biases: bool,
    stop: &Stop,
    told: &mut dyn FnMut() -> Result<(), Stopped>,
) -> Result<Vec<Held>> {
    let mut all = Vec::new();
    for difference in differences {
        let named = |module: &str, ending: &str| format!("{place}{module}.{ending}");
        let name = difference.name().to_owned();
        if let Some(module) = name.strip_suffix(".weight") {
            match (form, difference.shape().len()) {
                (Form::Rank(_), 0 | 1) if !biases => {}
                (Form::Whole, _) | (_, 0 | 1) => {
                    all.push(difference.written_in(NUMBERS).named(|_| named(module, "diff")));
                }
                (Form::Rank(rank), _) => {
                    if let Some([up, down]) = factors(&difference, rank, stop)? {
                        all.push(up.named(|_| named(module, "lora_up.weight")));
                        all.push(down.named(|_| named(module, "lora_down.weight")));
                    } else {
                        tracing::warn!("the difference of {name} has no factors and is left out");
                    }
                }
            }
        } else if let Some(module) = name.strip_suffix(".bias").filter(|_| biases) {
            all.push(difference.written_in(NUMBERS).named(|_| named(module, "diff_b")));
        }
        told()?;
    }
    Ok(all)
}

/// The longest side of a matrix that is taken apart. ComfyUI needs a square of that side for it, so that no memory has
/// ever been enough for a table of words.
const LONGEST: usize = 1 << 16;

/// Two matrices, or two kernels of a convolution of pictures, whose product is nearly a difference. Kernels of videos
/// have none in ComfyUI.
fn factors(difference: &Held, rank: usize, stop: &Stop) -> Result<Option<[Held; 2]>> {
    let shape = difference.shape();
    let (&[outputs, inputs], kernel) = shape.split_first_chunk().unwrap_or((&[0, 0], &[]));
    let columns = inputs * kernel.iter().product::<usize>();
    if !matches!(kernel.len(), 0 | 2) || outputs.max(columns) > LONGEST {
        return Ok(None);
    }
    let values = difference.to_vec()?;
    let found = truncated_svd(&values, [outputs, columns], rank.min(inputs), stop)?;
    let Some(Factors { rank, mut up, mut down }) = found else { return Ok(None) };
    let most = quantile(up.iter().chain(&down).copied().collect(), KEPT);
    up.iter_mut().chain(&mut down).for_each(|value| *value = value.min(most).max(-most));
    let one: &[usize] = if kernel.is_empty() { &[] } else { &[1, 1] };
    let [of_up, of_down] = [[&[outputs, rank][..], one].concat(), [&[rank, inputs][..], kernel].concat()];
    Ok(Some([Held::given("", NUMBERS, &of_up, &up), Held::given("", NUMBERS, &of_down, &down)]))
}

/// What a share of the numbers is no larger than, on the line between the two that are next to it.
fn quantile(mut numbers: Vec<f32>, share: f64) -> f32 {
    let Some(last) = numbers.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let (_, lower, above) = numbers.select_nth_unstable_by(place as usize, f32::total_cmp);
    let lower = *lower;
    let upper = above.iter().copied().min_by(f32::total_cmp).unwrap_or(lower);
    lower + (upper - lower) * place.fract() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_numbers() {
        assert!((quantile(vec![4.0, 1.0, 3.0, 2.0], 0.5) - 2.5).abs() < 1e-6);
        assert!((quantile(vec![1.0, 0.0], 0.99) - 0.99).abs() < 1e-6);
        assert!((quantile(vec![7.0], 0.99) - 7.0).abs() < 1e-6);
    }

    #[test]
    fn names_types_and_shapes_are_those_of_comfyui() {
        let given = |name: &str, shape: &[usize]| {
            let count = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|index| (index % 7) as f32 - 3.0).collect();
            Held::given(name, Dtype::F32, shape, &values)
        };
        let differences = || {
            vec![
                given("a.weight", &[4, 6]),
                given("a.bias", &[4]),
                given("norm.weight", &[5]),
                given("conv.weight", &[4, 3, 2, 2]),
                given("deep.weight", &[4, 3, 1, 2, 2]),
                given("a.scale_weight", &[]),
            ]
        };
        let made = |form, biases| -> Vec<(String, Vec<usize>)> {
            let stop = Stop::new();
            let all = extract(differences(), "x.", form, biases, &stop, &mut || Ok(())).unwrap();
            assert!(all.iter().all(|tensor| tensor.dtype() == Dtype::F16));
            all.iter().map(|tensor| (tensor.name().to_owned(), tensor.shape().to_vec())).collect()
        };
        let entry = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let matrices = [
            entry("x.a.lora_up.weight", &[4, 2]),
            entry("x.a.lora_down.weight", &[2, 6]),
            entry("x.conv.lora_up.weight", &[4, 2, 1, 1]),
            entry("x.conv.lora_down.weight", &[2, 3, 2, 2]),
        ];
        assert_eq!(made(Form::Rank(2), false), matrices);
        let [one, two, three, four] = matrices;
        let biases = [entry("x.a.diff_b", &[4]), entry("x.norm.diff", &[5])];
        let [bias, norm] = biases.clone();
        assert_eq!(made(Form::Rank(2), true), [one, two, bias, norm, three, four]);
        let names: Vec<String> = made(Form::Whole, false).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["x.a.diff", "x.norm.diff", "x.conv.diff", "x.deep.diff"]);
    }
}
