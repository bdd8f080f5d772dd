//! One cell: a combination of ending, peer, link and sizes, tried until its result is settled.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use linger::{Ended, Policy};
use linger_netns::Counters;

use crate::bed::{Bed, BedOptions};
use crate::client::{ClientPlan, attempt};
use crate::ending::Ending;
use crate::fate::{Attempt, Fate};
use crate::ip_version::IpVersion;
use crate::link::Link;
use crate::link::capture::Capture;
use crate::link::mtu::LEAST_OF_IPV6;
use crate::link::wire::WireReport;
use crate::lock;
use crate::payload;
use crate::peer::Peer;
use crate::real::{CellClient, RealTrials};
use crate::server::{Consume, LARGEST_RESPONSE, ServerPlan, ServerReport, listen, work};
use crate::stats::Tally;
use crate::stop::Stop;

/// How many trials a cell gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trials {
    /// Until more trials would not change the result, at most this many.
    UntilSettled(u64),
    /// Exactly this many.
    Exactly(u64),
}

/// What a cell tries.
#[derive(Clone, Debug)]
pub struct CellPlan {
    /// What the server does after its last write.
    pub ending: Ending,
    /// What the client does.
    pub peer: Peer,
    /// What the client's program and system are like.
    pub client: CellClient,
    /// The link between server and client.
    pub link: Link,
    /// Response bytes.
    pub response: u64,
    /// Request bytes that the server reads.
    pub request: u64,
    /// Bytes beyond the request, for `unread`, `late`, `never-closes` and `never-reads`. The usual 8 are the length of
    /// FastCGI's empty STDIN record.
    pub extra: u64,
    /// Bytes beyond the request, for `upload`.
    pub upload: u64,
    /// IPv4 or IPv6.
    pub ip: IpVersion,
    /// Connections at a time.
    pub concurrency: u64,
    /// How many trials.
    pub trials: Trials,
    /// Bounds of the lingering close.
    pub policy: Policy,
    /// Congestion control of both ends, set on each socket; the kernel's own choice if none.
    pub congestion: Option<String>,
    /// The server's backlog.
    pub backlog: u32,
    /// The client's receive buffer; the kernel's own choice if none.
    pub receive_buffer: Option<usize>,
    /// How long a trial may take before it counts as timed out.
    pub timeout: Duration,
    /// How long the server thinks before it reads a request and answers: nothing crosses the link meanwhile.
    pub busy: Duration,
    /// Seed of the link's random decisions.
    pub seed: u64,
}

impl CellPlan {
    /// A cell with the lab's usual sizes.
    pub fn new(ending: Ending, peer: Peer, link: Link) -> Self {
        Self {
            ending,
            peer,
            client: CellClient::default(),
            link,
            response: 200_000,
            request: 100,
            extra: 8,
            upload: 256 << 10,
            ip: IpVersion::V4,
            concurrency: 4,
            trials: Trials::UntilSettled(100),
            policy: Policy::default(),
            congestion: None,
            backlog: 128,
            receive_buffer: None,
            timeout: Duration::from_secs(30),
            busy: Duration::ZERO,
            seed: 0,
        }
    }

    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// Returns a message that names the number that is not possible.
    pub fn validate(&self) -> Result<(), String> {
        if self.response > LARGEST_RESPONSE {
            return Err(format!(
                "a response of {} bytes is more than this server holds (1 GiB)",
                self.response
            ));
        }
        if self.response == 0 {
            return Err("a response of 0 bytes cannot be lost: name at least 1".to_owned());
        }
        if self.concurrency == 0 || self.concurrency > 1_000 {
            return Err(format!("{} connections at a time: name 1 to 1000", self.concurrency));
        }
        let mtus = self.link.all_paths().filter_map(|path| path.mtu);
        if self.ip == IpVersion::V6
            && let Some(mtu) = mtus.map(|mtu| mtu.bytes).find(|bytes| *bytes < LEAST_OF_IPV6)
        {
            return Err(format!("an MTU of {mtu} bytes: IPv6 needs {LEAST_OF_IPV6}"));
        }
        if let CellClient::Real(real) = self.client
            && !matches!(self.peer, Peer::ReadsAll | Peer::Upload)
        {
            let peer = self.peer;
            return Err(format!(
                "`{real}` cannot be `{peer}`: a real client is `reads-all` (a GET) or `upload` (a POST)"
            ));
        }
        Ok(())
    }

    pub(crate) fn client(&self, server: SocketAddr, from: SocketAddr) -> ClientPlan {
        let (extra, late) = match self.peer {
            Peer::ReadsAll => (0, 0),
            Peer::Unread | Peer::NeverCloses | Peer::NeverReads => (self.extra, 0),
            Peer::Late => (0, self.extra),
            Peer::Upload => (self.upload, 0),
            Peer::Pipelined => (self.request, 0),
        };
        ClientPlan {
            server,
            from: Some(from),
            request: self.request,
            extra,
            late,
            response: Some(self.response),
            receive_buffer: self.receive_buffer,
            congestion: self.congestion.clone(),
            reads: self.peer != Peer::NeverReads,
            closes: self.peer != Peer::NeverCloses,
            model: self.client.model(),
            timeout: self.timeout,
        }
    }

    pub(crate) fn server(&self) -> ServerPlan {
        let mut plan = ServerPlan::new(self.ending, Consume::Bytes(self.request), self.response);
        plan.policy = self.policy;
        plan.busy = self.busy;
        if let CellClient::Real(_) = self.client {
            plan.consume = Consume::Head;
            let status = if self.peer == Peer::Upload { "413 Content Too Large" } else { "200 OK" };
            plan.response = payload::http_response(status, self.response, LARGEST_RESPONSE as usize).into();
        }
        // Against a client that never reads, `write` would block for the whole timeout. A short bound lets the ending be tried.
        plan.stall = if self.peer == Peer::NeverReads { self.policy.idle } else { self.timeout };
        plan
    }
}

/// The result of a cell.
#[derive(Debug)]
pub struct CellReport {
    /// The plan of the cell.
    pub plan: CellPlan,
    /// The results of the connections.
    pub tally: Tally,
    /// The kernel's counters of the server's namespace, over all trials.
    pub counters: Counters,
    /// What the link carried; none for loopback.
    pub wire: Option<WireReport>,
    /// Lingering closes, by how they ended.
    pub endings: Vec<(Ended, u64)>,
    /// Connections whose server met an error before it had written everything.
    pub server_errors: u64,
    /// Errors of the server's reads, writes and closes, by their text. Normally there are none, even if responses are lost.
    pub errors: BTreeMap<String, u64>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Where a cell runs, and what else is recorded.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Records the packets that cross the link.
    pub capture: Option<Arc<Mutex<Capture>>>,
    /// Keeps every decision of the link.
    pub decisions: bool,
    /// Runs in this process's own network namespace: loopback only, and the counters include all other traffic.
    pub shared: bool,
}

/// The server's reports by the client's port, kept until the client's thread takes them.
#[derive(Debug, Default)]
struct Reports {
    served: Mutex<HashMap<u16, ServerReport>>,
    changed: Condvar,
}

impl Reports {
    fn put(&self, served: ServerReport) {
        lock(&self.served).insert(served.peer.port(), served);
        self.changed.notify_all();
    }

    fn wait(&self, port: u16, timeout: Duration, take: bool) -> Option<ServerReport> {
        let served = lock(&self.served);
        let absent = |served: &mut HashMap<u16, ServerReport>| !served.contains_key(&port);
        let (mut served, _) = self
            .changed
            .wait_timeout_while(served, timeout, absent)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if take { served.remove(&port) } else { None }
    }

    /// The report of any connection, for clients whose ports are their own choice.
    fn wait_for_any(&self, timeout: Duration) -> Option<ServerReport> {
        let served = lock(&self.served);
        let (mut served, _) = self
            .changed
            .wait_timeout_while(served, timeout, |served| served.is_empty())
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let port = served.keys().next().copied()?;
        served.remove(&port)
    }
}

/// The first of the clients' ports. Each trial has a port of its own, so that a trial is the same connection in every run.
const FIRST_PORT: u64 = 10_000;
const PORTS: u64 = 50_000;
/// Step from a port in use to the next candidate; prime, so that every port is reached.
const SKIP: u64 = 7_919;
const SERVER_PORT: u16 = 8_080;

/// Runs one cell in a bed of its own.
///
/// # Errors
/// Returns an error if the bed cannot be built or the server cannot listen. A trial that fails is a result, not an
/// error.
pub fn run(plan: &CellPlan, setting: &Setting, stop: &Stop) -> io::Result<CellReport> {
    let started = Instant::now();
    let options = BedOptions {
        ip: plan.ip,
        seed: plan.seed,
        capture: setting.capture.clone(),
        keep_log: setting.decisions,
        shared: setting.shared,
        steps: None,
    };
    let bed = Bed::new(&plan.link, options)?;
    // A private network allows a fixed port, which makes connections the same in every run.
    let port = if setting.shared { 0 } else { SERVER_PORT };
    let address = SocketAddr::new(bed.server_address, port);
    let listener = Arc::new(bed.server.run(|| listen(address, plan.backlog, plan.congestion.as_deref()))??);
    let address = listener.local_addr()?;
    let before = bed.server.run(Counters::read)??;
    let reports = Arc::new(Reports::default());
    let finished = Arc::new(Stop::new()?);
    let server = Arc::new(plan.server());
    let mut workers = Vec::new();
    for _ in 0..plan.concurrency.max(1) {
        let (listener, server) = (listener.clone(), server.clone());
        let (reports, finished) = (reports.clone(), finished.clone());
        workers
            .push(bed.server.spawn("server", move || {
                work(&listener, &server, &finished, |served| reports.put(served))
            })?);
    }
    let trials = Arc::new(Trying::default());
    let real = real_trials(plan, setting)?;
    let clients = (0..plan.concurrency.max(1))
        .map(|_| {
            let (plan, reports, trials) = (plan.clone(), reports.clone(), trials.clone());
            let from = bed.client_address;
            let (client, real) = (bed.client.clone(), real.clone());
            // Runs on a scoped thread, which may borrow the caller's stop.
            move || -> io::Result<()> {
                client.enter()?;
                while let Some(number) = trials.next(plan.trials, stop) {
                    match &real {
                        Some(real) => {
                            trials.real(&plan, real.attempt(address, &client, stop), &reports, stop)
                        }
                        None => trials.one(&plan, address, from, number, &reports),
                    }
                }
                Ok(())
            }
        })
        .collect::<Vec<_>>();
    thread::scope(|scope| {
        let clients = clients.into_iter().map(|client| thread::Builder::new().spawn_scoped(scope, client));
        let clients: Vec<_> = clients.collect::<io::Result<_>>()?;
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    finished.request();
    for worker in workers {
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
    }
    let counters = bed.server.run(Counters::read)??.since(&before);
    let wire = bed.stop()?;
    let results = std::mem::take(&mut *lock(&trials.results));
    Ok(CellReport {
        plan: plan.clone(),
        tally: results.tally,
        counters,
        wire,
        endings: results.endings,
        server_errors: results.server_errors,
        errors: results.errors,
        elapsed: started.elapsed(),
    })
}

/// What the trials of a real client have in common; `None` for a model.
fn real_trials(plan: &CellPlan, setting: &Setting) -> io::Result<Option<Arc<RealTrials>>> {
    match plan.client {
        CellClient::Real(_) if setting.shared => {
            Err(io::Error::other("a real client needs a private network, which this machine refuses"))
        }
        CellClient::Real(real) => {
            let upload = (plan.peer == Peer::Upload).then_some(plan.upload);
            Ok(Some(Arc::new(RealTrials::new(real, plan.response, upload, plan.timeout)?)))
        }
        CellClient::Model(_) => Ok(None),
    }
}

#[derive(Debug, Default)]
struct Results {
    tally: Tally,
    endings: Vec<(Ended, u64)>,
    server_errors: u64,
    errors: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Trying {
    begun: AtomicU64,
    results: Mutex<Results>,
}

impl Trying {
    /// Returns the number of the next trial, or `None` once there have been enough.
    fn next(&self, trials: Trials, stop: &Stop) -> Option<u64> {
        let most = match trials {
            _ if stop.requested() => return None,
            Trials::Exactly(trials) => trials,
            Trials::UntilSettled(_) if lock(&self.results).tally.is_settled() => return None,
            Trials::UntilSettled(most) => most,
        };
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        (number < most).then_some(number)
    }

    fn one(&self, plan: &CellPlan, server: SocketAddr, from: IpAddr, number: u64, reports: &Reports) {
        // In a private network the first port is always free. In a shared one it may be in use.
        let (port, mut attempt) = (0..PORTS)
            .map(|skipped| {
                let port = (FIRST_PORT + (number + skipped * SKIP) % PORTS) as u16;
                let client = plan.client(server, SocketAddr::new(from, port));
                (port, attempt(&client, |timeout| drop(reports.wait(port, timeout, false))))
            })
            .find(|(_, attempt)| {
                attempt.error.as_ref().is_none_or(|error| error.kind() != io::ErrorKind::AddrInUse)
            })
            .unwrap_or_else(|| (0, attempt(&plan.client(server, SocketAddr::new(from, 0)), |_| {})));
        // Combine both halves of the trial: what the server wrote, and what the client read.
        let served = reports.wait(port, plan.timeout, true);
        if let Some(served) = &served {
            attempt.served(served.written);
        }
        self.count(plan, &attempt, served);
    }

    /// Counts a trial of a real client, which tells how much of the body it has.
    fn real(&self, plan: &CellPlan, attempt: Attempt, reports: &Reports, stop: &Stop) {
        // It was ended before it could tell.
        if stop.requested() {
            return;
        }
        let served = if attempt.fate == Fate::Failed { None } else { reports.wait_for_any(plan.timeout) };
        if let Some(error) = &attempt.error {
            *lock(&self.results).errors.entry(error.to_string()).or_default() += 1;
        }
        self.count(plan, &attempt, served);
    }

    fn count(&self, plan: &CellPlan, attempt: &Attempt, served: Option<ServerReport>) {
        let mut results = lock(&self.results);
        if let Some(served) = served {
            if let Some(outcome) = served.outcome {
                match results.endings.iter_mut().find(|(ended, _)| *ended == outcome.ended) {
                    Some((_, count)) => *count += 1,
                    None => results.endings.push((outcome.ended, 1)),
                }
            }
            results.tally.unanswered += u64::from(served.written == 0);
            results.server_errors += u64::from(served.written < plan.response);
            if let Some(error) = served.error {
                *results.errors.entry(error.to_string()).or_default() += 1;
            }
        }
        results.tally.count(attempt);
    }
}
