//! [`send`]: the process that talks to the collector.
//!
//! One thread, three tasks: one reads what the other process hands over, one sends events, one sends metrics. Each of the last two has a
//! connection of its own, so that neither waits for the other. What waits is bounded: [`queue`].

mod client;
mod delivery;
mod messages;
mod open_metrics;
mod queue;
mod retry;
mod roots;
mod tls;
mod values;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use hyper::header::HeaderName;
use linger_untrusted::Untrusted;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};

use self::client::OtlpClient;
use self::delivery::{deliver_events, deliver_metrics};
use self::queue::{EventQueue, MetricsText};
use self::retry::SendResult;
use crate::counts::ExportCounts;
use crate::endpoint::Endpoint;
use crate::frame::{FrameKind, HEAD, frame, head};

pub use self::open_metrics::MetricNaming;
pub use self::roots::{BadRoots, TrustedRoots};

/// Pause between two accounts to the other process.
const ACCOUNT_EVERY: Duration = Duration::from_millis(100);

/// What the sender needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SendOptions {
    /// Where to.
    pub endpoint: Endpoint,
    /// Fields of each request, such as `authorization`.
    pub headers: Vec<(String, String)>,
    /// What is said of the program and its host: `service.name` and others.
    pub resource: BTreeMap<String, String>,
    /// Name and version of the program, for the scope of what it says.
    pub scope: (String, String),
    /// Since when the counters count, in nanoseconds since 1970.
    pub started_ns: u64,
    /// What metrics and labels are called.
    pub naming: MetricNaming,
    /// Whom to believe, for TLS.
    pub roots: Option<TrustedRoots>,
    /// Longest time for one request, from its connection on.
    pub timeout: Duration,
    /// For how long what was refused for a while is tried again.
    pub give_up: Duration,
    /// How long is sent at the end what is left.
    pub at_end: Duration,
}

impl SendOptions {
    /// The usual options of OpenTelemetry.
    pub fn new(endpoint: Endpoint, scope: (String, String), started_ns: u64, naming: MetricNaming) -> Self {
        Self {
            endpoint,
            headers: Vec::new(),
            resource: BTreeMap::new(),
            scope,
            started_ns,
            naming,
            roots: None,
            timeout: Duration::from_secs(10),
            give_up: Duration::from_secs(300),
            at_end: Duration::from_secs(5),
        }
    }
}

/// Why a field cannot be sent with each request. Values are not repeated: they may be secret.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BadHeader {
    /// Its name has other characters than names have.
    #[error("`{}` is no name of a field", .0.terminal())]
    Name(Untrusted),
    /// Its value has characters that fields do not have in each of the protocols.
    #[error("the value of `{0}` is none that a field can have")]
    Value(String),
    /// It says what the request itself says.
    #[error("`{0}` belongs to the request itself")]
    Own(String),
}

impl SendOptions {
    /// Looks whether requests can have these fields.
    ///
    /// # Errors
    /// Returns the first that they cannot have.
    pub fn check_headers(&self) -> Result<(), BadHeader> {
        const OWN: [&str; 8] = [
            "host",
            "content-type",
            "content-length",
            "content-encoding",
            "transfer-encoding",
            "connection",
            "te",
            "upgrade",
        ];
        for (name, value) in &self.headers {
            let Ok(known) = HeaderName::from_bytes(name.as_bytes()) else {
                return Err(BadHeader::Name(name.as_str().into()));
            };
            let name = known.as_str();
            if OWN.contains(&name) {
                return Err(BadHeader::Own(name.to_owned()));
            }
            // What ends so is base64 in gRPC (`-bin`).
            let is_known =
                !name.ends_with("-bin") && MetadataValue::<Ascii>::try_from(value.as_str()).is_ok();
            if !is_known {
                return Err(BadHeader::Value(name.to_owned()));
            }
        }
        Ok(())
    }
}

/// What the tasks share.
#[derive(Debug)]
struct SendDesk {
    options: SendOptions,
    events: RefCell<EventQueue>,
    has_events: Notify,
    metrics: RefCell<Option<MetricsText>>,
    has_metrics: Notify,
    counts: RefCell<ExportCounts>,
    has_news: Notify,
    /// Until when is sent what is left, once the other process has said all.
    end: watch::Receiver<Option<Instant>>,
}

impl SendDesk {
    fn is_ending(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Returns when the other process has said all.
    async fn ending(&self) {
        // An error says that the reader is gone, which is the end as well.
        let _ = self.end.clone().wait_for(Option::is_some).await;
    }

    fn count(&self, change: impl FnOnce(&mut ExportCounts)) {
        change(&mut self.counts.borrow_mut());
        self.has_news.notify_one();
    }
}

/// Sends what comes over `socket` until it is closed, and then what is left.
///
/// # Errors
/// Returns the errors of starting.
pub fn send(socket: UnixStream, options: SendOptions) -> io::Result<()> {
    // Names are looked up in a thread of their own.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().enable_time().max_blocking_threads(2).build()?;
    let result = runtime.block_on(run(socket, options));
    // A name that is still looked up is not waited for.
    runtime.shutdown_background();
    result
}

/// Sends a request without events, once, and says why the collector does not take it.
///
/// # Errors
/// Returns the errors of starting, and what went wrong in words: part of them may be the collector's.
pub fn try_once(options: &SendOptions) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let result = runtime.block_on(async {
        let mut client = OtlpClient::new(options);
        client.send(&messages::logs(Vec::new(), options, options.started_ns)).await
    });
    runtime.shutdown_background();
    match result {
        SendResult::Taken { message, .. } if message.is_empty() => Ok(()),
        SendResult::Taken { message: words, .. }
        | SendResult::Refused(words)
        | SendResult::Later(words, _) => Err(io::Error::other(words)),
    }
}

async fn run(socket: UnixStream, options: SendOptions) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let (reading, mut writing) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let (ended, end) = watch::channel(None);
    let at_end = options.at_end;
    let desk = Rc::new(SendDesk {
        options,
        events: RefCell::default(),
        has_events: Notify::new(),
        metrics: RefCell::default(),
        has_metrics: Notify::new(),
        counts: RefCell::default(),
        has_news: Notify::new(),
        end,
    });
    let work = async {
        let reader = async {
            read(reading, &desk).await;
            ended.send_replace(Some(Instant::now() + at_end));
        };
        tokio::join!(reader, deliver_events(&desk), deliver_metrics(&desk));
    };
    let too_late = async {
        desk.ending().await;
        let until = *desk.end.borrow();
        let _ = timeout_at(until.unwrap_or_else(Instant::now), std::future::pending::<()>()).await;
    };
    tokio::select! {
        () = work => {}
        () = too_late => {}
        () = account(&mut writing, &desk) => {}
    }
    let left = desk.events.borrow().events();
    desk.counts.borrow_mut().given_up += left;
    // Nobody may be there any more to be told.
    let _ = say(&mut writing, &desk).await;
    Ok(())
}

/// Reads until the other process has said all, or says what it should not.
async fn read(mut socket: OwnedReadHalf, desk: &SendDesk) {
    let mut start = [0; HEAD];
    while socket.read_exact(&mut start).await.is_ok() {
        let Some((kind, length)) = head(start) else { return };
        let mut content = vec![0; length];
        if socket.read_exact(&mut content).await.is_err() {
            return;
        }
        match kind {
            FrameKind::Event => {
                if desk.events.borrow_mut().push(content) {
                    desk.has_events.notify_one();
                } else {
                    desk.count(|counts| counts.queue_full += 1);
                }
            }
            FrameKind::Metrics => {
                *desk.metrics.borrow_mut() = MetricsText::read(content);
                desk.has_metrics.notify_one();
            }
            FrameKind::Counts => return,
        }
    }
}

/// Tells the other process what became of the events, as often as that changes.
async fn account(socket: &mut OwnedWriteHalf, desk: &SendDesk) {
    loop {
        desk.has_news.notified().await;
        if say(socket, desk).await.is_err() {
            // It is gone; the reader sees it as well.
            return std::future::pending().await;
        }
        sleep(ACCOUNT_EVERY).await;
    }
}

async fn say(socket: &mut OwnedWriteHalf, desk: &SendDesk) -> io::Result<()> {
    let json = serde_json::to_vec(&*desk.counts.borrow())?;
    let frame = frame(FrameKind::Counts, &[&json]).ok_or(io::ErrorKind::InvalidData)?;
    socket.write_all(&frame).await
}
