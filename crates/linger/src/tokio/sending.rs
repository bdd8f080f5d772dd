//! What a connection knows of its writes: whether they have had to wait, and what the socket has taken. And how they are held
//! back until a response is complete.

use std::io;
use std::task::{Context, Poll, Waker};

use tokio::sync::watch;

use crate::sync::{Mutex, lock};

/// WriteCounts since the connection's handle was made. All of them only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WriteCounts {
    /// Bytes that the socket has taken.
    written: u64,
    /// The value of `written` at the last flush.
    flushed: u64,
    /// Times that the server has flushed and then gone on to read: it has written all that it could. TLS flushes after each
    /// record, so that flushes alone say less.
    turns: u64,
    /// Flushed, and not read since.
    is_turning: bool,
    /// Writes for which the socket had no room.
    waits: u64,
}

/// The writes of one connection, as the stream reports them.
#[derive(Debug, Default)]
pub(super) struct Sending {
    counts: watch::Sender<WriteCounts>,
    held: Mutex<HeldWrites>,
}

/// Whether a connection's writes are held back.
#[derive(Debug, Default)]
struct HeldWrites {
    /// Responses that are to be complete before anything is written.
    by: usize,
    /// A response took too long, and nothing is held back any more.
    is_over: bool,
    /// Wakes the task that was told to wait.
    writer: Option<Waker>,
}

impl Sending {
    /// Whether a write may go to the socket now. If not, its task is woken when it may.
    pub(super) fn poll_may_write(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut held = lock(&self.held);
        if held.by == 0 || held.is_over {
            return Poll::Ready(());
        }
        held.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Changes what holds writes back, and wakes the writer if nothing does any more.
    fn change_held(&self, change: impl FnOnce(&mut HeldWrites)) {
        let mut held = lock(&self.held);
        change(&mut held);
        let writer = if held.by == 0 || held.is_over { held.writer.take() } else { None };
        drop(held);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Holds writes back until [`release`](Self::release) is called as often as this.
    pub(super) fn hold(&self) {
        self.change_held(|held| held.by += 1);
    }

    pub(super) fn release(&self) {
        self.change_held(|held| held.by -= 1);
    }

    /// Lets all writes go, now and later.
    pub(super) fn hold_no_more(&self) {
        self.change_held(|held| held.is_over = true);
    }

    pub(super) fn wrote(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Pending => self.note(|counts| counts.waits += 1),
            Poll::Ready(Ok(bytes)) => {
                // Nobody waits for a write alone: it is told by the flush that follows.
                self.counts.send_if_modified(|counts| {
                    counts.written += *bytes as u64;
                    false
                });
            }
            Poll::Ready(Err(_)) => {}
        }
    }

    pub(super) fn flushed(&self) {
        self.note(|counts| (counts.flushed, counts.is_turning) = (counts.written, true));
    }

    /// Called before each read.
    pub(super) fn reads(&self) {
        if self.counts.borrow().is_turning {
            self.note(|counts| (counts.turns, counts.is_turning) = (counts.turns + 1, false));
        }
    }

    /// Changes the counts, and wakes those who wait for a change, if there are any.
    fn note(&self, change: impl FnOnce(&mut WriteCounts)) {
        let is_watched = self.counts.receiver_count() > 0;
        self.counts.send_if_modified(|counts| {
            change(counts);
            is_watched
        });
    }

    /// Begins to watch a response whose first byte has not been written yet.
    pub(super) fn begin(&self) -> ResponseWrites {
        let counts = self.counts.subscribe();
        let before = *counts.borrow();
        ResponseWrites { counts, before }
    }
}

/// Whether the socket has taken one response.
#[derive(Debug)]
pub(crate) struct ResponseWrites {
    counts: watch::Receiver<WriteCounts>,
    /// The counts when the response began.
    before: WriteCounts,
}

/// Where the bytes of a response are that the program has handed to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponsePlace {
    /// The socket has taken all of them.
    Socket,
    /// The server holds some: the socket had no room for them, or the peer's window of flow control has none.
    Server,
}

impl ResponseWrites {
    /// Waits until it is known where a response of `bytes` is. Call it when the server has been handed all of it.
    ///
    /// On a connection with several streams at a time, the bytes of others are counted as this one's. So [`Socket`] may be
    /// said too early for a response that waits for the peer's window, and [`Server`] is said for one that is in the socket if
    /// another stream's bytes have had to wait.
    ///
    /// [`Socket`]: ResponsePlace::Socket
    /// [`Server`]: ResponsePlace::Server
    pub(crate) async fn place(&mut self, bytes: u64) -> ResponsePlace {
        let (before, at_end) = (self.before, *self.counts.borrow());
        let decided = self.counts.wait_for(|now| place(before, at_end, *now, bytes).is_some()).await;
        // An error means that the connection is no more.
        decided.ok().and_then(|now| place(before, at_end, *now, bytes)).unwrap_or(ResponsePlace::Server)
    }
}

/// Where the response is; `None` if that is not known yet. The counts are those `before` the response began, `at_end` (when the
/// server had been handed all of it), and `now`.
fn place(before: WriteCounts, at_end: WriteCounts, now: WriteCounts, bytes: u64) -> Option<ResponsePlace> {
    if now.waits != before.waits {
        Some(ResponsePlace::Server)
    } else if now.flushed.saturating_sub(before.written) >= bytes {
        Some(ResponsePlace::Socket)
    } else if now.turns - at_end.turns >= 2 {
        // The first of these turns may have begun before the end. The second has written what the peer's window allows.
        Some(ResponsePlace::Server)
    } else {
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::super::Connection;
    use super::*;

    fn asked(watched: &mut ResponseWrites, bytes: u64) -> Option<ResponsePlace> {
        match pin!(watched.place(bytes)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    fn write(sending: &Sending, bytes: usize) {
        sending.wrote(&Poll::Ready(Ok(bytes)));
    }

    #[test]
    fn a_response_is_in_the_socket_once_as_many_bytes_are_flushed() {
        let sending = Sending::default();
        write(&sending, 1000);
        let mut watched = sending.begin();
        write(&sending, 99);
        sending.flushed();
        // A byte is missing; what was written before does not count.
        assert_eq!(asked(&mut watched, 100), None);
        write(&sending, 1);
        assert_eq!(asked(&mut watched, 100), None, "not flushed yet");
        sending.flushed();
        assert_eq!(asked(&mut watched, 100), Some(ResponsePlace::Socket));
    }

    /// Bytes of another stream may have been written and not flushed when a response begins.
    #[test]
    fn what_was_written_before_and_flushed_later_is_not_the_responses() {
        let sending = Sending::default();
        write(&sending, 1000);
        let mut watched = sending.begin();
        assert_eq!(asked(&mut watched, 1), None);
        sending.flushed();
        assert_eq!(asked(&mut watched, 1), None);
        write(&sending, 1);
        sending.flushed();
        assert_eq!(asked(&mut watched, 1), Some(ResponsePlace::Socket));
    }

    #[test]
    fn a_write_that_waits_leaves_the_response_with_the_server() {
        let sending = Sending::default();
        sending.wrote(&Poll::Pending);
        let mut watched = sending.begin();
        assert_eq!(asked(&mut watched, 100), None, "it waited before this response");
        sending.wrote(&Poll::Pending);
        write(&sending, 100);
        sending.flushed();
        assert_eq!(asked(&mut watched, 100), Some(ResponsePlace::Server));
    }

    #[test]
    fn two_turns_without_its_bytes_leave_the_response_with_the_server() {
        let sending = Sending::default();
        let mut watched = sending.begin();
        write(&sending, 10);
        let mut place = Box::pin(watched.place(100));
        let mut poll = || place.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll(), Poll::Pending);
        sending.flushed();
        sending.reads();
        assert_eq!(poll(), Poll::Pending, "it may have begun before the end");
        sending.reads();
        assert_eq!(poll(), Poll::Pending, "the same turn");
        sending.flushed();
        assert_eq!(poll(), Poll::Pending, "it may still be writing");
        sending.reads();
        assert_eq!(poll(), Poll::Ready(ResponsePlace::Server));
    }

    /// TLS flushes after each record of a response that has room in the socket.
    #[test]
    fn any_number_of_flushes_in_a_turn_says_nothing() {
        let sending = Sending::default();
        let mut watched = sending.begin();
        let mut place = Box::pin(watched.place(100));
        let mut poll = || place.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        for _ in 0..9 {
            write(&sending, 10);
            sending.flushed();
            assert_eq!(poll(), Poll::Pending);
        }
        write(&sending, 10);
        sending.flushed();
        assert_eq!(poll(), Poll::Ready(ResponsePlace::Socket));
    }

    /// Whether a write of the task with this flag may go to the socket.
    fn may_write(connection: &Connection, flag: &Arc<Flag>) -> bool {
        let waker = Waker::from(flag.clone());
        connection.sending().poll_may_write(&mut Context::from_waker(&waker)).is_ready()
    }

    /// Told when its task is woken.
    #[derive(Default)]
    struct Flag(AtomicUsize);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn writes_wait_for_the_last_response_that_holds_them() {
        let (connection, flag) = (Connection::default(), Arc::new(Flag::default()));
        assert!(may_write(&connection, &flag));
        let (first, second) = (connection.hold_writes(), connection.hold_writes());
        assert!(!may_write(&connection, &flag));
        drop(first);
        assert!(!may_write(&connection, &flag));
        assert_eq!(flag.0.load(Ordering::SeqCst), 0, "woken, and still to wait");
        drop(second);
        assert_eq!(flag.0.load(Ordering::SeqCst), 1);
        assert!(may_write(&connection, &flag));
        drop(connection.hold_writes());
        assert_eq!(flag.0.load(Ordering::SeqCst), 1, "nobody was told to wait");
    }

    #[test]
    fn after_a_response_that_took_too_long_nothing_is_held() {
        let (connection, flag) = (Connection::default(), Arc::new(Flag::default()));
        let hold = connection.hold_writes();
        assert!(!may_write(&connection, &flag));
        connection.hold_no_more();
        assert_eq!(flag.0.load(Ordering::SeqCst), 1);
        assert!(may_write(&connection, &flag), "under the same hold");
        let next = connection.hold_writes();
        drop(hold);
        assert!(may_write(&connection, &flag), "under a later hold");
        drop(next);
    }

    #[test]
    fn a_connection_that_is_no_more_has_nothing_in_its_socket() {
        let sending = Sending::default();
        let mut watched = sending.begin();
        drop(sending);
        assert_eq!(asked(&mut watched, 0), Some(ResponsePlace::Socket), "nothing to send");
        assert_eq!(asked(&mut watched, 1), Some(ResponsePlace::Server));
    }
}
