//! Connections without a request: they end no service and take no client's place.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use crate::common::*;
use linger_transfer::session::{self, Session, SessionEvent};
use linger_transfer::*;
use tempfile::tempdir;

#[test]
fn one_request_is_served_whoever_else_knocks() {
    for streams in [1, 4] {
        let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
        let file = from.path().join("file");
        fs::write(&file, bytes(3 * BLOCK, 5)).unwrap();
        let mut options = ShareOptions::new(to.path());
        options.insecure_loopback = true;
        options.writable = true;
        let server = Server::new(options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                server.serve(&listener, Some(1), &|serving| {
                    if let Serving::Served(served) = serving
                        && served.has_asked()
                    {
                        asked.lock().unwrap().push(served.summary);
                    }
                })
            });
            // A port scan, a connection that sends one byte and waits, and one that sends nothing.
            drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
            let mut begun = TcpStream::connect(("127.0.0.1", port)).unwrap();
            begun.write_all(b"L").unwrap();
            let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut options = ClientOptions::default();
            options.streams = streams;
            let client = Client::new("127.0.0.1", port, options).unwrap();
            let (summary, error) =
                client.put(Input::Path(file.clone()), &place("copy"), &PutOptions::default(), &mut |_| {});
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            // While these connections are still open.
            serving.join().unwrap().unwrap();
        });
        let [summary] = &asked.into_inner().unwrap()[..] else { panic!("one request") };
        assert_eq!((summary.confirmed, summary.peer_knows), (1, true), "{streams} connections");
    }
}

#[test]
fn the_first_request_is_the_one_that_is_served() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(8 * BLOCK, 8)).unwrap();
    let mut options = ShareOptions::new(to.path());
    options.insecure_loopback = true;
    options.writable = true;
    let server = Server::new(options).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let verdicts: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| server.serve(&listener, Some(1), &|_| {}).unwrap());
        let puts: Vec<_> = (0..4)
            .map(|number| {
                let file = file.clone();
                scope.spawn(move || {
                    let mut options = ClientOptions::default();
                    options.retry.patience = std::time::Duration::ZERO;
                    let client = Client::new("127.0.0.1", port, options).unwrap();
                    let name = format!("copy{number}");
                    let (summary, error) =
                        client.put(Input::Path(file), &place(&name), &PutOptions::default(), &mut |_| {});
                    summary.verdict(error.as_ref())
                })
            })
            .collect();
        puts.into_iter().map(|put| put.join().unwrap()).collect()
    });
    let served = verdicts.iter().filter(|verdict| **verdict == ItemVerdict::Confirmed).count();
    let there = fs::read_dir(to.path()).unwrap().count();
    assert_eq!((served, there), (1, 1), "{verdicts:?}");
}

#[test]
fn hundreds_of_idle_connections_lock_nobody_out() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(BLOCK, 6)).unwrap();
    let served = share(
        to.path(),
        |options| options.connections = 2,
        |shared| {
            let mut strangers: Vec<_> =
                (0..300).map(|_| TcpStream::connect(("127.0.0.1", shared.port)).unwrap()).collect();
            for stranger in strangers.iter_mut().step_by(2) {
                // The server has ended the oldest ones already.
                let _ = stranger.write_all(b"LN");
            }
            shared.put(&file, "copy");
        },
    );
    assert_eq!(served.iter().filter(|served| served.has_asked()).count(), 1);
    assert_eq!(served.len(), 301, "each of them has ended");
}

#[test]
fn requests_beyond_the_bound_wait_for_their_turn() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(4 * BLOCK, 7)).unwrap();
    share(
        to.path(),
        |options| options.connections = 1,
        |shared| {
            std::thread::scope(|scope| {
                for number in 0..8 {
                    let file = &file;
                    scope.spawn(move || shared.put(file, &format!("copy{number}")));
                }
            });
        },
    );
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 8);
}

/// The request of `linger put` for a pipe that is never sent: docs/transfer-protocol.md, "Messages".
fn put_request(name: &str) -> Vec<u8> {
    let mut request = vec![1, 0, 0, 1, 0, name.len() as u8];
    request.extend(name.as_bytes());
    request.push(0);
    request.extend([7; 16]);
    request.extend([0, 0, 0, 1, 0, 0]);
    request
}

/// A client that sends a request and then only answers pings, until the server ends the session.
fn answers_alone(port: u16, name: &str, holds: &Barrier) -> Option<String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let plain = Box::new(session::Plain::new(stream).unwrap());
    let mut session = Session::new(plain, session::Role::Initiator).unwrap();
    session.open(&put_request(name)).unwrap();
    // The client has its place once the server accepts.
    assert!(matches!(session.receive(), Ok(SessionEvent::Message { .. })));
    holds.wait();
    loop {
        match session.receive() {
            Ok(SessionEvent::Bye { reason, .. }) => return Some(reason),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[test]
fn who_only_answers_pings_gives_its_place_to_who_waits() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(BLOCK, 9)).unwrap();
    let idle = |options: &mut ShareOptions| {
        options.connections = 3;
        options.idle = Duration::from_millis(50);
        options.deadlines.ping = Duration::from_millis(10);
    };
    share(to.path(), idle, |shared| {
        let holds = Barrier::new(4);
        std::thread::scope(|scope| {
            let names = ["a", "b", "c"];
            let idlers = names.map(|name| {
                let (holds, port) = (&holds, shared.port);
                scope.spawn(move || answers_alone(port, name, holds))
            });
            holds.wait();
            // Without the bound on sessions that make no progress, this would wait for ever.
            shared.put(&file, "copy");
            shared.server.canceller().cancel();
            for idler in idlers {
                idler.join().unwrap();
            }
        });
    });
    assert!(to.path().join("copy").exists());
}

#[test]
fn who_only_answers_pings_is_not_waited_for_without_end() {
    let to = tempdir().unwrap();
    let bounded = |options: &mut ShareOptions| {
        options.deadlines.ping = Duration::from_millis(10);
        options.deadlines.progress = Duration::from_millis(100);
    };
    let served = share(to.path(), bounded, |shared| {
        let reason = answers_alone(shared.port, "x", &Barrier::new(1));
        assert_eq!(reason, None, "it is cut");
        shared.wait_for_sessions(1);
    });
    let error = served[0].error.as_ref().unwrap().to_string();
    assert!(error.contains("nothing has come of it"), "{error}");
}

/// A connection from another loopback address, as of another host.
fn from_address(last: u8, port: u16) -> std::io::Result<TcpStream> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 1, last], 0)).into())?;
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())?;
    Ok(socket.into())
}

/// Makes a put with a known key beside many strangers: some are idle, some send a handshake byte by byte, some send a
/// put request and nothing more. Returns how long the put took.
fn known_client_beside(strangers: usize) -> Duration {
    let (from, to, home) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(32 * BLOCK, 10)).unwrap();
    let identity = std::sync::Arc::new(Identity::generate().unwrap());
    let known = ServerKeys::new(identity.clone(), Keyring::new(home.path().join("clients")));
    let mut took = Duration::ZERO;
    share(
        to.path(),
        |options| options.keys = Some(known),
        |shared| {
            let begun: Vec<u8> = {
                // A preface and a put request, whose content never comes.
                let request = put_request("x");
                let parity = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum ^ byte);
                let mut header = vec![parity(&request), 0, 0, request.len() as u8, 1, 0, 0, 1];
                header[5] = parity(&header);
                [b"LNGRTX\x02\x01", &header[..], &request].concat()
            };
            let crowd: Vec<_> = (0..strangers)
                .filter_map(|number| {
                    let mut stranger = from_address(number as u8 % 50 + 1, shared.port).ok()?;
                    let said: &[u8] = match number % 4 {
                        0 => b"",
                        1 => &[22, 3],
                        2 => b"L",
                        _ => &begun,
                    };
                    stranger.write_all(said).ok()?;
                    Some(stranger)
                })
                .collect();
            let mut options = ClientOptions::default();
            let hosts = Keyring::new(home.path().join("hosts"));
            let keys = ClientKeys::new(identity, hosts, std::sync::Arc::new(|_, _| None));
            options.security = Security::Always(keys);
            let client = Client::new("127.0.0.1", shared.port, options).unwrap();
            let started = std::time::Instant::now();
            let (summary, error) =
                client.put(Input::Path(file.clone()), &place("copy"), &PutOptions::default(), &mut |_| {});
            took = started.elapsed();
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            drop(crowd);
        },
    );
    took
}

/// The times are only printed, not checked: `cargo nextest run -p linger-transfer five_hundred --no-capture`.
#[test]
fn five_hundred_strangers_do_not_keep_a_known_client_out() {
    let times = [0, 500, 0, 500].map(known_client_beside);
    eprintln!("alone, beside 500, alone, beside 500: {times:?}");
}
