#!/usr/bin/env python3
"""suites.py hyper|axum|tokio-tungstenite CHECKOUT [bare]: makes the tests of a checkout of that project run on lingering
streams, by another listener; with `bare` it only brings the checkout back. Then, in the checkout:

    hyper              cargo test --features full --test server -- --test-threads 4
    axum               cargo test -p axum --lib
    tokio-tungstenite  cargo test

A test that fails on lingering streams and not on bare ones shows a fault of this crate. Nothing of theirs is kept here."""
import pathlib, subprocess, sys

name, checkout = sys.argv[1], pathlib.Path(sys.argv[2])
linger = pathlib.Path(__file__).resolve().parent.parent
subprocess.run(["git", "-C", checkout, "checkout", "--quiet", "."], check=True)
if sys.argv[3:] == ["bare"]:
    sys.exit()

def edit(path, *changes):
    path = checkout / path
    text = path.read_text()
    for old, new in changes:
        assert old in text, f"{path}: {old!r} is gone; this script wants an update"
        text = text.replace(old, new)
    path.write_text(text)

def needs(path):
    """The new dependency. Only `tokio`, so that there is no circle."""
    edit(path, ("[dev-dependencies]\n", f'[dev-dependencies]\nlinger = {{ path = "{linger}", features = ["tokio"] }}\n'))

# A listener with the methods of tokio's that the tests use.
LISTENER = """
#[allow(dead_code)]
pub(crate) mod lingering {
    use linger::{Policy, tokio::Lingering};
    use std::{io, net::SocketAddr};
    use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};

    pub(crate) struct Listener(TcpListener);

    impl Listener {
        pub(crate) async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
            TcpListener::bind(address).await.map(Self)
        }

        pub(crate) fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
            TcpListener::from_std(listener).map(Self)
        }

        pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
            self.0.local_addr()
        }

        pub(crate) async fn accept(&self) -> io::Result<(Lingering<TcpStream>, SocketAddr)> {
            let (stream, address) = self.0.accept().await?;
            Ok((Lingering::new(stream, Policy::default()), address))
        }
    }
}
"""

if name == "hyper":
    needs("Cargo.toml")
    edit(
        "tests/server.rs",
        (
            "use tokio::net::{TcpListener as TkTcpListener, TcpListener, TcpStream as TkTcpStream};\n",
            "use lingering::{Listener as TkTcpListener, Listener as TcpListener};\nuse tokio::net::TcpStream as TkTcpStream;\n",
        ),
        ("mod support;\n", "mod support;\n" + LISTENER),
        # What an upgrade gives back is the lingering stream.
        ("downcast::<TokioIo<TkTcpStream>>", "downcast::<TokioIo<linger::tokio::Lingering<TkTcpStream>>>"),
    )
elif name == "axum":
    needs("axum/Cargo.toml")
    edit(
        "axum/src/test_helpers/test_client.rs",
        ("serve(listener, Shared::new(svc)).await;", "serve(Lingers(linger::tokio::Listener::new(listener, linger::Policy::default())), Shared::new(svc)).await;"),
        (
            "pub(crate) fn spawn_service<S>",
            """struct Lingers(linger::tokio::Listener<TcpListener>);

impl crate::serve::Listener for Lingers {
    type Io = linger::tokio::Lingering<tokio::net::TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

pub(crate) fn spawn_service<S>""",
        ),
    )
elif name == "tokio-tungstenite":
    needs("Cargo.toml")
    for test in ["communication", "handshakes"]:
        path = f"tests/{test}.rs"
        edit(path, ("net::{TcpListener, TcpStream}", "net::TcpStream"), ("TcpListener::bind", "lingering::Listener::bind"))
        (checkout / path).write_text((checkout / path).read_text() + LISTENER)
else:
    sys.exit(__doc__)
