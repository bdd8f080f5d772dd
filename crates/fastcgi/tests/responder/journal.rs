//! What the journal is told: each request with its end, and an accept that finds no descriptor left.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::common::Running;
use crate::idle::{request, response, told};
use linger_fastcgi::journal::{Journal, ServedRequest};
use linger_fastcgi::record::{RecordType, Role, push, push_begin};
use linger_fastcgi::responder::Config;
use linger_fastcgi::{Request, Response, params};
use linger_testing::sandboxed;
use socket2::{Domain, Socket, Type};

const EVER: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Access(Sender<ServedRequest>);

impl Journal for Access {
    fn served(&self, request: &ServedRequest) {
        self.0.send(request.clone()).unwrap();
    }
}

fn access(config: &mut Config) -> Receiver<ServedRequest> {
    let (tell, told) = channel();
    config.journal = Some(Arc::new(Access(tell)));
    told
}

const BODY: usize = 70_000;

/// Sends a request for `kind` with a body, and returns what the journal says of it.
fn served(kind: &str, address: SocketAddr, told: &Receiver<ServedRequest>) -> ServedRequest {
    let mut stream = TcpStream::connect(address).unwrap();
    let (mut bytes, mut pairs) = (Vec::new(), Vec::new());
    push_begin(&mut bytes, 1, Role::Responder, false);
    let uri = format!("/{kind}?q=\n\x1b[31m");
    for (name, value) in [("REMOTE_ADDR", "192.0.2.7"), ("REQUEST_METHOD", "POST"), ("REQUEST_URI", &uri)] {
        params::push_pair(&mut pairs, name.as_bytes(), value.as_bytes());
    }
    push(&mut bytes, RecordType::Params, 1, &pairs);
    push(&mut bytes, RecordType::Params, 1, b"");
    for piece in vec![b'b'; BODY].chunks(10_000) {
        push(&mut bytes, RecordType::Stdin, 1, piece);
    }
    if kind == "abort" {
        push(&mut bytes, RecordType::AbortRequest, 1, b"");
    } else {
        push(&mut bytes, RecordType::Stdin, 1, b"");
    }
    stream.write_all(&bytes).unwrap();
    // The connection ends in order, whatever became of the request.
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    told.recv().unwrap()
}

fn all_ends(address: SocketAddr, told: &Receiver<ServedRequest>) {
    let whole = served("whole", address, told);
    assert_eq!((&*whole.client, &*whole.method), (&b"192.0.2.7"[..], &b"POST"[..]));
    assert_eq!(whole.target, b"/whole?q=\n\x1b[31m", "as it came: whoever shows it escapes it");
    let of = |served: &ServedRequest| {
        (format!("{:?}", served.end), served.status, served.body_bytes, served.response_bytes, served.is_sent)
    };
    let head = "Status: 201\r\n\r\n".len() as u64;
    assert_eq!(of(&whole), ("Complete(7)".to_owned(), Some(201), BODY as u64, head + 100_000, true));
    assert_eq!(of(&served("nothing", address, told)), ("Complete(0)".to_owned(), None, BODY as u64, 0, true));
    assert_eq!(
        of(&served("refused", address, told)),
        ("Refused".to_owned(), Some(500), BODY as u64, 0, true)
    );
    assert_eq!(of(&served("cut", address, told)), ("Cut".to_owned(), Some(201), BODY as u64, head, true));
    let (end, status, ..) = of(&served("abort", address, told));
    assert_eq!((&*end, status), ("Bare", None));
}

fn read_all(mut body: impl Read) -> io::Result<()> {
    io::copy(&mut body, &mut io::sink()).map(drop)
}

fn act(request: &mut Request, response: &mut Response) -> io::Result<u32> {
    let kind = request.params().text("REQUEST_URI").unwrap_or_default().to_owned();
    read_all(&mut *request)?;
    match kind.split('?').next() {
        Some("/nothing") => return Ok(0),
        Some("/refused") => return Err(io::Error::other("no")),
        Some("/cut") => {
            write!(response, "Status: 201\r\n\r\n")?;
            response.flush()?;
            return Err(io::Error::other("in the middle"));
        }
        _ => {}
    }
    write!(response, "Status: 201\r\n\r\n")?;
    response.write_all(&[b'r'; 100_000])?;
    Ok(7)
}

#[test]
fn each_request_is_told_with_its_end() {
    for multiplex in [false, true] {
        let mut config = Config::default();
        config.multiplex = multiplex;
        let told = access(&mut config);
        all_ends(Running::start(config, act).port(), &told);
    }
}

/// Takes every descriptor that the process may have.
fn all_descriptors() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// Connects without a descriptor of its own: the socket is there already.
fn connect(socket: Socket, address: SocketAddr) -> TcpStream {
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(&request(false)).unwrap();
    stream
}

fn tcp() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

fn few_descriptors() {
    let few = rustix::process::Rlimit { current: Some(200), maximum: Some(200) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
}

/// A request whose handler waits for its body: the server has begun, and has every descriptor that it needs for itself.
fn waiting_request(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut bytes = request(false);
    bytes.truncate(bytes.len() - 8);
    let at = bytes.iter().position(|byte| *byte == b'V').unwrap();
    bytes[at] = b'B';
    stream.write_all(&bytes).unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
    stream
}

/// Without a descriptor a new connection waits; once there is one it is served, and so are those after it.
fn waits_for_a_descriptor(address: SocketAddr, told: &Receiver<String>) {
    let _begun = waiting_request(address);
    let waiting = tcp();
    let taken = all_descriptors();
    let mut stream = connect(waiting, address);
    assert_eq!(told.recv().unwrap(), "CannotAccept");
    drop(taken);
    assert!(response(&mut stream).unwrap().ends_with(b"hello"));
    assert_eq!(told.recv().unwrap(), "AcceptsAgain", "it was said once that it cannot");
    let mut next = connect(tcp(), address);
    assert!(response(&mut next).unwrap().ends_with(b"hello"));
}

/// Where connections without a request have the descriptors, they are given up for a new one.
fn takes_that_of_an_idle_one(address: SocketAddr, told: &Receiver<String>) {
    let ask = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&request(true)).unwrap();
        assert!(response(&mut stream).unwrap().ends_with(b"hello"));
        stream
    };
    let mut kept = [ask(), ask()];
    let waiting = tcp();
    let _taken = all_descriptors();
    let mut stream = connect(waiting, address);
    assert!(response(&mut stream).unwrap().ends_with(b"hello"));
    assert_eq!(told.recv().unwrap(), "CannotAccept");
    kept[0].set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(kept[0].read(&mut [0; 9]).unwrap(), 0, "the one that was idle longest ends, in order");
    assert!(told.iter().take_while(|name| name != "AcceptsAgain").any(|name| name == "Evicted"));
}

fn hello(request: &mut Request, response: &mut Response) -> io::Result<u32> {
    write!(response, "Content-Type: text/plain\r\n\r\n")?;
    if request.params().text("K") == Some("B") {
        response.flush()?;
        read_all(&mut *request)?;
    }
    write!(response, "hello")?;
    Ok(0)
}

fn patient() -> Config {
    let mut config = Config::default();
    (config.io_timeout, config.keep_idle) = (EVER, EVER);
    config.stop_within = Some(Duration::from_millis(50));
    config
}

/// In a process of its own for each case: what an earlier server lets go would be a descriptor that nobody has taken.
fn descriptors_run_out(case: fn(SocketAddr, &Receiver<String>), multiplex: bool) {
    sandboxed(|| {
        few_descriptors();
        let mut config = patient();
        config.multiplex = multiplex;
        let told = told(&mut config);
        let running = Running::start(config, hello);
        case(running.port(), &told);
    });
}

#[test]
fn a_connection_waits_for_a_descriptor() {
    descriptors_run_out(waits_for_a_descriptor, false);
}

#[test]
fn a_multiplexed_connection_waits_for_a_descriptor() {
    descriptors_run_out(waits_for_a_descriptor, true);
}

#[test]
fn a_connection_takes_the_descriptor_of_an_idle_one() {
    descriptors_run_out(takes_that_of_an_idle_one, false);
}

#[test]
fn a_multiplexed_connection_takes_the_descriptor_of_an_idle_one() {
    descriptors_run_out(takes_that_of_an_idle_one, true);
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use linger_fastcgi::tokio::{Request, Response, serve_until};

    use super::*;

    async fn hello(mut request: Request, mut response: Response) -> io::Result<()> {
        response.write(b"Content-Type: text/plain\r\n\r\n").await?;
        if request.params().text("K") == Some("B") {
            response.flush().await?;
            while request.chunk().await?.is_some() {}
        }
        response.write(b"hello").await?;
        response.end(0).await
    }

    async fn act(mut request: Request, mut response: Response) -> io::Result<()> {
        let kind = request.params().text("REQUEST_URI").unwrap_or_default().to_owned();
        while request.chunk().await?.is_some() {}
        match kind.split('?').next() {
            Some("/nothing") => return response.end(0).await,
            Some("/refused") => return Err(io::Error::other("no")),
            Some("/cut") => {
                response.write(b"Status: 201\r\n\r\n").await?;
                response.flush().await?;
                return Err(io::Error::other("in the middle"));
            }
            _ => {}
        }
        response.write(b"Status: 201\r\n\r\n").await?;
        response.write(&[b'r'; 100_000]).await?;
        response.end(7).await
    }

    /// Serves while `gateways` runs.
    fn serving<H, F>(config: Config, handler: H, gateways: impl FnOnce(SocketAddr))
    where
        H: Fn(Request, Response) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = runtime.spawn(serve_until(listener, config, handler, async { drop(stopped.await) }));
        gateways(address);
        stop.send(()).unwrap();
        runtime.block_on(server).unwrap().unwrap();
    }

    #[test]
    fn each_request_is_told_with_its_end() {
        let mut config = Config::default();
        let told = access(&mut config);
        serving(config, act, |address| all_ends(address, &told));
    }

    fn descriptors_run_out(case: fn(SocketAddr, &Receiver<String>)) {
        sandboxed(|| {
            few_descriptors();
            let mut config = patient();
            let told = told(&mut config);
            serving(config, hello, |address| case(address, &told));
        });
    }

    #[test]
    fn a_connection_waits_for_a_descriptor() {
        descriptors_run_out(waits_for_a_descriptor);
    }

    #[test]
    fn a_connection_takes_the_descriptor_of_an_idle_one() {
        descriptors_run_out(takes_that_of_an_idle_one);
    }
}
