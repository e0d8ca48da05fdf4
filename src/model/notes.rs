//! What networks keep of a conditioning from one step of a run to the next. It goes when the conditioning goes.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Notes on one conditioning, shared by its clones: each network finds its own.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    notes: Vec<(Author, Arc<dyn Any + Send + Sync>)>,
    /// Whether a plan has been through a step already.
    planned: bool,
}

/// A network that takes notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author(u64);

impl Author {
    /// One that nobody else is.
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Notes {
    /// What a network has noted.
    pub fn of<T: Send + Sync + 'static>(&self, author: Author) -> Option<Arc<T>> {
        let note = self.book().notes.iter().find(|(other, _)| *other == author)?.1.clone();
        note.downcast().ok()
    }

    /// Notes something in place of what the network noted before.
    pub fn write<T: Send + Sync + 'static>(&self, author: Author, note: Arc<T>) {
        let mut book = self.book();
        book.notes.retain(|(other, _)| *other != author);
        book.notes.push((author, note));
    }

    /// Has estimates take for noted what a first step notes.
    pub fn plan(&self) {
        self.book().planned = true;
    }

    pub fn is_planned(&self) -> bool {
        self.book().planned
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notes of {} networks", self.book().notes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_finds_its_last_note_and_no_other() {
        let [one, other] = [Author::unique(), Author::unique()];
        let notes = Notes::default();
        assert_eq!(notes.of::<u8>(one), None);
        let shared = notes.clone();
        shared.write(one, Arc::new(1u8));
        shared.write(one, Arc::new(2u8));
        assert_eq!(notes.of(one), Some(Arc::new(2u8)));
        assert_eq!((notes.of::<u8>(other), notes.of::<u16>(one)), (None, None));
    }
}
