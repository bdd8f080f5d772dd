//! lighttpd starts the application itself (`bin-path`), and gives it the listening socket as descriptor 0.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use linger_testing::servers::{available, lighttpd};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");
const ROUNDS: usize = 20;

/// Posts `body` bytes in HTTP/1.0 and reads the answer to its end.
fn post(address: SocketAddr, path: &str, body: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {body}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut sending = stream.try_clone().unwrap();
    // An early answer may end the connection under it.
    let sender = std::thread::spawn(move || drop(sending.write_all(&vec![b'b'; body])));
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    sender.join().unwrap();
    all
}

#[test]
fn an_application_that_lighttpd_starts_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("large"), vec![b'r'; 2 << 20]).unwrap();
    let config = format!(
        "server.modules = ( \"mod_fastcgi\" )
         fastcgi.server = ( \"/\" => (( \"bin-path\" => \"{LINGER} fcgi serve --root {}\", \"socket\" => \"FOLDER/socket\",
           \"max-procs\" => 2, \"check-local\" => \"disable\" )) )",
        root.path().display()
    );
    let Some(server) = available(lighttpd("lighttpd-bin-path", &config)) else { return };
    for round in 0..ROUNDS {
        // The body is not read: lighttpd sends all of it all the same.
        for body in [0, 8, 67_000, 2 << 20] {
            let got = post(server.address, "/large", body);
            let whole = got.starts_with(b"HTTP/1.") && got.ends_with(&vec![b'r'; 2 << 20]);
            assert!(whole, "round {round}, body {body}: {} bytes\n{}", got.len(), server.log());
        }
    }
    let missing = post(server.address, "/missing", 8);
    assert!(String::from_utf8_lossy(&missing).contains(" 404 "), "{}", String::from_utf8_lossy(&missing));
}
