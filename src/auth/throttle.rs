//! How many passwords may be tried: some at once, then one after the other with a pause, per address and in all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After its first attempts an address gets another one each time this has passed.
const PAUSE: Duration = Duration::from_secs(30);

/// The same for all addresses together, which bounds what many of them can guess and what guessing can cost.
const ATTEMPTS_IN_ALL: u32 = 50;
const PAUSE_IN_ALL: Duration = Duration::from_secs(1);

/// Addresses that are remembered. While so many are trying, others share one allowance.
const MOST_ADDRESSES: usize = 10_000;

/// Counts attempts that failed.
#[derive(Debug)]
pub(super) struct Throttle {
    attempts: u32,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: Count,
    by_address: HashMap<IpAddr, Count>,
}

impl Counts {
    fn wait(&self, attempts: u32, from: IpAddr, now: Instant) -> Duration {
        let own = self.by_address.get(&from).copied().unwrap_or_default();
        own.wait(attempts, PAUSE, now).max(self.all.wait(ATTEMPTS_IN_ALL, PAUSE_IN_ALL, now))
    }
}

/// Attempts that are not forgotten yet.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    spent: f64,
    at: Option<Instant>,
}

impl Count {
    /// What is left of the count at this moment.
    fn spent(self, pause: Duration, now: Instant) -> f64 {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (self.spent - passed.as_secs_f64() / pause.as_secs_f64()).max(0.0)
    }

    /// How long to wait before one more is allowed.
    fn wait(self, attempts: u32, pause: Duration, now: Instant) -> Duration {
        let over = self.spent(pause, now) + 1.0 - f64::from(attempts);
        pause.mul_f64(over.max(0.0))
    }

    fn add(&mut self, attempts: f64, pause: Duration, now: Instant) {
        *self = Self { spent: (self.spent(pause, now) + attempts).max(0.0), at: Some(now) };
    }
}

impl Throttle {
    /// `attempts` is what one address has at once, at least 1.
    pub fn new(attempts: u32) -> Self {
        Self { attempts: attempts.max(1), counts: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long this address has to wait before it may try.
    pub fn wait(&self, from: IpAddr, now: Instant) -> Duration {
        self.lock().wait(self.attempts, kin(from), now)
    }

    /// Counts an attempt before its outcome is known, so that many at once count as many.
    pub fn count(&self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let from = kin(from);
        let mut counts = self.lock();
        let wait = counts.wait(self.attempts, from, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        counts.all.add(1.0, PAUSE_IN_ALL, now);
        if counts.by_address.len() >= MOST_ADDRESSES {
            counts.by_address.retain(|_, count| count.spent(PAUSE, now) > 0.0);
        }
        if counts.by_address.contains_key(&from) || counts.by_address.len() < MOST_ADDRESSES {
            counts.by_address.entry(from).or_default().add(1.0, PAUSE, now);
        }
        Ok(())
    }

    /// Forgets the attempts of an address that turned out to know the password.
    pub fn forgive(&self, from: IpAddr, now: Instant) {
        let mut counts = self.lock();
        counts.by_address.remove(&kin(from));
        counts.all.add(-1.0, PAUSE_IN_ALL, now);
    }
}

/// The address, or the network behind it where one household owns many: IPv6 is given out in /64s.
fn kin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_some_attempts_and_then_waits() {
        let throttle = Throttle::new(3);
        let (one, other) = (address("10.0.0.1"), address("10.0.0.2"));
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(throttle.count(one, now), Ok(()));
        }
        assert_eq!(throttle.count(one, now), Err(PAUSE));
        assert_eq!(throttle.wait(other, now), Duration::ZERO);
        let later = now + PAUSE;
        assert_eq!(throttle.count(one, later), Ok(()));
        assert!(throttle.count(one, later).is_err());
        throttle.forgive(one, later);
        assert_eq!(throttle.wait(one, later), Duration::ZERO);
    }

    #[test]
    fn many_addresses_together_wait_as_well() {
        let throttle = Throttle::new(3);
        let now = Instant::now();
        let tried =
            (0..=255).filter(|n| throttle.count(address(&format!("10.0.1.{n}")), now).is_ok()).count();
        assert_eq!(tried, ATTEMPTS_IN_ALL as usize);
        assert!(throttle.wait(address("10.0.2.1"), now) <= PAUSE_IN_ALL);
        assert!(throttle.count(address("10.0.2.1"), now + PAUSE_IN_ALL).is_ok());
    }

    #[test]
    fn one_network_counts_as_one() {
        assert_eq!(kin(address("2001:db8::1")), kin(address("2001:db8::ffff:1")));
        assert_ne!(kin(address("2001:db8::1")), kin(address("2001:db8:0:1::1")));
        assert_eq!(kin(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }
}
