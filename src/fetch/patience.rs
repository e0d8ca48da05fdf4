//! How long we go on with a server that fails for the moment.

use std::time::Duration;

use super::{Error, Result};

/// When to try again, and when to give up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// No pause is longer. A server that asks for more is not waited for.
    pub longest: Duration,
    /// Failures in a row, without a byte received between them.
    pub tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(300), tries: 8 }
    }
}

impl Patience {
    /// The pause after a number of failures in a row, unless the failure is one that stays.
    pub(super) fn pause(&self, error: &Error, failures: u32) -> Option<Duration> {
        let asked = match error {
            Error::Status { status: 408 | 429 | 500 | 502 | 503 | 504, after, .. } => *after,
            Error::Unreachable { source, .. } if passes(source) => None,
            Error::Cut { .. } | Error::Expired { .. } => None,
            _ => return None,
        };
        let own = self.first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.longest);
        let pause = asked.unwrap_or_default().max(own);
        (failures < self.tries && pause <= self.longest).then_some(pause)
    }

    /// Does something until it works or has failed for good.
    pub(super) fn with<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    failures += 1;
                    let Some(pause) = self.pause(&error, failures) else { return Err(error) };
                    std::thread::sleep(pause);
                }
            }
        }
    }
}

/// Whether a failure of the line may be over in a moment.
fn passes(error: &ureq::Error) -> bool {
    use ureq::Error as Line;
    matches!(error, Line::Io(_) | Line::Timeout(_) | Line::ConnectionFailed | Line::Protocol(_))
}
