//! The same with streams of tokio.

use super::*;
use futures_util::FutureExt;
use linger::tokio::Lingering;
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn stream() -> (TcpStream, tokio::net::TcpStream) {
    let (client, server) = answered();
    server.set_nonblocking(true).unwrap();
    (client, tokio::net::TcpStream::from_std(server).unwrap())
}

type Adapter = (&'static str, fn(&Closer) -> std::pin::Pin<Box<dyn Future<Output = ()> + '_>>);

/// Every way to end a connection of tokio: with the global closer, whose thread is the parent's, and with
/// a closer of the parent's.
const ADAPTERS: &[Adapter] = &[
    ("close", |_| {
        Box::pin(async {
            let (client, server) = stream();
            let outcome = linger::tokio::close(server, &policy()).await;
            assert_eq!((outcome.ended, outcome.discarded), (HAS_STAYED, 9), "{outcome}");
            whole(client);
        })
    }),
    ("shutdown", |_| {
        Box::pin(async {
            let (client, server) = stream();
            let mut server = Lingering::new(server, policy());
            server.shutdown().await.unwrap();
            let outcome = server.close().await;
            assert_eq!((outcome.ended, outcome.discarded), (HAS_STAYED, 9), "{outcome}");
            whole(client);
        })
    }),
    ("drop", |_| {
        Box::pin(async {
            let (client, server) = stream();
            drop(Lingering::new(server, policy()));
            let closer = Closer::global().unwrap();
            closer.finish(LONG);
            assert_eq!(closer.snapshot().lingering, 0);
            whole(client);
        })
    }),
    ("close, dropped", |_| {
        Box::pin(async {
            let (client, server) = stream();
            drop(linger::tokio::close(server, &policy()));
            whole(client);
        })
    }),
    ("close by the parent's", |closer| {
        Box::pin(async {
            let (client, server) = stream();
            let server = Lingering::with_closer(server, patient(), closer);
            ended_at_once(server.close().await);
            whole(client);
        })
    }),
    ("shutdown, then drop by the parent's", |closer| {
        Box::pin(async {
            let (client, server) = stream();
            let mut server = Lingering::with_closer(server, patient(), closer);
            server.shutdown().await.unwrap();
            drop(server);
            whole(client);
        })
    }),
    ("drop by the parent's", |closer| {
        Box::pin(async {
            let (client, server) = stream();
            drop(Lingering::with_closer(server, patient(), closer));
            whole(client);
        })
    }),
];

#[test]
fn every_adapter_in_a_child() {
    sandboxed(|| {
        let (closer, client) = in_use();
        // The master has used the global closer, too.
        let (other, server) = answered();
        Closer::global().unwrap().close(server, &patient());
        for (name, adapter) in ADAPTERS {
            println!("{name}");
            in_child(|| runtime().block_on(adapter(&closer)));
            in_child(|| in_child(|| runtime().block_on(adapter(&closer))));
        }
        let snapshot = closer.snapshot();
        assert_eq!((snapshot.handed_over, snapshot.lingering), (1, 1), "{snapshot:?}");
        drop((client, other));
        until(&closer, |snapshot| snapshot.ended.peer_closed == 1);
    });
}

/// A runtime does not work in a child, but a value that the parent left there may be polled and dropped.
#[test]
fn a_close_that_was_begun_before_the_fork() {
    sandboxed(|| {
        let runtime = runtime();
        let closer = Closer::new(Budget::default()).unwrap();
        let (client, mut watched, mut given) = runtime.block_on(async {
            let (client, server) = stream();
            let mut watched = Box::pin(Lingering::with_closer(server, patient(), &closer).close());
            let (mut writing, server) = stream();
            let mut given = Box::pin(Lingering::with_closer(server, patient(), &closer).close());
            // The thread takes over the one that has read something.
            assert!(watched.as_mut().now_or_never().is_none());
            assert!(given.as_mut().now_or_never().is_none());
            writing.write_all(b"more").unwrap();
            tokio::task::yield_now().await;
            assert!(given.as_mut().now_or_never().is_none());
            ((client, writing), watched, given)
        });
        in_child(|| {
            for close in [&mut watched, &mut given] {
                assert!(close.as_mut().now_or_never().is_some(), "nobody would ever wake it");
            }
        });
        drop((watched, given));
        drop(client);
        until(&closer, |snapshot| snapshot.lingering == 0);
    });
}

#[cfg(feature = "hyper")]
#[test]
fn hyper_in_a_child() {
    use hyper::rt::Write as _;
    sandboxed(|| {
        Closer::global().unwrap();
        in_child(|| {
            runtime().block_on(async {
                let (client, server) = stream();
                let mut io = linger::hyper::io(server, policy());
                std::future::poll_fn(|context| std::pin::Pin::new(&mut io).poll_shutdown(context))
                    .await
                    .unwrap();
                drop(io);
                whole(client);
                let (client, server) = stream();
                drop(linger::hyper::io(server, policy()));
                whole(client);
            });
        });
    });
}

#[cfg(feature = "axum")]
#[test]
fn axum_in_a_child() {
    sandboxed(|| {
        let parents = Closer::new(Budget::default()).unwrap();
        for closer in [None, Some(&parents)] {
            in_child(|| {
                runtime().block_on(async {
                    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let address = listener.local_addr().unwrap();
                    let listener = match closer {
                        Some(closer) => linger::axum::listen_with(listener, policy(), closer),
                        None => linger::axum::listen(listener, policy()),
                    };
                    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
                    let app = axum::Router::new().route("/", axum::routing::get(|| async { "answer" }));
                    let serving = tokio::spawn(
                        axum::serve(listener, app).with_graceful_shutdown(stopped.map(drop)).into_future(),
                    );
                    let reading = std::thread::spawn(move || {
                        let mut client = TcpStream::connect(address).unwrap();
                        client.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
                        let mut got = String::new();
                        client.read_to_string(&mut got).map(|_| got.ends_with("answer"))
                    });
                    let reading = tokio::task::spawn_blocking(|| reading.join().unwrap());
                    assert!(reading.await.unwrap().unwrap());
                    stop.send(()).unwrap();
                    serving.await.unwrap().unwrap();
                });
            });
        }
    });
}
