//! The body of a response, as the server gets it.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::drain::ResponseInFlight;

pin_project! {
    /// A response's body. Its end is told to whoever discards the rest of the request meanwhile.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        body: B,
        // Dropped with the body: the server drops that when it has sent it, or never will.
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
        self.project().body.poll_frame(context)
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
