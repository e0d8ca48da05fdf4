//! Which device computes, as users say it.

use std::fmt;
use std::str::FromStr;

/// `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    #[default]
    Cpu,
    /// A graphics card, by its number among those that the driver shows.
    Cuda(usize),
}

/// A word that names no device.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no device; there are cpu, cuda, and cuda:N for card N")]
pub struct Unknown(String);

impl FromStr for Choice {
    type Err = Unknown;

    fn from_str(word: &str) -> Result<Self, Unknown> {
        match word.split_once(':') {
            None if word == "cpu" => Ok(Self::Cpu),
            None if word == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                number.parse().map(Self::Cuda).map_err(|_| Unknown(word.to_owned()))
            }
            _ => Err(Unknown(word.to_owned())),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_devices() {
        let read = |word: &str| word.parse::<Choice>().map_err(|error| error.to_string());
        assert_eq!(read("cpu"), Ok(Choice::Cpu));
        assert_eq!(read("cuda"), Ok(Choice::Cuda(0)));
        assert_eq!(read("cuda:3"), Ok(Choice::Cuda(3)));
        for word in ["", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "gpu", "cpu:0", "CUDA"] {
            let told = format!("`{word}` is no device; there are cpu, cuda, and cuda:N for card N");
            assert_eq!(read(word), Err(told));
        }
    }
}
