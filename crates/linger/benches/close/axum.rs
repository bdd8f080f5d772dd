//! axum with the one line beside axum without it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use linger::{Closer, Policy};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::support::{RESPONSE, until, upload};
use crate::{Goal, claim, median, note, peers};

/// A server on a runtime of its own; it stops when this is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(lingering: Option<(Policy, Closer)>) -> Self {
        Self::with(lingering, false)
    }

    /// Bare, with the adapter on `axum::serve`, or served by this crate.
    fn with(lingering: Option<(Policy, Closer)>, is_served: bool) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
                tell.send(listener.local_addr().expect("bound")).expect("the bench waits");
                let app = Router::new()
                    .route("/", get(|| async { "hello" }))
                    .route("/", post(|| async { (StatusCode::PAYLOAD_TOO_LARGE, vec![b'r'; RESPONSE]) }));
                let serving = async {
                    match lingering {
                        None => axum::serve(listener, app).await,
                        Some((policy, closer)) if is_served => {
                            let server = linger::http::serve(listener, app).policy(policy);
                            server.with_closer(&closer).await.map(drop)
                        }
                        Some((policy, closer)) => {
                            let listener = linger::axum::listen_with(listener, policy, &closer);
                            axum::serve(listener, app).await
                        }
                    }
                };
                tokio::select! {
                    _ = serving => {}
                    _ = stopped => {}
                }
            });
        });
        let address = told.recv().expect("the server starts");
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

pub(crate) fn early_answers() {
    let whole = |address| {
        let client = move || {
            let head = "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 50000000\r\n\r\n";
            let whole =
                |_: &i32| upload(address, head, 50_000_000).body().is_some_and(|body| body.len() == RESPONSE);
            (0..10).filter(whole).count()
        };
        let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum::<usize>() as f64
    };
    let bare = Server::start(None);
    claim("early answers of bare axum that arrived, of 80", whole(bare.address), "", Goal::AtMost(0.0));
    drop(bare);
    let closer = Closer::new(linger::Budget::default()).expect("a closer");
    let lingering = Server::start(Some((Policy::default(), closer)));
    claim("with linger::axum::listen, of 80", whole(lingering.address), "", Goal::AtLeast(80.0));
}

const PAIRS: usize = 30;
const SECONDS: u32 = 1;

/// The word that makes this program a server; the kind follows.
pub(crate) const SERVE: &str = "serve";
const BARE: &str = "bare";
const ADAPTER: &str = "adapter";
const SERVER: &str = "server";

/// One of the two servers of the comparison, in a process of its own: says its port, and when its input ends
/// how many answers are not known to have arrived.
pub(crate) fn serve(kind: &str) {
    let closer = Closer::new(linger::Budget::default()).expect("a closer");
    let lingering = (kind != BARE).then(|| (Policy::default(), closer.clone()));
    let server = Server::with(lingering, kind == SERVER);
    println!("{}", server.address.port());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("a pipe");
    let snapshot = until(&closer, |snapshot| snapshot.lingering == 0);
    println!("{}", snapshot.undelivered);
}

/// A server process that [`serve`] runs in.
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Process {
    fn start(kind: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
        let command = command.args([SERVE, kind]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program can be started again");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut this = Self { child, output, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let port = this.number();
        this.address.set_port(port as u16);
        this
    }

    fn number(&mut self) -> u64 {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a pipe");
        line.trim().parse().expect("the server says a number")
    }

    fn measure(&self) -> Option<Run> {
        let of = format!("/proc/{}", self.child.id());
        let cpu = peers::cpu_of(&of);
        let wrk = peers::wrk(self.address, 64, SECONDS)?;
        let cpu = (peers::cpu_of(&of) - cpu) / wrk.requests;
        Some(Run { per_second: wrk.per_second, cpu, errors: wrk.errors })
    }

    /// Ends the server. Returns the number of answers that are not known to have arrived.
    fn undelivered(mut self) -> u64 {
        drop(self.child.stdin.take());
        let undelivered = self.number();
        self.child.wait().expect("a child");
        undelivered
    }
}

/// What one run of wrk shows of a server.
struct Run {
    per_second: f64,
    /// The server's processor time, its closer's included, for a request.
    cpu: f64,
    errors: f64,
}

/// The adapter on `axum::serve`, and the server with its layer and connect info, each beside bare axum.
pub(crate) fn requests_per_second() {
    for kind in [ADAPTER, SERVER] {
        beside_bare(kind);
    }
}

fn beside_bare(kind: &str) {
    let (bare, mine) = (Process::start(BARE), Process::start(kind));
    let (mut ratios, mut cpu, mut errors) = (Vec::new(), Vec::new(), 0.0);
    let mut rates = [Vec::new(), Vec::new()];
    for pair in 0..=PAIRS {
        // Each of them goes first every other time.
        let order = if pair % 2 == 0 { [&bare, &mine] } else { [&mine, &bare] };
        let (Some(first), Some(second)) = (order[0].measure(), order[1].measure()) else { return };
        let (without, with) = if pair % 2 == 0 { (first, second) } else { (second, first) };
        if pair == 0 {
            continue; // warm-up
        }
        ratios.push(with.per_second / without.per_second);
        cpu.push(with.cpu / without.cpu);
        rates[0].push(without.per_second);
        rates[1].push(with.per_second);
        errors += with.errors;
    }
    bare.undelivered();
    let undelivered = mine.undelivered();
    let [bare, mine] = &mut rates;
    note(&format!("requests a second: bare {:.0}, with the {kind} {:.0}", median(bare), median(mine)));
    note(&format!("ratios of the pairs: {ratios:.2?}"));
    claim(&format!("CPU a request with the {kind}, of bare axum"), median(&mut cpu), "", Goal::AtMost(1.10));
    claim(&format!("axum with the {kind}, of bare axum"), median(&mut ratios), "", Goal::AtLeast(0.97));
    claim("errors that wrk saw", errors, "", Goal::AtMost(0.0));
    // wrk drops its last connections as they are when its time is over.
    let lost = undelivered.saturating_sub(64 * (PAIRS as u64 + 1));
    claim("answers not known to have arrived", lost as f64, "", Goal::AtMost(0.0));
}
