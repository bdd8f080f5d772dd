//! Where the gateway's response goes: the head to the caller, then the body to its reader.

use std::pin::Pin;
use std::task::{Context, Poll};

use ::tokio::sync::{mpsc, oneshot};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::Frame;

use crate::announced::Announced;
use crate::cgi::{Head, InvalidHead};
use crate::gateway::Error;
use crate::record::ProtocolStatus;

/// Pieces of a body that wait for their reader.
const PIECES: usize = 4;

/// Fields that are about one connection, which is not the application's (RFC 9110 section 7.6.1).
const OF_A_CONNECTION: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, HeaderName::from_static("keep-alive")];

/// The body of a response. An error in it means that the response was cut.
#[derive(Debug)]
pub struct ResponseBody(mpsc::Receiver<Result<Bytes, Error>>);

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.poll_recv(context).map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether no byte had come of the application: it may never have seen the request.
    pub(super) is_untouched: bool,
}

type Told = oneshot::Sender<Result<http::Response<ResponseBody>, Failure>>;

/// Takes the application's STDOUT.
pub(super) struct Outbox {
    tell: Option<Told>,
    head: Vec<u8>,
    body: Option<mpsc::Sender<Result<Bytes, Error>>>,
    is_head: bool,
    announced: Announced,
}

impl Outbox {
    /// `is_head` is whether the request's method is HEAD.
    pub(super) fn new(tell: Told, is_head: bool) -> Self {
        Self { tell: Some(tell), head: Vec::new(), body: None, is_head, announced: Announced::new(true) }
    }

    /// Waits until the caller has dropped the response, or the future that waits for it. Of a body whose announced length has come it
    /// is no sign: its reader has all of it, and END_REQUEST is still to come.
    pub(super) async fn unwanted(&mut self) {
        match (&mut self.tell, &self.body) {
            (Some(tell), _) => tell.closed().await,
            (None, Some(body)) if !self.announced.is_full() => body.closed().await,
            (None, _) => std::future::pending().await,
        }
    }

    /// Passes bytes of STDOUT on. Returns false if the caller has dropped the response, or if its head is wrong, which the
    /// caller is told.
    pub(super) async fn take(&mut self, bytes: &[u8]) -> bool {
        if let Some(body) = &self.body {
            let bytes = self.announced.take_body(bytes);
            if bytes.is_empty() {
                return !body.is_closed();
            }
            return body.send(Ok(Bytes::copy_from_slice(bytes))).await.is_ok();
        }
        self.head.extend_from_slice(bytes);
        let (head, length) = match Head::parse(&self.head) {
            Ok(Some(done)) => done,
            Ok(None) => return true,
            Err(error) => {
                self.fail(error.into(), false).await;
                return false;
            }
        };
        if head.status < 200 {
            // An interim status is about the server's connection (101), or is followed by the response: no response of an application
            // (RFC 3875 section 6.3.3) has one.
            self.fail(InvalidHead::Interim(head.status).into(), false).await;
            return false;
        }
        let (to, from) = mpsc::channel(PIECES);
        self.announced = Announced::of(&head, self.is_head);
        let rest = Bytes::copy_from_slice(self.announced.take_body(&self.head[length..]));
        let response = response(head, ResponseBody(from));
        self.head = Vec::new();
        let wanted = self.tell.take().is_some_and(|tell| tell.send(Ok(response)).is_ok());
        let wanted = wanted && (rest.is_empty() || to.send(Ok(rest)).await.is_ok());
        self.body = Some(to);
        wanted
    }

    /// Returns an error if the response was not complete when END_REQUEST came with this status.
    pub(super) fn is_whole(&self, status: ProtocolStatus) -> Result<(), Error> {
        if status != ProtocolStatus::RequestComplete {
            return Err(Error::Refused(status));
        }
        if self.body.is_none() {
            return Err(InvalidHead::Missing.into());
        }
        match self.announced.missing() {
            Some((got, announced)) => Err(Error::Short { got, announced }),
            None => Ok(()),
        }
    }

    /// Tells the caller, or the reader of the body, that there is no whole response.
    pub(super) async fn fail(&mut self, error: Error, is_untouched: bool) {
        match (self.tell.take(), &self.body) {
            (Some(tell), _) => drop(tell.send(Err(Failure { error, is_untouched }))),
            (None, Some(body)) => drop(body.send(Err(error)).await),
            (None, None) => {}
        }
    }
}

/// The response with this head. How its body is framed for the client is for the server alone to say, but for its length.
fn response(head: Head, body: ResponseBody) -> http::Response<ResponseBody> {
    let mut response = http::Response::new(body);
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let fields = response.headers_mut();
    for (name, value) in head.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            continue;
        };
        // Two lengths are the same one twice, and a client may refuse them.
        let is_second = name == header::CONTENT_LENGTH && fields.contains_key(&name);
        if !is_second && !OF_A_CONNECTION.contains(&name) {
            fields.append(name, value);
        }
    }
    response
}
