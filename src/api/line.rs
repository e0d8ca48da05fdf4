//! What waits to be sent to one websocket: a line of frames that knows how many bytes stand in it.
//!
//! A frame may be held back for a moment. Whatever else is put in behind it releases it, so that the order stays;
//! only frames that say they may pass do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::extract::ws::Message as Frame;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// A line longer than this gets no frames that a later one makes up for: progress, previews, log lines.
const SHORT: usize = 1 << 20;

/// A line longer than this is cut. It holds the results of a batch of large pictures.
const LONGEST: usize = 64 << 20;

/// What a frame costs beyond its bytes, so that many small ones count as well.
const FRAME: usize = 64;

/// The end where frames are put in.
pub(super) struct Line {
    frames: mpsc::UnboundedSender<(Frame, Order)>,
    length: Arc<Length>,
}

/// The end where frames are taken out.
pub(super) struct Waiting {
    frames: mpsc::UnboundedReceiver<(Frame, Order)>,
    length: Arc<Length>,
    held: Option<(Frame, Instant)>,
    /// What released the frame that was held.
    behind: Option<(Frame, Order)>,
}

/// How a frame stands in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Usual,
    /// Need not wait behind a frame that is held back.
    Passing,
    /// Is held back until then.
    Held(Instant),
}

#[derive(Default)]
struct Length {
    bytes: AtomicUsize,
    /// Nobody reads: the rest is not worth sending.
    cut: AtomicBool,
}

pub(super) fn line() -> (Line, Waiting) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let length = Arc::new(Length::default());
    let waiting = Waiting { frames: receiver, length: length.clone(), held: None, behind: None };
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
    pub fn send(&self, frame: Frame, order: Order) -> bool {
        let size = size(&frame);
        let waiting = self.length.bytes.fetch_add(size, Ordering::Relaxed);
        // One frame is taken whatever its size: a whole graph of results may be larger than the line.
        if waiting > 0 && waiting + size > LONGEST {
            self.length.cut.store(true, Ordering::Relaxed);
            return false;
        }
        self.frames.send((frame, order)).is_ok()
    }

    /// Puts a frame in unless many wait already.
    pub fn send_if_short(&self, frame: &Frame) {
        if self.length.bytes.load(Ordering::Relaxed) < SHORT {
            self.send(frame.clone(), Order::Passing);
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
            let next = self.held_or_next().await;
            if self.length.cut.load(Ordering::Relaxed) {
                return Next::Cut;
            }
            match next {
                Some((frame, Order::Held(until))) => self.held = Some((frame, until)),
                Some((frame, _)) => return Next::Frame(frame),
                None => return Next::Replaced,
            }
        }
    }

    async fn held_or_next(&mut self) -> Option<(Frame, Order)> {
        let Some((_, until)) = &self.held else {
            return match self.behind.take() {
                Some(behind) => Some(behind),
                None => self.frames.recv().await,
            };
        };
        tokio::select! {
            next = self.frames.recv() => match next {
                Some((frame, Order::Passing)) => return Some((frame, Order::Passing)),
                next => self.behind = next,
            },
            () = sleep_until(*until) => {}
        }
        self.held.take().map(|(frame, _)| (frame, Order::Usual))
    }

    /// A frame that waits already, unless it is held back or stands behind one that is.
    pub fn try_next(&mut self) -> Option<Frame> {
        if self.held.is_some() {
            return None;
        }
        let (frame, order) = self.behind.take().or_else(|| self.frames.try_recv().ok())?;
        match order {
            Order::Held(until) => {
                self.held = Some((frame, until));
                None
            }
            Order::Usual | Order::Passing => Some(frame),
        }
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
        assert!(line.send(frame(SHORT), Order::Usual));
        line.send_if_short(&frame(1));
        assert!(line.send(frame(2), Order::Usual));
        for expected in [SHORT, 2] {
            let Next::Frame(found) = waiting.next().await else { panic!("no frame") };
            assert_eq!(found.clone().into_data().len(), expected);
            waiting.sent(Waiting::size(&found));
        }
        line.send_if_short(&frame(3));
        assert!(matches!(waiting.next().await, Next::Frame(_)));
        assert!(!line.send(frame(LONGEST), Order::Usual));
        drop(line);
        assert!(matches!(waiting.next().await, Next::Cut));
    }

    #[tokio::test]
    async fn a_line_without_a_sender_was_taken_over() {
        let (line, mut waiting) = line();
        assert!(line.send(frame(LONGEST + 1), Order::Usual), "one frame may have any size");
        drop(line);
        assert!(matches!(waiting.next().await, Next::Frame(_)));
        assert!(matches!(waiting.next().await, Next::Replaced));
    }

    #[tokio::test]
    async fn a_held_frame_waits_until_its_time_or_until_one_that_may_not_pass() {
        let (line, mut waiting) = line();
        let (soon, late) = (Duration::from_millis(30), Duration::from_secs(600));
        let begun = Instant::now();
        line.send(frame(1), Order::Held(begun + soon));
        line.send(frame(2), Order::Passing);
        let mut sizes = Vec::new();
        let mut take = async |waiting: &mut Waiting| {
            let Next::Frame(frame) = waiting.next().await else { panic!("no frame") };
            sizes.push(frame.into_data().len());
        };
        take(&mut waiting).await;
        take(&mut waiting).await;
        assert!(begun.elapsed() >= soon);
        line.send(frame(3), Order::Held(begun + late));
        line.send(frame(4), Order::Passing);
        line.send(frame(5), Order::Usual);
        line.send(frame(6), Order::Held(begun + late));
        drop(line);
        for _ in 3..=6 {
            take(&mut waiting).await;
        }
        assert_eq!(sizes, [2, 1, 4, 3, 5, 6]);
        assert!(matches!(waiting.next().await, Next::Replaced));
        assert!(begun.elapsed() < late);
    }
}
