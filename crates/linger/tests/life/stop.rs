//! How long a stop takes, and what it waits for.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use linger::http::Unread;
use linger::{Policy, Snapshot};
use linger_testing::sandboxed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{LONG, RESPONSE};
use crate::{DEADLINE, SOON, Server, Signal, app, by_axum, by_hyper, connect};

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
fn a_stop_of_hyper_ends_within_the_deadline_of_the_closer() {
    sandboxed(|| {
        dripped_on(|listener, stopped| async {
            by_hyper(listener, app(), patient(), Unread::default(), stopped).await;
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
