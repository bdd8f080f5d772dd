#!/usr/bin/env python3
"""suites.py hyper|axum|tokio-tungstenite|tonic CHECKOUT [bare|clean]: makes the tests of a checkout of that project run on
lingering streams, by another listener; with `bare` on its own, and with `clean` it only brings the checkout back. `cargo xtask
suites` calls it, runs the tests both ways, and compares them. A test that fails on lingering streams and not on bare ones shows a fault of this crate. Nothing of theirs is kept here."""
import pathlib, re, subprocess, sys

name, checkout = sys.argv[1], pathlib.Path(sys.argv[2])
linger = pathlib.Path(__file__).resolve().parent.parent
subprocess.run(["git", "-C", checkout, "checkout", "--quiet", "."], check=True)
if sys.argv[3:] == ["clean"]:
    sys.exit()

def edit(path, *changes):
    path = checkout / path
    text = path.read_text()
    for old, new in changes:
        assert old in text, f"{path}: {old!r} is gone; this script wants an update"
        text = text.replace(old, new)
    path.write_text(text)

if name == "tonic":
    # rustls builds aws-lc by default, which takes longer than all else, and the tests ask for ring.
    edit("tests/integration_tests/Cargo.toml", ('features = ["ring"]', 'default-features = false, features = ["ring", "std", "tls12"]'))
if sys.argv[3:] == ["bare"]:
    sys.exit()

def needs(path, kind="dev-dependencies"):
    """The new dependency. Only `tokio`, so that there is no circle."""
    edit(path, (f"[{kind}]\n", f'[{kind}]\nlinger = {{ path = "{linger}", features = ["tokio"] }}\n'))

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
elif name == "tonic":
    needs("tonic/Cargo.toml", "dependencies")
    # Tests with a listener of tokio's own get tonic's, which lingers.
    for test in ["integration_tests/tests/load_shed", "integration_tests/tests/timeout", "web/tests/grpc", "web/tests/grpc_web", "default_stubs/tests/default"]:
        path = checkout / f"tests/{test}.rs"
        text = path.read_text()
        listener = re.compile(r"(?:tokio_stream::wrappers::)?TcpListenerStream::new\(")
        assert listener.search(text), f"{path}: no listener; this script wants an update"
        text = re.sub(r"use tokio_stream::wrappers::TcpListenerStream;\n", "", text)
        path.write_text(listener.sub("tonic::transport::server::TcpIncoming::from(", text))
    incoming = "tonic/src/transport/server/incoming.rs"
    edit(
        incoming,
        ("    type Item = std::io::Result<TcpStream>;\n", "    type Item = std::io::Result<Lingers>;\n"),
        (
            "        polled\n    }\n}\n",
            "        polled.map_ok(|stream| Lingers(linger::tokio::Lingering::new(stream, linger::Policy::default())))\n    }\n}\n",
        ),
    )
    with (checkout / incoming).open("a") as file:
        file.write("""
/// A stream that lingers.
#[derive(Debug)]
pub struct Lingers(linger::tokio::Lingering<TcpStream>);

impl super::Connected for Lingers {
    type ConnectInfo = super::TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.get_ref().connect_info()
    }
}

impl tokio::io::AsyncRead for Lingers {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut tokio::io::ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Lingers {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
""")
else:
    sys.exit(__doc__)
