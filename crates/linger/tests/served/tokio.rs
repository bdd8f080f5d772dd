//! The tokio adapter on real sockets: whichever way a task ends, the client has every byte.

use std::io::Write;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::{Got, LONG, RESPONSE, connect_small, no_resets, undelivered, until};
use futures_util::FutureExt;
use linger::tokio::Lingering;
use linger::{Budget, Closer, Ended, Policy};
use linger_sys::TELLS_ACKNOWLEDGED;
use linger_testing::Counters;
use linger_testing::sandboxed;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};

fn runtimes() -> [Runtime; 2] {
    // Without timers: the adapter must not need any.
    [
        Builder::new_current_thread().enable_io().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).enable_io().build().unwrap(),
    ]
}

/// A client that sends more than the server reads, and reads late and slowly enough for the close to matter.
fn client(server: SocketAddr) -> JoinHandle<Got> {
    std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(b"request and more").unwrap();
        Got::read(stream)
    })
}

/// Accepts one connection, reads a part of the request and writes the whole response.
async fn answer(listener: TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_exact(&mut [0; 7]).await.unwrap();
    stream.write_all(&[7; RESPONSE]).await.unwrap();
    stream
}

async fn bind() -> (TcpListener, JoinHandle<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(listener.local_addr().unwrap());
    (listener, client)
}

#[track_caller]
fn whole(client: JoinHandle<Got>) {
    let got = client.join().unwrap();
    assert_eq!((got.bytes.len(), got.error), (RESPONSE, None));
}

#[test]
fn close_waits_and_tells() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        for runtime in runtimes() {
            runtime.block_on(async {
                let (listener, client) = bind().await;
                let outcome = linger::tokio::close(answer(listener).await, &Policy::default()).await;
                assert_eq!((outcome.ended, outcome.discarded), (Ended::PeerClosed, 9), "{outcome}");
                whole(client);
            });
        }
        no_resets(&before);
    });
}

#[test]
fn a_lingering_stream_closes_and_tells_with_and_without_a_shutdown_before() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        for runtime in runtimes() {
            for is_shut_down in [false, true] {
                runtime.block_on(async {
                    let (listener, client) = bind().await;
                    let mut stream = Lingering::new(answer(listener).await, Policy::default());
                    if is_shut_down {
                        stream.shutdown().await.unwrap();
                    }
                    let outcome = stream.close().await;
                    assert_eq!((outcome.ended, outcome.discarded), (Ended::PeerClosed, 9), "{outcome}");
                    whole(client);
                });
            }
        }
        no_resets(&before);
    });
}

/// A shutdown is a FIN and nothing more. The plain stream is the standard.
#[test]
fn a_shutdown_ends_the_writes_and_leaves_the_reads() {
    async fn shut_down<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, mut client: TcpStream) -> S {
        stream.shutdown().await.unwrap();
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "");
        assert_eq!(stream.write(&[0; 9]).await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
        client.write_all(b"after the end of the other side").await.unwrap();
        client.shutdown().await.unwrap();
        stream.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "after the end of the other side");
        // A second shutdown, after both sides have ended.
        stream.shutdown().await.unwrap();
        stream
    }
    sandboxed(|| {
        let before = Counters::read().unwrap();
        for runtime in runtimes() {
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let pair = async || {
                    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                    (client, listener.accept().await.unwrap().0)
                };
                let (client, server) = pair().await;
                shut_down(server, client).await;
                let (client, server) = pair().await;
                let stream = shut_down(Lingering::new(server, Policy::default()), client).await;
                let outcome = stream.close().await;
                let right = (Ended::PeerClosed, TELLS_ACKNOWLEDGED);
                assert_eq!((outcome.ended, outcome.delivered()), right, "{outcome}");
            });
        }
        no_resets(&before);
    });
}

#[test]
fn a_drop_a_panic_and_the_end_of_the_runtime_lose_nothing() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let closer = Closer::global().unwrap();
        let mut ended = 0;
        for round in 0..3 {
            for runtime in runtimes() {
                let (listener, client) = runtime.block_on(bind());
                let stream =
                    runtime.block_on(async { Lingering::new(answer(listener).await, Policy::default()) });
                match round {
                    0 => runtime.block_on(async { drop(stream) }),
                    1 => {
                        let task = runtime.spawn(async move {
                            let _stream = stream;
                            panic!("on purpose: a handler that fails after it has answered");
                        });
                        assert!(runtime.block_on(task).unwrap_err().is_panic());
                    }
                    _ => {
                        // The runtime ends first, and with it a task that waits for ever; then another
                        // stream.
                        let (second, other) = runtime.block_on(async {
                            let (listener, client) = bind().await;
                            (Lingering::new(answer(listener).await, Policy::default()), client)
                        });
                        runtime.spawn(async move {
                            let _stream = stream;
                            std::future::pending::<()>().await;
                        });
                        drop(runtime);
                        drop(second);
                        whole(other);
                        ended += 1;
                    }
                }
                whole(client);
                ended += 1;
            }
        }
        let snapshot = until(closer, |snapshot| snapshot.ended.total() == ended);
        assert_eq!(snapshot.ended.peer_closed, ended);
        no_resets(&before);
    });
}

/// A stream of one runtime is closed in a task of another after the first has ended.
#[test]
fn a_close_whose_runtime_has_ended_lingers_and_tells() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        for (first, second) in runtimes().into_iter().zip(runtimes()) {
            let (listener, client) = first.block_on(bind());
            let stream = first.block_on(async { Lingering::new(answer(listener).await, Policy::default()) });
            drop(first);
            let outcome = second.block_on(stream.close());
            assert_eq!((outcome.ended, outcome.discarded), (Ended::PeerClosed, 9), "{outcome}");
            whole(client);
        }
        no_resets(&before);
    });
}

/// The runtime ends while a task watches the close, and the client, which sends something then, reads only after that. A task
/// that drains by itself is the counter-example: its stream is closed with the runtime.
#[test]
fn a_runtime_that_ends_while_a_stream_lingers_leaves_it_to_the_closer() {
    async fn drain(mut stream: TcpStream) {
        stream.shutdown().await.unwrap();
        while stream.read(&mut [0; 4096]).await.is_ok_and(|bytes| bytes > 0) {}
    }
    sandboxed(|| {
        for is_lingering in [true, false] {
            for runtime in runtimes() {
                let before = Counters::read().unwrap();
                let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
                let mut client = connect_small(listener.local_addr().unwrap());
                client.set_read_timeout(Some(LONG)).unwrap();
                client.write_all(b"request and more").unwrap();
                runtime.block_on(async {
                    let stream = answer(listener).await;
                    let mut closing = if is_lingering {
                        Lingering::new(stream, Policy::default()).close().map(drop).boxed()
                    } else {
                        drain(stream).boxed()
                    };
                    assert!(closing.as_mut().now_or_never().is_none());
                    tokio::spawn(closing);
                });
                drop(runtime);
                client.write_all(b"late").unwrap();
                if is_lingering {
                    let got = Got::read(client);
                    assert_eq!((got.bytes.len(), got.error), (RESPONSE, None));
                    no_resets(&before);
                } else {
                    let resets = || Counters::read().unwrap().since(&before).of("TCPAbortOnData");
                    while resets() == 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    let got = Got::read(client);
                    assert!(got.bytes.len() < RESPONSE, "{}", got.bytes.len());
                    assert_eq!(got.error, Some(std::io::ErrorKind::ConnectionReset));
                }
            }
        }
        let snapshot = until(Closer::global().unwrap(), |snapshot| snapshot.ended.total() == 2);
        assert_eq!((snapshot.ended.peer_closed, snapshot.undelivered), (2, undelivered(2)), "{snapshot:?}");
    });
}

#[test]
fn a_close_that_nobody_awaits_any_more_goes_on() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        for runtime in runtimes() {
            runtime.block_on(async {
                let (listener, client) = bind().await;
                drop(linger::tokio::close(answer(listener).await, &Policy::default()));
                whole(client);
            });
        }
        no_resets(&before);
    });
}

#[test]
fn unix_streams_linger_too() {
    sandboxed(|| {
        for runtime in runtimes() {
            runtime.block_on(async {
                let (mut client, mut server) = UnixStream::pair().unwrap();
                client.write_all(b"request and more").await.unwrap();
                server.read_exact(&mut [0; 7]).await.unwrap();
                let reader = tokio::spawn(async move {
                    let mut got = Vec::new();
                    client.read_to_end(&mut got).await.unwrap();
                    got.len()
                });
                server.write_all(&[7; RESPONSE]).await.unwrap();
                let outcome = Lingering::new(server, Policy::default()).close().await;
                assert_eq!(outcome.delivered(), TELLS_ACKNOWLEDGED, "{outcome}");
                assert_eq!(reader.await.unwrap(), RESPONSE);
            });
        }
    });
}

#[test]
fn a_close_that_lost_bytes_says_so() {
    sandboxed(|| {
        for runtime in runtimes() {
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let (stream, _) = listener.accept().await.unwrap();
                while stream.writable().await.is_ok() && stream.try_write(&[7; 1 << 16]).is_ok() {}
                let mut policy = Policy::default();
                policy.total = Duration::from_millis(50);
                let outcome = Lingering::new(stream, policy).close().await;
                assert!(matches!(outcome.ended, Ended::TimedOut(_)), "{outcome}");
                let tells = outcome.to_string().contains("never acknowledged");
                assert_eq!((outcome.delivered(), tells), (false, TELLS_ACKNOWLEDGED), "{outcome}");
                drop(client);
            });
        }
    });
}

/// A task watches the end of its connection first. No bound may depend on the task's own progress.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_runtime_that_is_blocked_delays_no_close() {
    sandboxed(|| {
        let runtime = Builder::new_current_thread().enable_io().build().unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        let (client, mut ending) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"answer").await.unwrap();
            let mut ending = Box::pin(Lingering::with_closer(stream, Policy::default(), &closer).close());
            // The peer has not closed, so the task watches.
            assert!(ending.as_mut().now_or_never().is_none());
            assert_eq!(closer.snapshot().lingering, 1);
            (client, ending)
        });
        // Nothing polls the stream now, and the peer never closes.
        let snapshot = until(&closer, |snapshot| snapshot.lingering == 0);
        assert_eq!((snapshot.ended.acknowledged, snapshot.undelivered), (1, 0));
        assert_eq!(runtime.block_on(&mut ending).ended, Ended::Acknowledged);
        drop(client);
    });
}

#[test]
fn finish_ends_what_tasks_watch() {
    sandboxed(|| {
        let runtime = Builder::new_current_thread().enable_io().build().unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        let mut policy = Policy::default();
        (policy.idle, policy.total, policy.grace) = (LONG, LONG, LONG);
        let (client, stream) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut ending = Box::pin(Lingering::with_closer(stream, policy, &closer).close());
            assert!(ending.as_mut().now_or_never().is_none());
            (client, ending)
        });
        let summary = closer.finish(Duration::from_millis(50));
        assert_eq!((summary.lingering, summary.ended.total()), (0, 1), "{summary:?}");
        drop((client, stream));
    });
}

#[test]
fn a_task_that_is_cancelled_while_it_watches_leaves_the_rest_to_the_closer() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        for runtime in runtimes() {
            let closer = Closer::new(Budget::default()).unwrap();
            let (listener, client) = runtime.block_on(bind());
            runtime.block_on(async {
                let stream = Lingering::with_closer(answer(listener).await, Policy::default(), &closer);
                let _ = stream.close().now_or_never();
            });
            whole(client);
            let snapshot = until(&closer, |snapshot| snapshot.lingering == 0);
            assert_eq!((snapshot.handed_over, snapshot.ended.peer_closed), (1, 1));
        }
        no_resets(&before);
    });
}
