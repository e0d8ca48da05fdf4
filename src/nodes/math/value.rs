//! What expressions calculate with: whole numbers, floats, flags and lists of them, by Python's rules.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Result;

/// Neither base nor exponent of a power may be larger.
const LARGEST_IN_POWER: f64 = 4e6;
const FARTHEST_SHIFT: u32 = 10_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Flag(bool),
    Whole(i128),
    Float(f64),
    List(Arc<[Value]>),
}

impl Value {
    /// A flag counts as 0 or 1.
    pub fn whole(&self) -> Option<i128> {
        match self {
            Self::Flag(flag) => Some(i128::from(*flag)),
            Self::Whole(number) => Some(*number),
            Self::Float(_) | Self::List(_) => None,
        }
    }

    pub fn float(&self) -> Result<f64> {
        match self {
            Self::Float(number) => Ok(*number),
            Self::List(_) => {
                Err("a list is no number; `sum`, `min`, `max` and `values[0]` make one of it".to_owned())
            }
            Self::Flag(_) | Self::Whole(_) => Ok(self.whole().unwrap_or_default() as f64),
        }
    }

    /// Everything is true but zero and an empty list.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Float(number) => *number != 0.0,
            Self::List(items) => !items.is_empty(),
            Self::Flag(_) | Self::Whole(_) => self.whole() != Some(0),
        }
    }

    pub fn negative(&self) -> Result<Self> {
        match self.whole() {
            Some(number) => Ok(Self::Whole(number.checked_neg().ok_or_else(too_large)?)),
            None => Ok(Self::Float(-self.float()?)),
        }
    }

    pub fn positive(&self) -> Result<Self> {
        match self.whole() {
            Some(number) => Ok(Self::Whole(number)),
            None => Ok(Self::Float(self.float()?)),
        }
    }

    pub fn inverted(&self) -> Result<Self> {
        self.whole().map(|number| Self::Whole(!number)).ok_or_else(|| fraction_in_bits("~"))
    }

    /// How two numbers stand to each other; `None` where one is no number at all.
    pub fn order(&self, other: &Self) -> Result<Option<Ordering>> {
        match (self.whole(), other.whole()) {
            (Some(a), Some(b)) => Ok(Some(a.cmp(&b))),
            _ => Ok(self.float()?.partial_cmp(&other.float()?)),
        }
    }

    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(&**b).all(|(a, b)| a.equals(b))
            }
            _ => self.order(other) == Ok(Some(Ordering::Equal)),
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }
}

/// What stands between two numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    Plus,
    Minus,
    Times,
    Divided,
    FloorDivided,
    Modulo,
    Power,
    ShiftedLeft,
    ShiftedRight,
    And,
    Or,
    Xor,
}

impl Operation {
    pub fn apply(self, a: &Value, b: &Value) -> Result<Value> {
        if let (Value::Flag(a), Value::Flag(b)) = (a, b)
            && let Some(flag) = self.on_flags(*a, *b)
        {
            return Ok(Value::Flag(flag));
        }
        match (a.whole(), b.whole()) {
            (Some(a), Some(b)) => self.on_whole(a, b),
            _ => self.on_floats(a.float()?, b.float()?).map(Value::Float),
        }
    }

    /// The operations of which flags stay flags.
    fn on_flags(self, a: bool, b: bool) -> Option<bool> {
        match self {
            Self::And => Some(a & b),
            Self::Or => Some(a | b),
            Self::Xor => Some(a ^ b),
            _ => None,
        }
    }

    fn on_whole(self, a: i128, b: i128) -> Result<Value> {
        let whole = match self {
            Self::Plus => a.checked_add(b),
            Self::Minus => a.checked_sub(b),
            Self::Times => a.checked_mul(b),
            Self::FloorDivided => floor_divided(a, divisor(b)?),
            Self::Modulo => modulo(a, divisor(b)?),
            Self::Power if b >= 0 => return power(a, b),
            Self::Divided | Self::Power => return self.on_floats(a as f64, b as f64).map(Value::Float),
            Self::ShiftedLeft => shifted_left(a, bits(b)?),
            Self::ShiftedRight => Some(a >> bits(b)?.min(127)),
            Self::And => Some(a & b),
            Self::Or => Some(a | b),
            Self::Xor => Some(a ^ b),
        };
        whole.map(Value::Whole).ok_or_else(too_large)
    }

    fn on_floats(self, a: f64, b: f64) -> Result<f64> {
        match self {
            Self::Plus => Ok(a + b),
            Self::Minus => Ok(a - b),
            Self::Times => Ok(a * b),
            Self::Divided => Ok(a / float_divisor(b)?),
            Self::FloorDivided => Ok(float_floor_divided(a, float_divisor(b)?)),
            Self::Modulo => Ok(float_modulo(a, float_divisor(b)?)),
            Self::Power => float_power(a, b),
            Self::ShiftedLeft => Err(fraction_in_bits("<<")),
            Self::ShiftedRight => Err(fraction_in_bits(">>")),
            Self::And => Err(fraction_in_bits("&")),
            Self::Or => Err(fraction_in_bits("|")),
            Self::Xor => Err(fraction_in_bits("^")),
        }
    }
}

pub fn too_large() -> String {
    "a whole number has more than 128 bits".to_owned()
}

fn fraction_in_bits(sign: &str) -> String {
    format!("`{sign}` takes whole numbers; `int` or `floor` makes one")
}

fn divisor(b: i128) -> Result<i128> {
    if b == 0 { Err(by_zero()) } else { Ok(b) }
}

fn float_divisor(b: f64) -> Result<f64> {
    if b == 0.0 { Err(by_zero()) } else { Ok(b) }
}

fn by_zero() -> String {
    "a number is divided by zero".to_owned()
}

/// Towards the smaller number, also below zero.
fn floor_divided(a: i128, b: i128) -> Option<i128> {
    let (quotient, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
    Some(if rest != 0 && (rest < 0) != (b < 0) { quotient - 1 } else { quotient })
}

/// The rest has the sign of the divisor.
fn modulo(a: i128, b: i128) -> Option<i128> {
    let rest = a.checked_rem(b)?;
    Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
}

fn float_modulo(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest == 0.0 {
        0.0_f64.copysign(b)
    } else if (rest < 0.0) == (b < 0.0) {
        rest
    } else {
        rest + b
    }
}

/// From the exact rest, so that rounding does not lift the quotient to the next whole number.
fn float_floor_divided(a: f64, b: f64) -> f64 {
    let rest = a % b;
    let below = if rest != 0.0 && (rest < 0.0) != (b < 0.0) { 1.0 } else { 0.0 };
    let quotient = (a - rest) / b - below;
    if quotient == 0.0 { 0.0_f64.copysign(a / b) } else { quotient.round() }
}

fn bits(count: i128) -> Result<u32> {
    let count = u32::try_from(count).ok().filter(|count| *count <= FARTHEST_SHIFT);
    count.ok_or_else(|| format!("a number is shifted by 0 to {FARTHEST_SHIFT} bits"))
}

fn shifted_left(a: i128, count: u32) -> Option<i128> {
    let shifted = a.checked_shl(count).filter(|shifted| shifted >> count == a);
    if a == 0 { Some(0) } else { shifted }
}

fn within_power(a: f64, b: f64) -> Result<()> {
    if a.abs() > LARGEST_IN_POWER || b.abs() > LARGEST_IN_POWER {
        return Err(format!("a power has a number beyond {LARGEST_IN_POWER}"));
    }
    Ok(())
}

fn power(a: i128, b: i128) -> Result<Value> {
    within_power(a as f64, b as f64)?;
    let exponent = u32::try_from(b).map_err(|_| too_large())?;
    a.checked_pow(exponent).map(Value::Whole).ok_or_else(too_large)
}

fn float_power(a: f64, b: f64) -> Result<f64> {
    within_power(a, b)?;
    if a == 0.0 && b < 0.0 {
        return Err("zero has no negative powers".to_owned());
    }
    if a < 0.0 && b.fract() != 0.0 {
        return Err("a negative number has no real power with a fraction".to_owned());
    }
    let result = a.powf(b);
    if result.is_infinite() { Err("a power is too large".to_owned()) } else { Ok(result) }
}
