//! The body of a response, as the server gets it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::drain::ResponseInFlight;

pin_project! {
    /// A response's body. When it ends, the task that discards the rest of the request's body is told.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        body: B,
        // Dropped with the body, which the server drops when it has sent the body or will never send it.
        sending: Option<ResponseInFlight>,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(body: B, sending: Option<ResponseInFlight>) -> Self {
        Self { body, sending }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(context));
        if let (Some(sending), Some(Ok(frame))) = (this.sending, &frame) {
            sending.bytes += frame.data_ref().map_or(0, |data| data.remaining() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::new(B::default(), None)
    }
}
