//! A thread that hashes half a block while its owner receives the other half.
//!
//! The owner lends the thread one job at a time. If the thread has not begun when the result is needed, the owner takes
//! the job back and does it: a thread that gets no processor costs only two locks.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::hash::{PIECE, PIECES, subtree};
use crate::host;
use crate::page_buffer::PageBuffer;

/// Pieces lent at once: half a block. Both threads then have equal work, and the owner has the other half to hash
/// before it needs the result.
pub(crate) const LENT: usize = PIECES / 2;

type Lent = [PageBuffer; LENT];
type Values = [[u8; 32]; LENT];

#[derive(Debug)]
pub(crate) struct Assistant {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Desk {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Debug)]
enum Work {
    Nothing,
    /// Pieces and where in the file they begin.
    Given(Lent, u64),
    Begun,
    Done(Lent, Values),
    Over,
}

impl Assistant {
    /// Starts the thread. `None` if this process may use fewer than `processors`, or if no thread can be made.
    pub(crate) fn hire(processors: usize) -> Option<Self> {
        if host::simulated().is_some()
            || std::thread::available_parallelism().map_or(1, usize::from) < processors
        {
            return None;
        }
        let desk = Arc::new(Desk { work: Mutex::new(Work::Nothing), changed: Condvar::new() });
        let its = Arc::clone(&desk);
        let thread = std::thread::Builder::new().name("hash".into()).spawn(move || its.serve()).ok()?;
        Some(Self { desk, thread: Some(thread) })
    }

    /// Lends whole pieces to the thread. The first piece begins at `offset` of its file. Pieces that were lent before must
    /// have been taken back.
    pub(crate) fn lend(&self, pieces: Lent, offset: u64) {
        *self.desk.lock() = Work::Given(pieces, offset);
        self.desk.changed.notify_one();
    }

    /// Takes the lent pieces back with their chaining values; `None` if nothing was lent.
    pub(crate) fn take_back(&self) -> Option<(Lent, Values)> {
        let mut work = self.desk.lock();
        loop {
            match std::mem::replace(&mut *work, Work::Nothing) {
                Work::Given(pieces, offset) => {
                    drop(work);
                    let values = hash(&pieces, offset);
                    return Some((pieces, values));
                }
                Work::Begun => {
                    *work = Work::Begun;
                    work = self.desk.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
                Work::Done(pieces, values) => return Some((pieces, values)),
                Work::Nothing | Work::Over => return None,
            }
        }
    }
}

impl Drop for Assistant {
    fn drop(&mut self) {
        *self.desk.lock() = Work::Over;
        self.desk.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut work = self.lock();
        loop {
            match std::mem::replace(&mut *work, Work::Begun) {
                Work::Given(pieces, offset) => {
                    drop(work);
                    let values = hash(&pieces, offset);
                    work = self.lock();
                    if matches!(*work, Work::Over) {
                        return;
                    }
                    *work = Work::Done(pieces, values);
                    self.changed.notify_one();
                }
                Work::Over => return,
                other => {
                    *work = other;
                    work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

fn hash(pieces: &Lent, offset: u64) -> Values {
    std::array::from_fn(|at| subtree(pieces[at].first(PIECE), offset.saturating_add((at * PIECE) as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_are_the_same_whoever_computed_them() {
        let Some(assistant) = Assistant::hire(2) else {
            return linger_testing::skip("two processors", "there is one");
        };
        assert!(assistant.take_back().is_none());
        let pieces: Lent = std::array::from_fn(|at| {
            let mut piece = PageBuffer::default();
            let bytes = piece.bytes(PIECE).iter_mut().enumerate();
            bytes.for_each(|(number, byte)| *byte = (number % 251 + at) as u8);
            piece
        });
        for round in 0..200u64 {
            assistant.lend(pieces.clone(), round << 20);
            if round % 3 == 0 {
                // Long enough for the assistant to begin, or to be done. Both are right.
                std::hint::black_box(hash(&pieces, 0));
            }
            let (back, values) = assistant.take_back().expect("what was lent");
            let is_same = (0..LENT).all(|at| back[at].first(PIECE) == pieces[at].first(PIECE));
            assert!(is_same && values == hash(&pieces, round << 20), "{round}");
        }
        assert!(assistant.take_back().is_none());
        assistant.lend(pieces, 0);
    }
}
