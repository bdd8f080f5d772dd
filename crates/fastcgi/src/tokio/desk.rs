//! What the requests of a connection share: its conversation, and its writing side.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ::tokio::sync::{Mutex as Turn, Notify};
use ::tokio::time::timeout;
use bytes::Bytes;

use super::stop::{StopNews, at_once};
use super::wire::AsyncWire;
use crate::conversation::{Conversation, Input, Key, RequestEnd, Said, Which};
use crate::journal::Journal;
use crate::responder::{Config, overdue};
use crate::sending::{Output, stopped};

/// The conversation, and the handlers that wait for input from it.
#[derive(Debug)]
pub(super) struct Desk {
    state: Mutex<DeskState>,
    /// A handler has read or ended: the task that reads the connection should ask what to do.
    pub(super) news: Notify,
}

#[derive(Debug)]
pub(super) struct DeskState {
    pub(super) conversation: Conversation,
    waiting: Vec<(Key, Waker)>,
    /// Handlers that wait for their request to be aborted.
    watching: Vec<(Key, Waker)>,
    /// Answers that wait for the rest of their request.
    settling: Vec<(Key, Waker)>,
}

impl DeskState {
    /// Wakes the handlers whose input has come, or will not come.
    pub(super) fn wake(&mut self) {
        let conversation = &self.conversation;
        self.waiting.retain(|(key, waker)| {
            let waits = conversation.is_waiting(*key);
            if !waits {
                waker.wake_by_ref();
            }
            waits
        });
        self.watching.retain(|(key, waker)| {
            let aborted = conversation.is_aborted(*key);
            if aborted {
                waker.wake_by_ref();
            }
            !aborted
        });
        let now = Instant::now();
        self.settling.retain(|(key, waker)| {
            let waits = self.conversation.settle(*key, now).is_some();
            if !waits {
                waker.wake_by_ref();
            }
            waits
        });
    }
}

impl Desk {
    pub(super) fn new(conversation: Conversation) -> Self {
        Self {
            state: Mutex::new(DeskState {
                conversation,
                waiting: Vec::new(),
                watching: Vec::new(),
                settling: Vec::new(),
            }),
            news: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, DeskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the next piece of a stream, or `None` at the stream's end.
    pub(super) fn poll_piece(
        &self,
        key: Key,
        which: Which,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        let mut state = self.lock();
        let input = state.conversation.piece(key, which);
        if state.conversation.is_held() {
            self.news.notify_one();
        }
        match input {
            Ok(Input::Got(piece)) => Poll::Ready(Ok(Some(piece.into()))),
            Ok(Input::End) => Poll::Ready(Ok(None)),
            Ok(Input::Later) => {
                state.waiting.retain(|(other, _)| *other != key);
                state.waiting.push((key, context.waker().clone()));
                Poll::Pending
            }
            Err(gone) => Poll::Ready(Err(gone.into())),
        }
    }

    /// Ready when the gateway no longer waits for the response.
    pub(super) fn poll_aborted(&self, key: Key, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        state.watching.retain(|(other, _)| *other != key);
        if state.conversation.is_aborted(key) {
            return Poll::Ready(());
        }
        state.watching.push((key, context.waker().clone()));
        Poll::Pending
    }

    /// A handler has dropped its request.
    pub(super) fn unwanted(&self, key: Key) {
        let mut state = self.lock();
        state.conversation.unwanted(key);
        state.waiting.retain(|(other, _)| *other != key);
        if state.conversation.is_held() {
            self.news.notify_one();
        }
    }

    /// Until when an answer has to wait for the rest of its request, if it has.
    pub(super) fn settle(&self, key: Key) -> Option<Instant> {
        let mut state = self.lock();
        let until = state.conversation.settle(key, Instant::now());
        if state.conversation.is_held() {
            // What this request held up the connection with is dropped.
            self.news.notify_one();
        }
        // Wakes the handler if it reads although it has answered: its read returns an error.
        state.waiting.retain(|(other, waker)| {
            *other != key || {
                waker.wake_by_ref();
                false
            }
        });
        until
    }

    /// Ready when nothing more of a request is to be awaited, unless that is because time has passed.
    pub(super) fn poll_settled(&self, key: Key, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        state.settling.retain(|(other, _)| *other != key);
        if state.conversation.settle(key, Instant::now()).is_none() {
            return Poll::Ready(());
        }
        state.settling.push((key, context.waker().clone()));
        Poll::Pending
    }

    /// Returns also how many bytes of the request's body came.
    pub(super) fn finish(&self, key: Key, status: Option<u32>, said: Said) -> (RequestEnd, u64) {
        let mut state = self.lock();
        let body = state.conversation.received(key);
        let end = state.conversation.finish(key, status, said, Instant::now());
        state.watching.retain(|(other, _)| *other != key);
        state.settling.retain(|(other, _)| *other != key);
        // Wake the handler if it still reads after its answer: its read returns an error.
        state.wake();
        (end, body)
    }

    pub(super) fn answered(&self, sent: bool) {
        self.lock().conversation.answered(sent);
        self.news.notify_one();
    }
}

/// A writer that waits for room. The connection is read meanwhile.
struct Blocked<'a>(&'a Desk);

impl<'a> Blocked<'a> {
    fn new(desk: &'a Desk) -> Self {
        let mut state = desk.lock();
        state.conversation.blocked(true);
        if state.conversation.is_held() {
            desk.news.notify_one();
        }
        drop(state);
        Self(desk)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.lock().conversation.blocked(false);
    }
}

/// The connection, and the right to write to it.
pub(super) struct Out<W: ?Sized> {
    turn: Turn<Output>,
    io_timeout: Duration,
    desk: Arc<Desk>,
    stop: StopNews,
    pub(super) journal: Option<Arc<dyn Journal>>,
    pub(super) wire: W,
}

impl<W> Out<W> {
    pub(super) fn new(wire: W, desk: Arc<Desk>, config: &Config, stop: StopNews) -> Self {
        let (io_timeout, journal) = (config.io_timeout, config.journal.clone());
        Self { turn: Turn::new(Output::Whole), io_timeout, desk, stop, journal, wire }
    }
}

impl<W: AsyncWire + ?Sized> Out<W> {
    /// Writes all parts without a gap: no record of another request comes in between.
    pub(super) async fn send(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut output = self.turn.lock().await;
        let mut sending = output.begin(parts)?;
        while let Some(parts) = sending.left() {
            let sent = self.send_some(parts).await?;
            sending.sent(sent);
        }
        Ok(())
    }

    /// Sends as much as the send buffer takes. A gateway that sends meanwhile is not silent.
    async fn send_some(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut sent = pin!(poll_fn(|context| self.wire.poll_send(context, parts)));
        if let Some(sent) = at_once(sent.as_mut()).await {
            return sent;
        }
        let _blocked = Blocked::new(&self.desk);
        loop {
            let heard = self.desk.lock().conversation.heard();
            let patient = timeout(self.io_timeout, sent.as_mut());
            let sent = ::tokio::select! {
                biased;
                () = self.stop.overdue() => return Err(overdue()),
                sent = patient => sent,
            };
            match sent {
                Ok(sent) => return sent,
                Err(_) if self.desk.lock().conversation.heard() != heard => {}
                Err(_) => return Err(stopped()),
            }
        }
    }
}
