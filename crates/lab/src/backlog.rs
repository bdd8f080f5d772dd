//! An experiment with an accept queue that is too small. It shows resets before the first byte that no close has
//! caused.
//!
//! One worker could serve a burst of connections in time, but its accept queue cannot hold them. Once the queue is full, the
//! kernel drops a SYN, and the client sends it again after a second. The kernel drops the last packet of a handshake or,
//! with `tcp_abort_on_overflow`, answers it with a reset.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use linger_netns::{Counters, net};

use crate::bed::{Bed, BedOptions};
use crate::client::{ClientPlan, attempt};
use crate::ending::Ending;
use crate::link::Link;
use crate::model::ClientModel;
use crate::server::{Consume, ServerPlan, listen, work};
use crate::stats::Tally;
use crate::stop::Stop;

/// A burst of clients meets one busy worker and an accept queue.
#[derive(Clone, Debug)]
pub struct BacklogPlan {
    /// The link between them.
    pub link: Link,
    /// The server's backlog. The queue holds one connection more.
    pub backlog: u32,
    /// Clients, one every millisecond, so that some handshakes overlap, but not all of them.
    pub clients: u16,
    /// `tcp_abort_on_overflow`: whether a full queue answers the handshake's last packet with a reset or drops it.
    pub abort_on_overflow: bool,
    /// How long the worker is busy with each request.
    pub busy: Duration,
    /// How long a client waits.
    pub patience: Duration,
}

impl BacklogPlan {
    /// The lab's usual burst.
    pub fn new(link: Link, backlog: u32, abort_on_overflow: bool) -> Self {
        Self {
            link,
            backlog,
            clients: 64,
            abort_on_overflow,
            busy: Duration::from_millis(10),
            patience: Duration::from_secs(2),
        }
    }
}

/// The result of a burst.
#[derive(Debug)]
pub struct BacklogReport {
    /// The plan of the burst.
    pub plan: BacklogPlan,
    /// The results of the connections.
    pub tally: Tally,
    /// The kernel's counters of the server's namespace.
    pub counters: Counters,
    /// How long it took.
    pub elapsed: Duration,
}

/// Small enough to be sent at once, so that a loss is the queue's fault and not the close's.
const RESPONSE: u64 = 1_000;
const REQUEST: u64 = 100;
/// Time between two clients.
const SPACING: Duration = Duration::from_millis(1);

/// Runs the burst in a bed of its own. The server reads every request whole, so its plain close resets nothing.
///
/// # Errors
/// Returns an error if the bed cannot be built or the server cannot listen.
pub fn burst(plan: &BacklogPlan) -> io::Result<BacklogReport> {
    let started = Instant::now();
    let bed = Bed::new(&plan.link, BedOptions::default())?;
    let address = SocketAddr::new(bed.server_address, 8_080);
    let listener = bed.server.run(|| {
        net::sysctl("ipv4/tcp_abort_on_overflow", if plan.abort_on_overflow { "1" } else { "0" })?;
        // SYN cookies would hide the overflow: the client would see what looks like packet loss.
        net::sysctl("ipv4/tcp_syncookies", "0")?;
        listen(address, plan.backlog, None)
    })??;
    let before = bed.server.run(Counters::read)??;
    let finished = Arc::new(Stop::new()?);
    let mut server = ServerPlan::new(Ending::Close, Consume::Bytes(REQUEST), RESPONSE);
    server.busy = plan.busy;
    server.stall = plan.patience;
    let worker = {
        let finished = finished.clone();
        bed.server.spawn("server", move || work(&listener, &server, &finished, |_| {}))?
    };
    let client = ClientPlan {
        model: ClientModel::default(),
        server: address,
        from: None,
        request: REQUEST,
        extra: 0,
        late: 0,
        response: Some(RESPONSE),
        receive_buffer: None,
        congestion: None,
        reads: true,
        closes: true,
        timeout: plan.patience,
    };
    let mut tally = Tally::default();
    let attempts = thread::scope(|scope| {
        let clients: Vec<_> = (0..plan.clients)
            .map(|number| {
                let (bed, client) = (&bed, &client);
                thread::Builder::new().spawn_scoped(scope, move || {
                    bed.client.enter()?;
                    thread::sleep(SPACING * number.into());
                    Ok(attempt(client, |_| {}))
                })
            })
            .collect::<io::Result<_>>()?;
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<io::Result<Vec<_>>>()
    })?;
    for attempt in &attempts {
        tally.count(attempt);
    }
    let counters = bed.server.run(Counters::read)??.since(&before);
    finished.request();
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
    bed.stop()?;
    Ok(BacklogReport { plan: plan.clone(), tally, counters, elapsed: started.elapsed() })
}
