//! The thread that accepts and serves.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use linger::tokio::Lingering;
use linger::{Budget, Closer, Policy};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::answer::{MetricsSource, Pages};
use crate::peers::Peers;

/// Connections that the kernel accepts for a while. With more slow peers than that a scraper's SYN would have to be sent again.
const BACKLOG: i32 = 1_024;
/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// Pause after an accept that failed: as long as there is no descriptor left, the next fails as well.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// Descriptors that the runtime and the closer take.
const DESCRIPTORS: usize = 8;
/// From so many peers that are answered at once on, they share one text.
const MANY: usize = 4;

/// What peers may use.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EndpointLimits {
    /// Longest time for one request and its answer together, however often bytes come or go.
    pub patience: Duration,
    /// How many peers are served at once; a quarter of the process's descriptors at most. One more ends the oldest.
    pub peers: usize,
    /// How many peers may take their time after their answer: they linger, in descriptors beside those of `peers`.
    pub lingering: usize,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self { patience: Duration::from_secs(5), peers: 256, lingering: 32 }
    }
}

impl EndpointLimits {
    fn peers(&self) -> usize {
        let quarter = getrlimit(Resource::Nofile).current.map(|descriptors| (descriptors / 4).max(2));
        let quarter = quarter.and_then(|quarter| usize::try_from(quarter).ok());
        self.peers.min(quarter.unwrap_or(usize::MAX)).max(1)
    }
}

/// Serves `source` at `listener` from a thread, until the process ends. The thread gives up its capabilities.
///
/// # Errors
/// Returns an error if there are no descriptors or no thread for it.
pub fn serve(listener: TcpListener, limits: EndpointLimits, source: impl MetricsSource) -> io::Result<()> {
    // It listens already; this lengthens its queue.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    // What follows takes an epoll and events of its own: all of it is to be had, or nothing is begun.
    let spare: rustix::io::Result<Vec<_>> =
        (0..DESCRIPTORS).map(|_| rustix::io::fcntl_dupfd_cloexec(&listener, 0)).collect();
    drop(spare?);
    let mut budget = Budget::default();
    budget.sockets = limits.lingering;
    let closer = Closer::new(budget)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let endpoint =
        Arc::new(Endpoint { limits, closer, peers: Mutex::new(Peers::default()), pages: Pages::new(source) });
    let task = move || {
        // What strangers send is read here, and nothing that is done here needs them.
        let none = CapabilitySet::empty();
        let _ =
            set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none });
        runtime.block_on(endpoint.accept(listener));
    };
    thread::Builder::new().name("metrics".into()).spawn(task).map(drop)
}

struct Endpoint<S> {
    limits: EndpointLimits,
    closer: Closer,
    peers: Mutex<Peers>,
    pages: Pages<S>,
}

impl<S> fmt::Debug for Endpoint<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<S: MetricsSource> Endpoint<S> {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(self: Arc<Self>, listener: tokio::net::TcpListener) {
        loop {
            self.make_room().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (id, end) = self.peers().admit(Instant::now());
                    let endpoint = self.clone();
                    tokio::spawn(async move {
                        endpoint.serve(id, stream, &end).await;
                        endpoint.peers().forget(id);
                    });
                    // Reads a request that is there already, before more peers are accepted.
                    tokio::task::yield_now().await;
                }
                Err(error) => self.recover(&error).await,
            }
        }
    }

    /// Waits until one more peer may be served.
    async fn make_room(&self) {
        let most = self.limits.peers();
        loop {
            let evicted = {
                let mut peers = self.peers();
                if peers.len() < most {
                    return;
                }
                peers.evict(Instant::now())
            };
            match evicted {
                // Its task closes the connection now.
                Ok(()) => tokio::task::yield_now().await,
                Err(young) => tokio::time::sleep(young).await,
            }
        }
    }

    /// After a failed accept, most often for want of descriptors: gives up what it has itself, and waits.
    async fn recover(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        self.closer.evict(1);
        let _ = self.peers().evict(Instant::now());
        tokio::time::sleep(AFTER_FAILURE).await;
    }

    /// Serves one request. Whoever is not done in time, or has to make room, is closed without lingering.
    async fn serve(&self, id: u64, stream: TcpStream, end: &Notify) {
        let stream = Lingering::with_closer(stream, Policy::short(), &self.closer);
        let answer = |request: Request<Incoming>| {
            let many = {
                let mut peers = self.peers();
                peers.answers(id);
                peers.answered() > MANY
            };
            let response = self.pages.answer(&request, many);
            async move { Ok::<_, Infallible>(response) }
        };
        let mut http = http1::Builder::new();
        http.keep_alive(false).max_buf_size(LONGEST_HEAD);
        let mut connection = http.serve_connection(TokioIo::new(stream), service_fn(answer));
        let in_time = tokio::time::timeout(self.limits.patience, &mut connection);
        let done = tokio::select! {
            done = in_time => done.is_ok(),
            () = end.notified() => false,
        };
        if !done {
            drop(connection.into_parts().io.into_inner().into_inner());
        }
    }
}
