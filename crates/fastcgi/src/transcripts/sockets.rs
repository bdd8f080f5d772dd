//! A gateway on a real socket, with each driver behind it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use socket2::Socket;

use super::memory::Gateway;
use super::plan::{INPUT_IDLE, Random};
use super::script::{Item, Leaving, Script};
use crate::responder::{Closed, Config, Handler};
use crate::{Request, Responder, Response};

/// Where the gateway is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp,
    Unix,
}

/// Sends what the script says in pieces of any size, receives at the same time, and returns what it received.
fn talk(script: &Script, socket: &Socket, salt: u64) -> Vec<u8> {
    let told = (Mutex::new((0, false)), Condvar::new());
    let (ends, news) = &told;
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let output = listen(script, socket, |so_far| {
                ends.lock().unwrap().0 = so_far;
                news.notify_all();
            });
            ends.lock().unwrap().1 = true;
            news.notify_all();
            output
        });
        let mut random = Random(script.seed ^ salt);
        for item in &script.items {
            let said = match item {
                Item::Bytes(bytes) => say(bytes, socket, &mut random),
                Item::Await(awaited) => {
                    let waits = |(ends, over): &mut (usize, bool)| *ends < *awaited && !*over;
                    drop(news.wait_while(ends.lock().unwrap(), waits).unwrap());
                    Ok(())
                }
                Item::Close => socket.shutdown(Shutdown::Write),
            };
            if let Err(error) = said {
                // The application has ended the connection. Whether it was allowed to is checked in the
                // transcript.
                assert!(
                    matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe
                            | io::ErrorKind::ConnectionReset
                            | io::ErrorKind::NotConnected
                    ),
                    "{error}"
                );
                break;
            }
        }
        reading.join().unwrap()
    })
}

fn say(mut bytes: &[u8], mut socket: &Socket, random: &mut Random) -> io::Result<()> {
    while !bytes.is_empty() {
        let piece = if random.one_in(3) { bytes.len() } else { 1 + random.below(bytes.len().min(90)) };
        socket.write_all(&bytes[..piece])?;
        bytes = &bytes[piece..];
    }
    Ok(())
}

/// Reads to the end, or as much as the gateway stays for.
fn listen(script: &Script, mut socket: &Socket, told: impl Fn(usize)) -> Vec<u8> {
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    let most = if let Leaving::Gone(at) = script.leaving { at } else { usize::MAX };
    while output.len() < most {
        let room = buffer.len().min(most - output.len());
        match socket.read(&mut buffer[..room]) {
            Ok(0) => return output,
            Ok(got) => output.extend_from_slice(&buffer[..got]),
            Err(error) => panic!("the gateway lost its answers: {error}"),
        }
        let ends =
            super::expected::transcripts(&output).values().map(|transcript| transcript.ends.len()).sum();
        told(ends);
    }
    // The gateway leaves for good: if it has unread bytes, its kernel resets.
    let _ = socket.shutdown(Shutdown::Both);
    output
}

struct Threads {
    gateway: Arc<Gateway>,
    closed: Mutex<mpsc::Sender<Closed>>,
}

impl Handler for Threads {
    fn handle(&self, request: &mut Request, response: &mut Response) -> io::Result<u32> {
        crate::responder::memory::handle(&self.gateway, request, response)
    }

    fn closed(&self, connection: &Closed) {
        self.closed.lock().unwrap().send(*connection).unwrap();
    }
}

fn connected(socket: Socket) -> Socket {
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket
}

/// One conversation with a [`Responder`].
pub(super) fn with_threads(gateway: &Arc<Gateway>, place: Place) -> Vec<u8> {
    let config =
        Config { multiplex: gateway.script.multiplexed, input_idle: INPUT_IDLE, ..Config::default() };
    let folder = tempfile::tempdir().unwrap();
    let address = match place {
        Place::Tcp => "127.0.0.1:0".parse().unwrap(),
        Place::Unix => crate::Address::Unix(folder.path().join("app")),
    };
    let responder = Responder::bind(&address, config).unwrap();
    let stop = responder.stopper();
    let (closed, all) = mpsc::channel();
    let socket: Socket = match responder.local_address().unwrap() {
        crate::Address::Tcp(address) => {
            TcpStream::connect(address.parse::<SocketAddr>().unwrap()).unwrap().into()
        }
        crate::Address::Unix(path) => UnixStream::connect(path).unwrap().into(),
    };
    let socket = connected(socket);
    let handler = Threads { gateway: gateway.clone(), closed: Mutex::new(closed) };
    let running = thread::spawn(move || responder.run(handler));
    let output = talk(&gateway.script, &socket, 3);
    drop(socket);
    let closed = all.recv_timeout(Duration::from_secs(60)).unwrap();
    stop.stop();
    running.join().unwrap().unwrap();
    assert!(all.recv().is_err(), "one connection has one end");
    if !matches!(gateway.script.leaving, Leaving::Gone(_)) {
        assert_eq!((closed.requests, closed.fault), (gateway.script.starts() as u64, None));
        assert!(closed.outcome.delivered(), "{}", closed.outcome);
    }
    output
}

/// An acceptor that gives one connection, then waits for ever.
struct Once<S>(Mutex<Option<S>>);

impl<S: crate::tokio::GatewayStream> crate::tokio::Acceptor for Once<S> {
    type Stream = S;

    async fn accept(&self) -> io::Result<S> {
        let stream = self.0.lock().unwrap().take();
        match stream {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

/// One conversation with [`crate::tokio::serve`].
pub(super) fn with_tokio(gateway: &Arc<Gateway>, place: Place, runtime: &tokio::runtime::Runtime) -> Vec<u8> {
    let _inside = runtime.enter();
    // `alive` is dropped with the last handler, and so at the end of the connection.
    let (alive, over) = mpsc::channel::<()>();
    let handler = {
        let gateway = gateway.clone();
        move |request, response| {
            let _alive = &alive;
            crate::tokio::memory::handle(gateway.clone(), request, response)
        }
    };
    let config = Config { input_idle: INPUT_IDLE, ..Config::default() };
    let (socket, serving) = match place {
        Place::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let serving = crate::tokio::serve(Once(Mutex::new(Some(stream))), config, handler);
            (socket.into(), runtime.spawn(serving))
        }
        Place::Unix => {
            let (socket, stream) = UnixStream::pair().unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::UnixStream::from_std(stream).unwrap();
            let serving = crate::tokio::serve(Once(Mutex::new(Some(stream))), config, handler);
            (socket.into(), runtime.spawn(serving))
        }
    };
    let socket = connected(socket);
    let output = talk(&gateway.script, &socket, 4);
    drop(socket);
    serving.abort();
    assert_eq!(over.recv_timeout(Duration::from_secs(60)), Err(mpsc::RecvTimeoutError::Disconnected));
    output
}
