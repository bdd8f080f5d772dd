//! What a responder tells of its requests, for an access log, and of what keeps gateways waiting.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conversation::{RequestEnd, SaidSoFar};
use crate::incoming::Start;
use crate::params::Params;

/// Is told of what happens. All methods are called where the work is done, on a thread or task that serves: they may count, or send
/// to a channel, and must not block.
pub trait Journal: fmt::Debug + Send + Sync {
    /// A request has ended.
    fn served(&self, _request: &ServedRequest) {}

    /// Something happened to a connection or to the listener.
    fn noted(&self, _notice: &Incident<'_>) {}
}

/// A request that has ended. The texts are as the gateway sent them: whoever shows them escapes them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServedRequest {
    /// The client's address (`REMOTE_ADDR`); empty if the gateway names none.
    pub client: Vec<u8>,
    /// The method.
    pub method: Vec<u8>,
    /// What was asked for: `REQUEST_URI`, else what `SCRIPT_NAME`, `PATH_INFO` and `QUERY_STRING` give.
    pub target: Vec<u8>,
    /// The status of the response, as its header block says; `None` if nothing of it was sent, or the block is none.
    pub status: Option<u16>,
    /// Bytes of the request's body that came before its end, also those that the handler did not read.
    pub body_bytes: u64,
    /// Bytes of the response, the header block included.
    pub response_bytes: u64,
    /// From the last parameter to the last record.
    pub time: Duration,
    /// How the request ended.
    pub end: RequestEnd,
    /// Whether the kernel took the last records. `false`: the gateway was gone, or did not read.
    pub is_sent: bool,
}

/// What happened to a connection or to the listener.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Incident<'a> {
    /// A connection without a request was ended, because another needed its place (`responder::Config::resting`)
    /// or its descriptor.
    Evicted,
    /// A connection was ended, because a record or parameters took too long
    /// (`responder::Config::record_within`).
    TooSlow,
    /// A connection was closed, because its address is none of `responder::Config::allowed`.
    TurnedAway(IpAddr),
    /// No connection can be accepted, because descriptors or memory ran out: new ones wait in the accept queue. It is tried again all the time,
    /// and told once.
    CannotAccept(&'a io::Error),
    /// The next connection was accepted.
    AcceptsAgain {
        /// How long none was.
        after: Duration,
    },
}

/// Tells the log, and the journal if there is one.
pub(crate) fn note(journal: Option<&Arc<dyn Journal>>, notice: &Incident<'_>) {
    match notice {
        Incident::Evicted => tracing::info!("ends a connection without a request, for another one"),
        Incident::TooSlow => tracing::info!("ends a connection: the gateway sends too slowly"),
        Incident::TurnedAway(peer) => {
            tracing::info!(%peer, "closes a connection: this address may not connect")
        }
        Incident::CannotAccept(error) => tracing::warn!(%error, "cannot accept; new connections wait"),
        Incident::AcceptsAgain { after } => tracing::warn!(?after, "accepts again"),
    }
    if let Some(journal) = journal {
        journal.noted(notice);
    }
}

/// Since when no connection can be accepted.
#[derive(Debug, Default)]
pub(crate) struct Lack(Option<Instant>);

impl Lack {
    /// Notes that accept failed.
    pub(crate) fn began(&mut self, journal: Option<&Arc<dyn Journal>>, error: &io::Error) {
        if self.0.is_none() {
            self.0 = Some(Instant::now());
            note(journal, &Incident::CannotAccept(error));
        }
    }

    /// Notes that accept worked.
    pub(crate) fn ended(&mut self, journal: Option<&Arc<dyn Journal>>) {
        if let Some(since) = self.0.take() {
            note(journal, &Incident::AcceptsAgain { after: since.elapsed() });
        }
    }
}

/// The line of a request that runs.
#[derive(Debug)]
pub(crate) struct RequestEntry {
    journal: Arc<dyn Journal>,
    began: Instant,
    served: ServedRequest,
}

impl RequestEntry {
    pub(crate) fn begin(journal: Option<&Arc<dyn Journal>>, start: &Start) -> Option<Box<Self>> {
        let journal = journal?.clone();
        let text = |name| start.params.get(name).unwrap_or_default().to_vec();
        let served = ServedRequest {
            client: text("REMOTE_ADDR"),
            method: text("REQUEST_METHOD"),
            target: target(&start.params),
            status: None,
            body_bytes: 0,
            response_bytes: 0,
            time: Duration::ZERO,
            end: RequestEnd::Cut,
            is_sent: false,
        };
        Some(Box::new(Self { journal, began: Instant::now(), served }))
    }

    /// Tells the journal how the request ended. `body`: bytes of its body that came.
    pub(crate) fn end(mut self, end: RequestEnd, told: SaidSoFar, body: u64, is_sent: bool) {
        let SaidSoFar { status, bytes } = told;
        let status = if end == RequestEnd::Refused { Some(500) } else { status };
        (self.served.status, self.served.response_bytes) = (status, bytes);
        (self.served.body_bytes, self.served.time) = (body, self.began.elapsed());
        (self.served.end, self.served.is_sent) = (end, is_sent);
        self.journal.served(&self.served);
    }
}

fn target(params: &Params) -> Vec<u8> {
    let text = |name| params.get(name).filter(|value| !value.is_empty());
    if let Some(uri) = text("REQUEST_URI") {
        return uri.to_vec();
    }
    let mut target =
        [text("SCRIPT_NAME"), text("PATH_INFO")].into_iter().flatten().collect::<Vec<_>>().concat();
    if let Some(query) = text("QUERY_STRING") {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    target
}
