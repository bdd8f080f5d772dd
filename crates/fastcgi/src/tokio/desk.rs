//! What the requests of a connection share: its conversation, and its writing side.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ::tokio::sync::{Mutex as Turn, Notify};
use ::tokio::time::timeout;
use bytes::Bytes;

use super::wire::AsyncWire;
use crate::conversation::{Conversation, Input, Key, RequestEnd, Said, Which};
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
    }
}

impl Desk {
    pub(super) fn new(conversation: Conversation) -> Self {
        Self {
            state: Mutex::new(DeskState { conversation, waiting: Vec::new(), watching: Vec::new() }),
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

    pub(super) fn finish(&self, key: Key, status: Option<u32>, said: Said) -> RequestEnd {
        let mut state = self.lock();
        let end = state.conversation.finish(key, status, said, Instant::now());
        state.watching.retain(|(other, _)| *other != key);
        // Wake the handler if it still reads after its answer: its read returns an error.
        state.wake();
        end
    }

    pub(super) fn answered(&self, sent: bool) {
        self.lock().conversation.answered(sent);
        self.news.notify_one();
    }
}

/// The connection, and the right to write to it.
pub(super) struct Out<W: ?Sized> {
    turn: Turn<Output>,
    io_timeout: Duration,
    pub(super) wire: W,
}

impl<W> Out<W> {
    pub(super) fn new(wire: W, io_timeout: Duration) -> Self {
        Self { turn: Turn::new(Output::Whole), io_timeout, wire }
    }
}

impl<W: AsyncWire + ?Sized> Out<W> {
    /// Writes all parts without a gap: no record of another request comes in between.
    pub(super) async fn send(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut output = self.turn.lock().await;
        let mut sending = output.begin(parts)?;
        while let Some(parts) = sending.left() {
            let sent = poll_fn(|context| self.wire.poll_send(context, parts));
            let sent = timeout(self.io_timeout, sent).await.map_err(|_| stopped())??;
            sending.sent(sent);
        }
        Ok(())
    }
}
