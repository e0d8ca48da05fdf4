//! What waits to be sent to one websocket: a line of frames that knows how many bytes stand in it.
//!
//! A frame may be held back for a moment; what stands behind it waits as well, so that the order stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use axum::extract::ws::Message as Frame;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

/// A line longer than this gets no frames that a later one makes up for: progress, previews, log lines.
const SHORT: usize = 1 << 20;

/// A line longer than this is cut. It holds the results of a batch of large pictures.
const LONGEST: usize = 64 << 20;

/// What a frame costs beyond its bytes, so that many small ones count as well.
const FRAME: usize = 64;

/// A frame, and whether it is held back.
type Entry = (Frame, Option<Hold>);

#[derive(Clone, Copy)]
struct Hold {
    /// Counts the frames that were held back.
    number: u64,
    /// When it may leave at the earliest.
    until: Instant,
}

/// The end where frames are put in.
pub(super) struct Line {
    frames: mpsc::UnboundedSender<Entry>,
    length: Arc<Length>,
}

/// The end where frames are taken out.
pub(super) struct Waiting {
    frames: mpsc::UnboundedReceiver<Entry>,
    length: Arc<Length>,
    held: Option<(Frame, Hold)>,
}

#[derive(Default)]
struct Length {
    bytes: AtomicUsize,
    /// Nobody reads: the rest is not worth sending.
    cut: AtomicBool,
    /// How many frames were held back, and up to which of them none is any more.
    holds: AtomicU64,
    released: AtomicU64,
    release: Notify,
}

pub(super) fn line() -> (Line, Waiting) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let length = Arc::new(Length::default());
    let waiting = Waiting { frames: receiver, length: length.clone(), held: None };
    (Line { frames: sender, length }, waiting)
}

fn size(frame: &Frame) -> usize {
    let bytes = match frame {
        Frame::Text(text) => text.len(),
        Frame::Binary(bytes) | Frame::Ping(bytes) | Frame::Pong(bytes) => bytes.len(),
        Frame::Close(_) => 0,
    };
    bytes + FRAME
}

impl Line {
    /// Puts a frame in; `false` when the line is cut.
    pub fn send(&self, frame: Frame, not_before: Option<Instant>) -> bool {
        let size = size(&frame);
        let waiting = self.length.bytes.fetch_add(size, Ordering::Relaxed);
        // One frame is taken whatever its size: a whole graph of results may be larger than the line.
        if waiting > 0 && waiting + size > LONGEST {
            self.length.cut.store(true, Ordering::Relaxed);
            return false;
        }
        let number = |until| Hold { number: self.length.holds.fetch_add(1, Ordering::Relaxed) + 1, until };
        self.frames.send((frame, not_before.map(number))).is_ok()
    }

    /// Holds nothing back any more of what stands in the line.
    pub fn release(&self) {
        self.length.released.store(self.length.holds.load(Ordering::Relaxed), Ordering::Relaxed);
        self.length.release.notify_one();
    }

    /// Puts a frame in unless many wait already.
    pub fn send_if_short(&self, frame: &Frame, not_before: Option<Instant>) {
        if self.length.bytes.load(Ordering::Relaxed) < SHORT {
            self.send(frame.clone(), not_before);
        }
    }
}

/// What comes out of a line.
pub(super) enum Next {
    Frame(Frame),
    /// A newer connection of the same client gets the frames from here on.
    Replaced,
    Cut,
}

impl Waiting {
    /// The next frame. Each counts as waiting until [`Waiting::sent`] says otherwise.
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some((_, hold)) = &self.held
                && !self.is_released(*hold)
            {
                tokio::select! {
                    () = sleep_until(hold.until) => {}
                    () = self.length.release.notified() => continue,
                }
            }
            let next = match self.held.take() {
                Some((frame, _)) => Some((frame, None)),
                None => self.frames.recv().await,
            };
            if self.length.cut.load(Ordering::Relaxed) {
                return Next::Cut;
            }
            match next {
                Some((frame, Some(hold))) => self.held = Some((frame, hold)),
                Some((frame, None)) => return Next::Frame(frame),
                None => return Next::Replaced,
            }
        }
    }

    /// A frame that waits already, unless it is held back or stands behind one that is.
    pub fn try_next(&mut self) -> Option<Frame> {
        if let Some((frame, hold)) = self.held.take() {
            if self.is_released(hold) {
                return Some(frame);
            }
            self.held = Some((frame, hold));
            return None;
        }
        let (frame, hold) = self.frames.try_recv().ok()?;
        let Some(hold) = hold.filter(|hold| !self.is_released(*hold)) else { return Some(frame) };
        self.held = Some((frame, hold));
        None
    }

    fn is_released(&self, hold: Hold) -> bool {
        hold.number <= self.length.released.load(Ordering::Relaxed)
    }

    /// Frames of this size together have left.
    pub fn sent(&self, size: usize) {
        self.length.bytes.fetch_sub(size, Ordering::Relaxed);
    }

    pub fn size(frame: &Frame) -> usize {
        size(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(bytes: usize) -> Frame {
        Frame::Binary(vec![0; bytes].into())
    }

    #[tokio::test]
    async fn a_long_line_gets_nothing_that_can_be_made_up_for_and_a_too_long_one_is_cut() {
        let (line, mut waiting) = line();
        assert!(line.send(frame(SHORT), None));
        line.send_if_short(&frame(1), None);
        assert!(line.send(frame(2), None));
        for expected in [SHORT, 2] {
            let Next::Frame(found) = waiting.next().await else { panic!("no frame") };
            assert_eq!(found.clone().into_data().len(), expected);
            waiting.sent(Waiting::size(&found));
        }
        line.send_if_short(&frame(3), None);
        assert!(matches!(waiting.next().await, Next::Frame(_)));
        assert!(!line.send(frame(LONGEST), None));
        drop(line);
        assert!(matches!(waiting.next().await, Next::Cut));
    }

    #[tokio::test]
    async fn a_line_without_a_sender_was_taken_over() {
        let (line, mut waiting) = line();
        assert!(line.send(frame(LONGEST + 1), None), "one frame may have any size");
        drop(line);
        assert!(matches!(waiting.next().await, Next::Frame(_)));
        assert!(matches!(waiting.next().await, Next::Replaced));
    }

    /// How long frames are held here: longer than a busy machine stands still.
    const HELD: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_held_frame_and_those_behind_it_wait_until_its_time() {
        let (line, mut waiting) = line();
        let begun = Instant::now();
        let until = begun + HELD;
        line.send(frame(1), None);
        line.send(frame(2), Some(until));
        line.send_if_short(&frame(3), Some(until));
        line.send(frame(4), None);
        drop(line);
        for size in 1..=4 {
            let Next::Frame(frame) = waiting.next().await else { panic!("no frame") };
            assert_eq!(frame.into_data().len(), size);
            assert_eq!(begun.elapsed() >= HELD, size > 1);
        }
        assert!(matches!(waiting.next().await, Next::Replaced));
    }

    #[tokio::test]
    async fn a_release_frees_what_is_held_then_and_nothing_that_comes_after() {
        let (line, mut waiting) = line();
        let (begun, hour) = (Instant::now(), Duration::from_secs(3600));
        let soon = begun + HELD;
        line.release();
        line.send(frame(1), Some(begun + hour));
        line.send(frame(2), Some(begun + hour));
        assert!(waiting.try_next().is_none());
        let release = async {
            sleep_until(begun + Duration::from_millis(5)).await;
            line.release();
            line.send(frame(3), Some(soon));
        };
        let (first, ()) = tokio::join!(waiting.next(), release);
        assert!(matches!(first, Next::Frame(frame) if frame.clone().into_data().len() == 1));
        assert!(waiting.try_next().is_some_and(|frame| frame.into_data().len() == 2));
        assert!(waiting.try_next().is_none());
        assert!(matches!(waiting.next().await, Next::Frame(frame) if frame.clone().into_data().len() == 3));
        assert!(Instant::now() >= soon);
    }
}
