//! What waits to be sent to one websocket: a line of frames that knows how many bytes stand in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::extract::ws::Message as Frame;
use tokio::sync::mpsc;

/// A line longer than this gets no frames that a later one makes up for: progress, previews, log lines.
const SHORT: usize = 1 << 20;

/// A line longer than this is cut. It holds the results of a batch of large pictures.
const LONGEST: usize = 64 << 20;

/// What a frame costs beyond its bytes, so that many small ones count as well.
const FRAME: usize = 64;

/// The end where frames are put in.
pub(super) struct Line {
    frames: mpsc::UnboundedSender<Frame>,
    length: Arc<Length>,
}

/// The end where frames are taken out.
pub(super) struct Waiting {
    frames: mpsc::UnboundedReceiver<Frame>,
    length: Arc<Length>,
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
    (Line { frames: sender, length: length.clone() }, Waiting { frames: receiver, length })
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
    pub fn send(&self, frame: Frame) -> bool {
        let size = size(&frame);
        let waiting = self.length.bytes.fetch_add(size, Ordering::Relaxed);
        // One frame is taken whatever its size: a whole graph of results may be larger than the line.
        if waiting > 0 && waiting + size > LONGEST {
            self.length.cut.store(true, Ordering::Relaxed);
            return false;
        }
        self.frames.send(frame).is_ok()
    }

    /// Puts a frame in unless many wait already.
    pub fn send_if_short(&self, frame: &Frame) {
        if self.length.bytes.load(Ordering::Relaxed) < SHORT {
            self.send(frame.clone());
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
    /// The next frame. It counts as waiting until [`Waiting::sent`] says otherwise.
    pub async fn next(&mut self) -> Next {
        let frame = self.frames.recv().await;
        if self.length.cut.load(Ordering::Relaxed) {
            return Next::Cut;
        }
        frame.map_or(Next::Replaced, Next::Frame)
    }

    /// A frame of this size has left.
    pub fn sent(&self, size: usize) {
        self.length.bytes.fetch_sub(size, Ordering::Relaxed);
    }

    pub fn size(frame: &Frame) -> usize {
        size(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> Frame {
        Frame::Binary(vec![0; bytes].into())
    }

    #[tokio::test]
    async fn a_long_line_gets_nothing_that_can_be_made_up_for_and_a_too_long_one_is_cut() {
        let (line, mut waiting) = line();
        assert!(line.send(frame(SHORT)));
        line.send_if_short(&frame(1));
        assert!(line.send(frame(2)));
        for expected in [SHORT, 2] {
            let Next::Frame(found) = waiting.next().await else { panic!("no frame") };
            assert_eq!(found.clone().into_data().len(), expected);
            waiting.sent(Waiting::size(&found));
        }
        line.send_if_short(&frame(3));
        assert!(matches!(waiting.next().await, Next::Frame(_)));
        assert!(!line.send(frame(LONGEST)));
        drop(line);
        assert!(matches!(waiting.next().await, Next::Cut));
    }

    #[tokio::test]
    async fn a_line_without_a_sender_was_taken_over() {
        let (line, mut waiting) = line();
        assert!(line.send(frame(LONGEST + 1)), "one frame may have any size");
        drop(line);
        assert!(matches!(waiting.next().await, Next::Frame(_)));
        assert!(matches!(waiting.next().await, Next::Replaced));
    }
}
