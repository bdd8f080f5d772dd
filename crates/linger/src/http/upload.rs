//! The body of a request, as its handler gets it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

use super::drain::{LateDrop, Rest};
use crate::sync::{Mutex, lock};

/// A request's body. The part that a handler drops unread comes back to the layer.
#[derive(Debug)]
pub struct Upload<B: Body + Unpin + Send + 'static> {
    /// Taken only by the drop.
    body: Option<B>,
    /// `None` if nothing can be left unread.
    slot: Option<Arc<UploadSlot<B>>>,
    was_polled: bool,
    is_over: bool,
}

/// Where the two sides of one request meet: the handler with the body, and the layer with the response.
#[derive(Debug)]
pub(super) struct UploadSlot<B>(Mutex<UploadState<B>>);

#[derive(Debug)]
enum UploadState<B> {
    /// The handler has the body, and has not answered.
    Reading,
    /// The handler has dropped the body, and has not answered.
    Dropped(Rest<B>),
    /// The handler has answered, and may still have the body.
    Answered(LateDrop),
}

impl<B: Body + Unpin + Send + 'static> Upload<B> {
    /// Wraps a body. Its unread rest will be put into the slot.
    pub(super) fn new(body: B) -> (Self, Option<Arc<UploadSlot<B>>>) {
        let slot = (!body.is_end_stream()).then(|| Arc::new(UploadSlot(Mutex::new(UploadState::Reading))));
        let this = Self { body: Some(body), slot: slot.clone(), was_polled: false, is_over: false };
        (this, slot)
    }

    fn body(&self) -> &B {
        match &self.body {
            Some(body) => body,
            None => unreachable!("the body is taken by the drop, and nothing follows it"),
        }
    }
}

impl<B: Body + Unpin + Send + 'static> UploadSlot<B> {
    /// Called by the layer when the handler has answered. Takes what the handler has dropped of the body until now. What
    /// the handler drops from now on is treated as `late` says.
    pub(super) fn answered(&self, late: LateDrop) -> Option<Rest<B>> {
        match std::mem::replace(&mut *lock(&self.0), UploadState::Answered(late)) {
            UploadState::Dropped(rest) => Some(rest),
            UploadState::Reading | UploadState::Answered(_) => None,
        }
    }

    fn dropped(&self, rest: Rest<B>) {
        let mut state = lock(&self.0);
        match &*state {
            UploadState::Answered(late) => {
                let late = *late;
                drop(state);
                late.discard(rest);
            }
            UploadState::Reading | UploadState::Dropped(_) => *state = UploadState::Dropped(rest),
        }
    }
}

impl<B: Body + Unpin + Send + 'static> Drop for Upload<B> {
    fn drop(&mut self) {
        let (Some(body), Some(slot)) = (self.body.take(), self.slot.take()) else { return };
        if !self.is_over && !body.is_end_stream() {
            slot.dropped(Rest { body, was_polled: self.was_polled });
        }
    }
}

impl<B: Body + Unpin + Send + 'static> Body for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.was_polled = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        self.is_over |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}
