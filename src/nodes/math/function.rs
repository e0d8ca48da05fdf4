//! The functions that expressions may call, as Python's of the same names.

use super::Result;
use super::value::{Operation, Value, too_large};

type Function = fn(&[Value]) -> Result<Value>;

const FUNCTIONS: &[(&str, Function)] = &[
    ("sum", sum),
    ("min", |args| extreme(args, std::cmp::Ordering::Less)),
    ("max", |args| extreme(args, std::cmp::Ordering::Greater)),
    ("abs", abs),
    ("round", round),
    ("pow", |args| Operation::Power.apply(at(args, 0, 2)?, at(args, 1, 2)?)),
    ("sqrt", |args| defined(args, f64::sqrt, |x| x >= 0.0)),
    ("ceil", |args| whole(args, f64::ceil)),
    ("floor", |args| whole(args, f64::floor)),
    ("log", log),
    ("log2", |args| defined(args, f64::log2, |x| x > 0.0)),
    ("log10", |args| defined(args, f64::log10, |x| x > 0.0)),
    ("sin", |args| defined(args, f64::sin, f64::is_finite)),
    ("cos", |args| defined(args, f64::cos, f64::is_finite)),
    ("tan", |args| defined(args, f64::tan, f64::is_finite)),
    ("int", |args| whole(args, f64::trunc)),
    ("float", |args| at(args, 0, 1)?.float().map(Value::Float)),
];

pub fn find(name: &str) -> Option<Function> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
}

/// What there is to call, for people.
pub fn names() -> String {
    FUNCTIONS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Argument `index` of a function that takes up to `most`.
fn at(args: &[Value], index: usize, most: usize) -> Result<&Value> {
    if args.len() > most {
        return Err(format!("it takes {most} at most, and there are {}", args.len()));
    }
    args.get(index).ok_or_else(|| format!("it takes {} at least, and there are {}", index + 1, args.len()))
}

fn defined(args: &[Value], function: fn(f64) -> f64, inside: impl Fn(f64) -> bool) -> Result<Value> {
    let x = at(args, 0, 1)?.float()?;
    if inside(x) { Ok(Value::Float(function(x))) } else { Err(format!("it is not defined for {x}")) }
}

fn whole(args: &[Value], rounded: fn(f64) -> f64) -> Result<Value> {
    let value = at(args, 0, 1)?;
    match value.whole() {
        Some(number) => Ok(Value::Whole(number)),
        None => as_whole(rounded(value.float()?)).map(Value::Whole),
    }
}

/// A float without a fraction as a whole number.
fn as_whole(number: f64) -> Result<i128> {
    const BEYOND: f64 = (1_u128 << 127) as f64;
    if number.abs() < BEYOND { Ok(number as i128) } else { Err(too_large()) }
}

fn abs(args: &[Value]) -> Result<Value> {
    let value = at(args, 0, 1)?;
    match value.whole() {
        Some(number) => number.checked_abs().map(Value::Whole).ok_or_else(too_large),
        None => Ok(Value::Float(value.float()?.abs())),
    }
}

/// The smallest or largest of the arguments, or of the items of a list; the first of equal ones.
fn extreme(args: &[Value], side: std::cmp::Ordering) -> Result<Value> {
    let items = match args {
        [one] => one.items().ok_or("it takes a list, or two numbers at least")?,
        many => many,
    };
    let (first, others) = items.split_first().ok_or("there is nothing to compare")?;
    let mut found = first;
    for item in others {
        if item.order(found)? == Some(side) {
            found = item;
        }
    }
    Ok(found.clone())
}

/// Floats are added with what their sums lose to rounding, as newer Pythons do.
fn sum(args: &[Value]) -> Result<Value> {
    let start = if args.len() > 1 { at(args, 1, 2)?.clone() } else { Value::Whole(0) };
    let items = at(args, 0, 2)?.items().ok_or("it takes a list, such as `values`")?;
    let terms = || std::iter::once(&start).chain(items);
    if let Some(numbers) = terms().map(Value::whole).collect::<Option<Vec<_>>>() {
        let total = numbers.into_iter().try_fold(0_i128, i128::checked_add);
        return total.map(Value::Whole).ok_or_else(too_large);
    }
    let (mut total, mut lost) = (0.0_f64, 0.0);
    for term in terms() {
        let term = term.float()?;
        let next = total + term;
        lost += if total.abs() >= term.abs() { (total - next) + term } else { (term - next) + total };
        total = next;
    }
    Ok(Value::Float(if lost.is_finite() { total + lost } else { total }))
}

fn log(args: &[Value]) -> Result<Value> {
    let ln = |index| match at(args, index, 2)?.float()? {
        x if x > 0.0 => Ok(x.ln()),
        x => Err(format!("it is not defined for {x}")),
    };
    match args.len() {
        2 => Operation::Divided.apply(&Value::Float(ln(0)?), &Value::Float(ln(1)?)),
        _ => ln(0).map(Value::Float),
    }
}

/// Halves go to the even neighbour.
fn round(args: &[Value]) -> Result<Value> {
    let value = at(args, 0, 2)?;
    let digits = match args.get(1) {
        Some(digits) => Some(digits.whole().ok_or("the number of digits is whole")?),
        None => None,
    };
    match (value.whole(), digits) {
        (Some(number), Some(digits)) if digits < 0 => rounded_whole(number, digits).map(Value::Whole),
        (Some(number), _) => Ok(Value::Whole(number)),
        (None, None) => as_whole(value.float()?.round_ties_even()).map(Value::Whole),
        (None, Some(digits)) => Ok(Value::Float(rounded(value.float()?, digits))),
    }
}

fn rounded_whole(number: i128, digits: i128) -> Result<i128> {
    let power = u32::try_from(digits.unsigned_abs()).ok().and_then(|power| 10_i128.checked_pow(power));
    let Some(unit) = power else { return Ok(0) };
    let (below, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
    let up = rest > unit - rest || rest == unit - rest && below % 2 != 0;
    (below + i128::from(up)).checked_mul(unit).ok_or_else(too_large)
}

fn rounded(number: f64, digits: i128) -> f64 {
    /// Beyond these, every float is as it was, or zero.
    const MOST: i128 = 323;
    const LEAST: i128 = -308;
    match digits {
        _ if !number.is_finite() => number,
        MOST.. => number,
        // The decimal digits themselves are rounded, of which a product would miss some.
        0..MOST => format!("{number:.*}", digits as usize).parse().unwrap_or(number),
        LEAST..0 => {
            let unit = 10_f64.powi(-digits as i32);
            (number / unit).round_ties_even() * unit
        }
        _ => 0.0_f64.copysign(number),
    }
}
