//! The life of a server: its stop, its accept queue, and the shipped examples when descriptors run out.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use linger::tokio::Accept;
use linger::{Policy, Snapshot};
use linger_testing::{sandboxed, skip};
use support::{LONG, RESPONSE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server that is stopped by a call.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: thread::JoinHandle<Snapshot>,
}

impl Server {
    fn start<L: Accept<Addr: Clone + Sync>>(
        listener: impl FnOnce(tokio::net::TcpListener) -> L + Send + 'static,
        app: Router,
        deadline: Duration,
    ) -> Self {
        Self::run(move |bound, stopped| async move {
            linger::http::serve(listener(bound), app).stop_when(stopped).within(deadline).await.unwrap()
        })
    }

    fn run<F: Future<Output = Snapshot>>(
        serve: impl FnOnce(tokio::net::TcpListener, Signal) -> F + Send + 'static,
    ) -> Self {
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        bound.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let summary = runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(bound).unwrap();
                serve(listener, Box::pin(async { _ = stopped.await })).await
            });
            // An orderly end does not wait for this.
            runtime.shutdown_background();
            summary
        });
        Self { address, stop: Some(stop), thread }
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Stops the server. Returns how long the stop takes, and its counts.
    fn stopped(mut self) -> (Duration, Snapshot) {
        let started = Instant::now();
        self.stop();
        let summary = self.thread.join().unwrap();
        (started.elapsed(), summary)
    }
}

fn app() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/refused", post(|| async { (StatusCode::UNAUTHORIZED, vec![b'r'; RESPONSE]) }))
        .route("/never", get(std::future::pending::<()>))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Much less than the policy's `total`, and much more than the deadline that is given.
const SOON: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(1);

/// Clients that have their answers, and then send a byte now and then, until the server closes.
fn drip(streams: Vec<TcpStream>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut streams = streams;
        while !streams.is_empty() {
            streams.retain_mut(|stream| stream.write_all(b".").is_ok());
            // The clients' own pause.
            thread::sleep(Duration::from_millis(50));
        }
    })
}

/// Stops a server while 250 clients drip, and nothing else is left to end.
fn dripped_on<F: Future<Output = Snapshot>>(
    serve: impl FnOnce(tokio::net::TcpListener, Signal) -> F + Send + 'static,
) {
    let server = Server::run(serve);
    let ask = |_| {
        let mut stream = connect(server.address);
        stream.write_all(b"POST /refused HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; RESPONSE]).unwrap();
        stream
    };
    let drips = drip((0..DRIPS).map(ask).collect());
    let (took, summary) = server.stopped();
    assert!(took < SOON, "{took:?}");
    assert_eq!((summary.ended.total(), summary.lingering), (DRIPS, 0), "{summary:?}");
    drips.join().unwrap();
}

const DRIPS: u64 = 250;

/// Lets nobody go before the stop, however seldom the machine lets a client drip.
fn patient() -> Policy {
    let long = 2 * SOON;
    Policy::new().with_total(long).with_idle(long).with_grace(long)
}

#[test]
fn a_stop_ends_within_its_deadline_lingering_included() {
    sandboxed(|| {
        dripped_on(|listener, stopped| async {
            let server = linger::http::serve(listener, app()).policy(patient());
            server.stop_when(stopped).within(DEADLINE).await.unwrap()
        });
    });
}

#[test]
fn a_stop_of_a_server_without_http_ends_within_its_deadline() {
    sandboxed(|| {
        dripped_on(|listener, stopped| async {
            let answer = async |mut stream: linger::tokio::Lingering<tokio::net::TcpStream>, _, _| {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(&[b'r'; RESPONSE]).await;
            };
            let server = linger::tokio::serve(listener, answer).policy(patient());
            server.stop_when(stopped).within(DEADLINE).await.unwrap()
        });
    });
}

#[test]
fn a_stop_of_axum_ends_within_the_deadline_of_the_closer() {
    sandboxed(|| {
        dripped_on(|listener, stopped| async {
            let (listener, stopped) = linger::axum::listen_until(listener, patient(), stopped);
            let serving = axum::serve(listener, app()).with_graceful_shutdown(stopped);
            serving.await.unwrap();
            let finish = || linger::Closer::global().unwrap().finish(DEADLINE);
            tokio::task::spawn_blocking(finish).await.unwrap()
        });
    });
}

#[test]
fn a_handler_that_never_answers_holds_a_stop_until_its_deadline_and_an_idle_client_not_at_all() {
    sandboxed(|| {
        let server = Server::start(|listener| listener, app(), DEADLINE);
        let mut stuck = connect(server.address);
        stuck.write_all(b"GET /never HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
        let mut idle = connect(server.address);
        idle.write_all(b"GET /hello HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"hello") {
            let mut chunk = [0; 512];
            let read = idle.read(&mut chunk).unwrap();
            got.extend(&chunk[..read]);
        }
        let (took, _) = server.stopped();
        assert!(took < SOON, "{took:?}");
        // Neither client meets a reset.
        assert_eq!(stuck.read(&mut [0]).unwrap(), 0);
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);

        // Without the stuck handler the stop ends before the deadline.
        let server = Server::start(|listener| listener, app(), LONG);
        let mut idle = connect(server.address);
        idle.write_all(b"GET /hello HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
        idle.read_exact(&mut [0; 50]).unwrap();
        let (took, _) = server.stopped();
        assert!(took < SOON, "{took:?}");
    });
}

/// tokio's listener without its `close`: the accept queue is lost with it.
struct Forgetful(tokio::net::TcpListener);

impl Accept for Forgetful {
    type Io = tokio::net::TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> io::Result<(Self::Io, SocketAddr)> {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The results of clients that connected and asked while the only thread of the server was busy, until the server was
/// stopped.
fn queued<F: Future<Output = Snapshot>>(
    serve: impl FnOnce(tokio::net::TcpListener, Router, Signal) -> F + Send + 'static,
) -> Vec<Result<bool, ErrorKind>> {
    let (begun, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Arc::new(std::sync::Mutex::new(may_go));
    let block = move || {
        let (begun, may_go) = (begun.clone(), may_go.clone());
        async move {
            begun.send(()).unwrap();
            // The whole runtime waits here.
            may_go.lock().unwrap().recv().unwrap();
            "done"
        }
    };
    let app = app().route("/block", get(block));
    let mut server = Server::run(move |listener, stopped| serve(listener, app, stopped));
    let mut first = connect(server.address);
    first.write_all(b"GET /block HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    has_begun.recv().unwrap();
    let clients: Vec<_> = (0..QUEUE)
        .map(|_| {
            let mut client = connect(server.address);
            client.write_all(b"GET /hello HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
            client
        })
        .collect();
    server.stop();
    go.send(()).unwrap();
    let clients = clients.into_iter().map(|mut client| {
        let mut got = Vec::new();
        let read = client.read_to_end(&mut got).map_err(|error| error.kind());
        read.map(|_| got.ends_with(b"hello"))
    });
    let got = clients.collect();
    server.thread.join().unwrap();
    // Refused, not reset.
    assert_eq!(TcpStream::connect(server.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    got
}

const QUEUE: usize = 40;
const SERVED: [Result<bool, ErrorKind>; QUEUE] = [Ok(true); QUEUE];
const RESET: Result<bool, ErrorKind> = Err(ErrorKind::ConnectionReset);

async fn served<L: Accept<Addr: Clone + Sync>>(listener: L, app: Router, stopped: Signal) -> Snapshot {
    linger::http::serve(listener, app).stop_when(stopped).within(LONG).await.unwrap()
}

/// By `axum::serve`, whose stop lasts as long as its handlers, and lets the closes go on.
async fn by_axum<L>(listener: L, app: Router, stopped: Signal) -> Snapshot
where
    L: axum::serve::Listener<Addr: std::fmt::Debug>,
{
    axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
    linger::Closer::global().unwrap().snapshot()
}

#[test]
fn who_is_in_the_accept_queue_at_a_stop_is_served() {
    sandboxed(|| {
        assert_eq!(queued(served), SERVED);
        assert_eq!(
            queued(|listener, app, stopped| served(Forgetful(listener), app, stopped)),
            [RESET; QUEUE]
        );
    });
}

#[test]
fn axum_serves_the_accept_queue_if_its_listener_knows_of_the_stop() {
    let until = |listener, app, signal| {
        let (listener, stopped) = linger::axum::listen_until(listener, Policy::default(), signal);
        by_axum(listener, app, Box::pin(stopped))
    };
    sandboxed(move || {
        assert_eq!(queued(until), SERVED);
        // If it does not know, as without this crate. Before each accept axum chooses at random between the connection
        // and the stop: 2^-40 that all are accepted.
        let listen =
            |listener, app, stopped| by_axum(linger::axum::listen(listener, Policy::default()), app, stopped);
        assert!(queued(listen).contains(&RESET));
        assert!(queued(by_axum).contains(&RESET));
    });
}

#[test]
fn a_stop_of_axum_waits_a_second_for_a_silent_connection() {
    sandboxed(|| {
        let server = Server::run(|listener, signal| {
            let (listener, stopped) = linger::axum::listen_until(listener, Policy::default(), signal);
            by_axum(listener, app(), Box::pin(stopped))
        });
        // Accepted in order: when the second has its answer, the server has the first.
        let mut silent = connect(server.address);
        let mut idle = connect(server.address);
        idle.write_all(b"GET /hello HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
        idle.read_exact(&mut [0; 50]).unwrap();
        let (took, _) = server.stopped();
        assert!((Duration::from_secs(1)..SOON).contains(&took), "{took:?}");
        // A FIN, no reset.
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn a_policy_that_cannot_be_is_refused_by_name_before_anything_is_accepted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut policy = Policy::default();
        policy.idle = policy.total;
        for is_good in [true, false] {
            policy.idle += Duration::from_nanos(u64::from(!is_good));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = linger::http::serve(listener, app()).policy(policy).stop_when(async {});
            match server.await {
                Ok(_) => assert!(is_good),
                Err(error) => {
                    assert!(!is_good && error.kind() == ErrorKind::InvalidInput, "{error}");
                    assert!(error.to_string().contains("idle"), "{error}");
                }
            }
        }
    });
}

/// An example as it is shipped, with 64 descriptors.
struct Example(Child);

impl Example {
    fn start(name: &str, port: u16) -> Self {
        let folder = std::env::current_exe().unwrap();
        let path = folder.parent().unwrap().parent().unwrap().join("examples").join(name);
        assert!(path.exists(), "{}: `cargo build --examples --all-features` first", path.display());
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n 64; exec {}", path.display()));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + LONG;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "{name} does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ninety clients that take what they get and then send a byte now and then; each that is gone is replaced.
fn attack(port: u16, request: &[u8], stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let request = request.to_vec();
    thread::spawn(move || {
        let mut clients: Vec<TcpStream> = Vec::new();
        let connect = || {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let mut client = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
            client.write_all(&request)?;
            client.set_nonblocking(true)?;
            io::Result::Ok(client)
        };
        while !stop.load(Ordering::SeqCst) {
            while clients.len() < 90 {
                let Ok(client) = connect() else { break };
                clients.push(client);
            }
            clients.retain_mut(|client| match client.write(b".") {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            });
            // The client's own pause.
            thread::sleep(Duration::from_millis(10));
        }
    })
}

/// What an honest client gets.
fn ask(port: u16, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(request)?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    Ok(got)
}

fn example(name: &str, port: u16, attacks: &[u8], honest: impl Fn() -> bool) {
    sandboxed(|| {
        let mut example = Example::start(name, port);
        let stop = Arc::new(AtomicBool::new(false));
        let attackers = attack(port, attacks, stop.clone());
        let served = (0..36).filter(|_| example.is_running() && honest()).count();
        assert!(example.is_running(), "{name} has exited");
        assert_eq!(served, 36, "{name}");
        if let "axum_tls" | "sigterm" = name {
            // In the middle of the attack.
            let started = Instant::now();
            let id = rustix::process::Pid::from_child(&example.0);
            rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
            assert!(example.0.wait().unwrap().success(), "{name}");
            assert!(started.elapsed() < 2 * SOON, "{name} {:?}", started.elapsed());
        }
        stop.store(true, Ordering::SeqCst);
        attackers.join().unwrap();
    });
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";

#[test]
fn axum_limit_outlives_an_attack_with_64_descriptors() {
    let served = || ask(8080, GET).is_ok_and(|got| got.starts_with(b"HTTP/1.1 405"));
    // More than the limit, and less than what is announced.
    let mut upload = b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\n".to_vec();
    upload.extend([b'u'; 70_000]);
    example("axum_limit", 8080, &upload, served);
}

#[test]
fn sigterm_outlives_an_attack_with_64_descriptors() {
    example("sigterm", 8080, GET, || ask(8080, GET).is_ok_and(|got| got.ends_with(b"hello\n")));
}

#[test]
fn threads_outlives_an_attack_with_64_descriptors() {
    let served = || ask(8080, GET).is_ok_and(|got| got.starts_with(b"HTTP/1.1 413"));
    example("threads", 8080, GET, served);
}

#[test]
fn tokio_echo_outlives_an_attack_with_64_descriptors() {
    let served = || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", 7007)) else { return false };
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut got = [0; 2];
        stream.write_all(b"hi").is_ok() && stream.read_exact(&mut got).is_ok() && got == *b"hi"
    };
    example("tokio_echo", 7007, b"quit", served);
}

fn curl(arguments: &[&str]) -> bool {
    match Command::new("curl").args(["-s", "-k", "--max-time", "60"]).args(arguments).output() {
        Ok(output) => output.stdout.starts_with(b"hello"),
        Err(error) => {
            skip("curl", &error.to_string());
            true
        }
    }
}

#[test]
fn hyper_tls_outlives_an_attack_with_64_descriptors() {
    example("hyper_tls", 8443, GET, || curl(&["https://127.0.0.1:8443/"]));
}

#[test]
fn axum_tls_outlives_an_attack_with_64_descriptors() {
    example("axum_tls", 8443, GET, || curl(&["https://127.0.0.1:8443/"]));
}
