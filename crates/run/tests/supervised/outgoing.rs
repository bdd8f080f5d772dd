//! Which connections are supervised: outgoing ones if requested, and those of the selected ports.

use std::io::Write;
use std::net::TcpListener;

use crate::support::{PORT, Server, await_reset, late_reader, program, read, script};
use linger_testing::Counters;
use linger_testing::secluded;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

/// Sends a file, and closes with the greeting unread.
const CLIENT: &str = "import select, socket
c = socket.create_connection(('127.0.0.1', 8000))
c.sendall(b'x' * 300000 + b'END')
select.select([c], [], [])
c.close()
";

/// Listens with a small window, so that most bytes of a client stay in the client's send queue.
fn listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], PORT)).into()).unwrap();
    socket.listen(8).unwrap();
    socket.into()
}

#[test]
fn a_client_that_closes_with_unread_bytes() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let listener = listener();
        for (settings, reset) in [(None, true), (Some(""), true), (Some("outgoing"), false)] {
            let before = Counters::read().unwrap();
            let mut client = Server::start(settings, &[&python, "-c", CLIENT]);
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"hello").unwrap();
            await_reset(&stream, reset);
            let got = read(stream);
            assert!(client.wait().success(), "{}", client.log());
            assert_eq!(got.bytes.ends_with(b"END"), !reset, "{settings:?}: {} bytes", got.bytes.len());
            assert_eq!(got.error.is_some(), reset, "{settings:?}: {:?}", got.error);
            assert_eq!(crate::support::aborts(&before), u64::from(reset), "{settings:?}");
            let report = client.report();
            match settings {
                None => {}
                Some("outgoing") => {
                    assert_eq!(report["lingered"], 1, "{report:?}");
                    assert_eq!(report["would_have_reset"], 1, "{report:?}");
                    assert!(report["bytes_acknowledged"].as_u64() > Some(100_000), "{report:?}");
                }
                Some(_) => assert_eq!(report["closes"], 0, "it ends as the program says: {report:?}"),
            }
        }
    });
}

/// Listens at two ports, and answers alike at both.
const TWO_PORTS: &str = "import socket, threading
def serve(port):
    listener = socket.create_server(('127.0.0.1', port), backlog=64)
    while True:
        c, _ = listener.accept()
        c.recv(10)
        c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + b'x' * 600000 + b'END')
        c.close()
threading.Thread(target=serve, args=(8001,), daemon=True).start()
serve(8000)
";

#[test]
fn ports_are_chosen() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", TWO_PORTS);
        for (settings, kept) in [
            ("", &[8_000, 8_001][..]),
            ("port=8001", &[8_001]),
            ("exclude=8000", &[8_001]),
            ("port=8001 port=8000", &[8_000, 8_001]),
        ] {
            let mut server = Server::start_listening(Some(settings), &[&python, &script], 8_000);
            server.await_port(8_001);
            for port in [8_000, 8_001] {
                let keeps = kept.contains(&port);
                let got = late_reader(port, 20_000, !keeps);
                assert_eq!(got.is_whole(), keeps, "{settings}: {port}: {:?}", got.error);
            }
            let report = server.stop(Signal::TERM);
            assert_eq!((&report["closes"], &report["lingered"]), (&kept.len().into(), &kept.len().into()));
        }
    });
}
