//! The service between the server and the program's own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;

use super::drain::{DiscardFirst, HELD_RESPONSE, HowDiscarded, LateDrop, Rest, ShortEnd, discard};
use super::upload::UploadSlot;
use super::{Layer, ResponseBody, Unread, Upload};
use crate::Policy;
use crate::tokio::Connection;

/// A service of tower or hyper that discards the rest of unread bodies; made by [`Layer`].
#[derive(Clone, Debug)]
pub struct Service<S> {
    service: S,
    layer: Layer,
}

impl<S> Service<S> {
    pub(super) fn new(service: S, layer: Layer) -> Self {
        Self { service, layer }
    }

    fn begin<B: Body + Unpin + Send + 'static>(
        &self,
        request: Request<B>,
    ) -> (Request<Upload<B>>, RequestInHand<B>) {
        let asked = self.layer.asked(&request);
        let (head, body) = request.into_parts();
        let (body, slot) = Upload::new(body);
        (Request::from_parts(head, body), RequestInHand { slot, ..asked })
    }
}

impl<S, B, R> tower_service::Service<Request<B>> for Service<S>
where
    S: tower_service::Service<Request<Upload<B>>, Response = Response<R>>,
    B: Body + Unpin + Send + 'static,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (request, asked) = self.begin(request);
        ResponseFuture { answer: self.service.call(request), asked, emptying: None }
    }
}

#[cfg(feature = "hyper")]
impl<S, B, R> hyper::service::Service<Request<B>> for Service<S>
where
    S: hyper::service::Service<Request<Upload<B>>, Response = Response<R>>,
    B: Body + Unpin + Send + 'static,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B, R>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let (request, asked) = self.begin(request);
        ResponseFuture { answer: self.service.call(request), asked, emptying: None }
    }
}

impl Layer {
    fn asked<B>(&self, request: &Request<B>) -> RequestInHand<B> {
        #[cfg(feature = "axum")]
        let connection = self.connection.clone().or_else(|| crate::axum::connection(request.extensions()));
        #[cfg(not(feature = "axum"))]
        let connection = self.connection.clone();
        RequestInHand {
            slot: None,
            connection,
            unread: self.unread,
            is_http2: request.version() >= Version::HTTP_2,
            has_length: request.headers().contains_key(CONTENT_LENGTH),
            is_connect: request.method() == Method::CONNECT,
            expects: says(request.headers(), &EXPECT, "100-continue"),
            closes: says(request.headers(), &CONNECTION, "close"),
        }
    }
}

/// The facts of a request that decide how it ends.
#[derive(Debug)]
struct RequestInHand<B> {
    /// `None` if the request has no body.
    slot: Option<Arc<UploadSlot<B>>>,
    connection: Option<Connection>,
    unread: Unread,
    is_http2: bool,
    /// It has a `content-length`.
    has_length: bool,
    is_connect: bool,
    expects: bool,
    closes: bool,
}

pin_project! {
    /// A response to come.
    #[derive(Debug)]
    pub struct ResponseFuture<F, B, R> {
        #[pin]
        answer: F,
        asked: RequestInHand<B>,
        // The response, which waits for what has arrived of the body to be discarded.
        emptying: Option<(Response<R>, DiscardFirst<B>)>,
    }
}

impl<F, B, R, E> Future for ResponseFuture<F, B, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    B: Body + Unpin + Send + 'static,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.emptying.is_none() {
            match this.asked.answered(ready!(this.answer.poll(context))?) {
                ResponseStep::Send(response) => return Poll::Ready(Ok(response)),
                ResponseStep::Empty(response, emptying) => *this.emptying = Some((response, emptying)),
            }
        }
        let Some((_, emptying)) = this.emptying else { return Poll::Pending };
        let discarded = ready!(emptying.poll(context));
        let Some((mut response, rest)) = this.emptying.take() else { return Poll::Pending };
        if discarded == HowDiscarded::Part {
            this.asked.ends_with(&mut response, true);
        }
        // hyper stops reading the connection when the rest is dropped.
        drop(rest);
        Poll::Ready(Ok(sent(response)))
    }
}

/// What to do with a response.
enum ResponseStep<B, R> {
    Send(Response<ResponseBody<R>>),
    Empty(Response<R>, DiscardFirst<B>),
}

impl<B: Body + Unpin + Send + 'static> RequestInHand<B> {
    fn answered<R: Body>(&mut self, mut response: Response<R>) -> ResponseStep<B, R> {
        let extensions = response.extensions();
        if let (Some(connection), Some(policy)) = (&self.connection, extensions.get::<Policy>()) {
            connection.close_with(*policy);
        }
        let Some(slot) = self.slot.take() else { return ResponseStep::Send(sent(response)) };
        let unread = extensions.get().copied().unwrap_or(self.unread);
        let status = response.status();
        let is_upgraded =
            status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success());
        if is_upgraded {
            // The connection is the program's from here on.
            drop(slot.answered(LateDrop::Drop));
            return ResponseStep::Send(sent(response));
        }
        let late = if self.is_http2 { unread } else { Unread { bytes: unread.keep, ..unread } };
        let Some(rest) = slot.answered(LateDrop::Discard { unread: late, expects: self.expects }) else {
            return ResponseStep::Send(sent(response));
        };
        if self.expects && !rest.was_polled {
            // The client has not begun to send its body, and a read would ask for it.
            self.ends_with(&mut response, false);
            return ResponseStep::Send(sent(response));
        }
        if self.is_http2 {
            let sending = discard(rest.body, unread, self.short_end(), self.held_until_complete(&response));
            return ResponseStep::Send(response.map(|body| ResponseBody::new(body, sending)));
        }
        self.keep_or_close(response, rest, unread)
    }

    fn short_end(&self) -> ShortEnd {
        if self.has_length {
            ShortEnd::Fatal(self.connection.as_ref().map(Connection::watch_response))
        } else {
            ShortEnd::Harmless
        }
    }

    /// The connection, if its writes are to be held back until it has all of the response: see [`ShortEnd`].
    fn held_until_complete<R: Body>(&self, response: &Response<R>) -> Option<Connection> {
        let is_short =
            response.body().size_hint().exact().is_some_and(|bytes| (1..=HELD_RESPONSE).contains(&bytes));
        (self.has_length && is_short).then(|| self.connection.clone()).flatten()
    }

    fn keep_or_close<R>(
        &self,
        mut response: Response<R>,
        rest: Rest<B>,
        unread: Unread,
    ) -> ResponseStep<B, R> {
        let is_last = self.closes || says(response.headers(), &CONNECTION, "close");
        // Even if the client closes, the response may have to wait for the body: the client may be a gateway that
        // cannot pass an early answer on.
        let is_in_vain = is_last && unread.wait.is_zero();
        if is_in_vain || unread.keep == 0 || rest.body.size_hint().lower() > unread.keep {
            self.ends_with(&mut response, true);
            return ResponseStep::Send(sent(response));
        }
        let stop = || self.connection.as_ref().and_then(Connection::stop_notice);
        ResponseStep::Empty(response, DiscardFirst::new(rest.body, unread, stop))
    }

    /// Announces that the connection ends with this response, and tells the stream whether an upload is under way
    /// on it.
    fn ends_with<R>(&self, response: &mut Response<R>, is_uploading: bool) {
        if self.is_http2 {
            return;
        }
        if let (Some(connection), true) = (&self.connection, is_uploading) {
            connection.expects_more();
        }
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn sent<R>(response: Response<R>) -> Response<ResponseBody<R>> {
    response.map(|body| ResponseBody::new(body, None))
}

/// Whether a header's list has this word (RFC 9110 section 5.6.1).
fn says(headers: &HeaderMap, name: &::http::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}
