//! How refusals are told: to the client at a pace, to the log a few per second.
//!
//! Whoever guesses tokens waits for each answer, so that a flood of guesses costs the server little and slows nobody
//! who knows the token. The odd refusal in daily life is answered at once.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;

use super::sender;

/// Refusals that are told at once.
const AT_ONCE: u32 = 100;

/// After these, one each time this has passed.
const PACE: Duration = Duration::from_millis(2);

/// Those that wait are told in groups, so long after each other. A timer that is always about to ring keeps the
/// threads that serve sockets busy: single refusals made a valid client a third slower, groups a few percent.
const GROUP: Duration = Duration::from_millis(40);

/// The longest that a client waits for its refusal, however many there are.
const LONGEST: Duration = Duration::from_secs(1);

/// Lines in the log within [`WINDOW`]; the others are counted.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// What all refusals of a server have in common.
#[derive(Default)]
pub(super) struct Refusals(Mutex<State>);

#[derive(Default)]
struct State {
    /// When the next refusal would be due if all had been told at [`PACE`].
    due: Option<Instant>,
    /// When the first group was told.
    begun: Option<Instant>,
    window: Option<Instant>,
    lines: u32,
    unlogged: u64,
}

/// Who asked for what.
pub(super) struct Asked {
    pub from: IpAddr,
    /// Method and path, without the query, which may hold a token.
    pub what: String,
}

impl Asked {
    pub fn of(request: &Request) -> Self {
        let what = format!("{} {}", request.method(), request.uri().path());
        Self { from: sender::address(request), what }
    }
}

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs why a request is refused, `usual` or not, and waits until it may be told.
    pub async fn tell(&self, asked: &Asked, usual: bool, why: &(dyn Display + Sync)) {
        let wait = {
            let mut state = self.lock();
            let now = Instant::now();
            state.log(asked, usual, why, now);
            state.wait(now)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl State {
    fn log(&mut self, Asked { from, what }: &Asked, usual: bool, why: &dyn Display, now: Instant) {
        if self.window.is_none_or(|begun| now.saturating_duration_since(begun) >= WINDOW) {
            self.window = Some(now);
            self.lines = 0;
            match std::mem::take(&mut self.unlogged) {
                0 => {}
                count => tracing::warn!("{count} more refusals were not logged one by one"),
            }
        }
        self.lines += 1;
        if self.lines > LINES {
            self.unlogged += 1;
        } else if usual {
            tracing::info!(%from, what, "refused: {why}");
        } else {
            tracing::warn!(%from, what, "refused: {why}");
        }
    }

    fn wait(&mut self, now: Instant) -> Duration {
        let slack = PACE * AT_ONCE;
        // Nobody saves up more than `slack` by being quiet, and nobody waits longer than `LONGEST`.
        let due = self.due.map_or(now, |due| due.max(now)).min(now + slack + LONGEST);
        self.due = Some(due + PACE);
        let late = due.saturating_duration_since(now + slack);
        if late.is_zero() {
            return late;
        }
        let begun = *self.begun.get_or_insert(now);
        let since = (now + late).saturating_duration_since(begun).as_millis();
        let groups = since.div_ceil(GROUP.as_millis());
        let told = begun + GROUP * u32::try_from(groups).unwrap_or(u32::MAX);
        told.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_refusals_are_told_at_once_and_many_at_a_pace() {
        let mut state = State::default();
        let now = Instant::now();
        let waits: Vec<_> = (0..=AT_ONCE + 1000).map(|_| state.wait(now)).collect();
        assert!(waits[..=AT_ONCE as usize].iter().all(Duration::is_zero));
        assert_eq!(waits[AT_ONCE as usize + 1], GROUP);
        assert_eq!(waits[AT_ONCE as usize + 30], GROUP * 2);
        assert_eq!(waits.last(), Some(&LONGEST));
        assert!(state.wait(now + Duration::from_secs(10)).is_zero());
    }

    #[test]
    fn the_log_is_spared() {
        let mut state = State::default();
        let asked = Asked { from: IpAddr::from([127, 0, 0, 1]), what: "GET /queue".to_owned() };
        let now = Instant::now();
        (0..1000).for_each(|_| state.log(&asked, false, &"no", now));
        assert_eq!(state.unlogged, u64::from(1000 - LINES));
        state.log(&asked, false, &"no", now + WINDOW);
        assert_eq!(state.unlogged, 0);
    }
}
