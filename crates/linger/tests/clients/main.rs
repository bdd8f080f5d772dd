//! Whether stock clients, with HTTP/1.1 and HTTP/2, directly, behind nginx and behind HAProxy, get the whole of each early
//! answer to an upload, and the answer to the next request.
//!
//! A round is an upload that the server refuses before it has read it, with an answer of 300,000 bytes, and at once the next
//! request of the same pool. One round of each belongs to every run of the tests. Forty, whose results are in
//! `docs/clients.md`, and clients that pause, are run by hand:
//!
//! `cargo test -p linger --all-features --test clients -- --ignored --nocapture`

mod client;
mod reqwest;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use client::{CLIENTS, Client, Run, Whole};
use linger_testing::{sandboxed, skip};
use server::{Front, Server};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// axum on hyper, without this crate.
    Bare,
    /// [`linger::http::serve`].
    Lingering,
    /// The same, and its answers wait for the upload: for gateways that cannot pass an early answer on.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum HttpVersion {
    /// HTTP/1.1, in the clear.
    One,
    /// HTTP/2, above TLS, since not all clients speak it without.
    Two,
}

impl HttpVersion {
    fn name(self) -> &'static str {
        if self == Self::One { "1.1" } else { "2" }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Via {
    Direct,
    /// As nginx is by default: it reads the whole of an upload before it asks the server.
    Nginx,
    /// With `proxy_request_buffering off`: the upload passes as it comes.
    NginxUnbuffered,
    Haproxy,
}

impl Via {
    /// Whether it may lose an early answer that it has received, whatever the server does. nginx tells its HTTP/1.1
    /// client that the connection is kept, and closes it (`ngx_http_finalize_connection`, `reading_body`); an HTTP/2
    /// client may wait for ever. HAProxy resets an HTTP/2 stream whose upload goes on. A server behind them can only
    /// prevent this by reading everything before it answers.
    fn loses_by_itself(self, client: Client, version: HttpVersion) -> bool {
        match self {
            Self::Direct | Self::Nginx => false,
            Self::NginxUnbuffered => true,
            Self::Haproxy => (client, version) == (Client::Curl, HttpVersion::Two),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "",
            Self::Nginx => "nginx",
            Self::NginxUnbuffered => "nginx, unbuffered",
            Self::Haproxy => "HAProxy",
        }
    }
}

/// The gateways that may lose answers that they have received.
const GATEWAYS: [Via; 2] = [Via::NginxUnbuffered, Via::Haproxy];

const VIAS: [Via; 4] = [Via::Direct, Via::Nginx, Via::NginxUnbuffered, Via::Haproxy];

/// Larger than what both kernels hold of an upload that nobody reads.
const UPLOAD: usize = 3_000_000;

/// Seconds that a client waits for one answer. Only a failure takes so long: over HTTP/2, Java's client waits for ever if the
/// bare server has reset the stream.
const PATIENCE: f64 = 60.0;
const PATIENCE_IN_FAILURES: f64 = 5.0;

/// The result of a client at a server, in a number of rounds; `None` if the client is not installed.
#[derive(Debug)]
struct Row {
    kind: Kind,
    client: Client,
    version: HttpVersion,
    via: Via,
    whole: Option<Whole>,
}

impl Row {
    fn is_right(&self, rounds: usize) -> bool {
        let is_whole = |whole: &Whole| (whole.uploads, whole.next) == (rounds, rounds);
        // See the text of the table.
        let is_known = self.kind != Kind::Waiting && self.via.loses_by_itself(self.client, self.version);
        is_known || self.whole.as_ref().is_none_or(is_whole)
    }
}

type Clients = [(Client, &'static [HttpVersion])];

/// Some clients at a server through each way, in rounds.
fn at(kind: Kind, clients: &Clients, vias: &[Via], rounds: usize, pause: f64) -> Vec<Row> {
    let fails = |client, version, via: Via| {
        kind == Kind::Bare || (kind == Kind::Lingering && via.loses_by_itself(client, version))
    };
    rows(kind, clients, vias, rounds, pause, fails)
}

/// The same; `fails` for those with whom nobody is to be patient.
fn rows(
    kind: Kind,
    clients: &Clients,
    vias: &[Via],
    rounds: usize,
    pause: f64,
    fails: impl Fn(Client, HttpVersion, Via) -> bool,
) -> Vec<Row> {
    let server = Server::start(kind);
    let mut rows = Vec::new();
    for &via in vias {
        let Some(front) = Front::start(via, &server) else { continue };
        let all =
            clients.iter().flat_map(|(client, versions)| versions.iter().map(|version| (*client, *version)));
        for (client, version) in all {
            let url = front.url(version);
            let patience = if fails(client, version, via) { PATIENCE_IN_FAILURES } else { PATIENCE };
            let run = Run { url: &url, version, rounds, bytes: UPLOAD, pause, patience };
            let row = Row { kind, client, version, via, whole: client.run(run) };
            eprintln!("{kind:?} {row:?}");
            rows.push(row);
        }
    }
    rows
}

#[test]
fn one_round_of_each() {
    sandboxed(|| {
        let direct = at(Kind::Lingering, &CLIENTS, &[Via::Direct], 1, 0.0);
        let gateways = at(Kind::Lingering, &CLIENTS, &[Via::Nginx, Via::Haproxy], 1, 0.0);
        let curl: &Clients = &[(Client::Curl, &[HttpVersion::Two])];
        let waiting = at(Kind::Waiting, curl, &[Via::NginxUnbuffered, Via::Haproxy], 1, 0.0);
        for row in direct.iter().chain(&gateways).chain(&waiting) {
            assert!(row.is_right(1), "{row:?}");
        }
        // The kernel's counter TCPAbortOnData is not checked: on a busy machine, a client that has everything and ends
        // its connection later than `grace` counts there, and loses nothing.
        // A bare server must lose answers: otherwise the test would show nothing.
        let client: &Clients = &[(Client::Python("http.client"), &[HttpVersion::One])];
        for row in at(Kind::Bare, client, &[Via::Direct], 20, 0.0) {
            assert!(row.whole.as_ref().is_none_or(|whole| whole.uploads < 20), "{row:?}");
        }
    });
}

/// Clients that speak HTTP/2. Those that a bare server loses come last.
const OVER_HTTP2: [(Client, &[HttpVersion]); 6] = [
    (Client::Curl, &[HttpVersion::Two]),
    (Client::Node("node:http2"), &[HttpVersion::Two]),
    (Client::Go, &[HttpVersion::Two]),
    (Client::Reqwest, &[HttpVersion::Two]),
    (Client::Python("httpx"), &[HttpVersion::Two]),
    (Client::Java, &[HttpVersion::Two]),
];

/// Makes the sandbox's loopback as slow as a home's line. What a server writes has to wait then. `false` if that cannot be done.
fn slow_link() -> bool {
    let mtu = "link set lo mtu 1500";
    let rate = "qdisc add dev lo root tbf rate 20mbit burst 32k latency 200ms";
    for (program, words) in [("ip", mtu), ("tc", rate)] {
        match Command::new(program).args(words.split(' ')).status() {
            Ok(status) => assert!(status.success(), "{program} {words}"),
            Err(error) => {
                skip("iproute2", &error.to_string());
                return false;
            }
        }
    }
    true
}

/// No client may get less than at the bare server, where a write has to wait as well.
fn over_a_slow_link(clients: &Clients, rounds: usize) {
    if !slow_link() {
        return;
    }
    let bare = at(Kind::Bare, clients, &[Via::Direct], rounds, 0.0);
    // Beside what a bare server loses there is nothing to be waited for.
    let loses = |client, _, _| {
        let whole = bare.iter().find(|row| row.client == client).and_then(|row| row.whole.as_ref());
        whole.is_some_and(|whole| whole.uploads < rounds)
    };
    let lingering = rows(Kind::Lingering, clients, &[Via::Direct], rounds, 0.0, loses);
    for (bare, lingering) in bare.iter().zip(lingering) {
        let (Some(bare), Some(own)) = (&bare.whole, &lingering.whole) else { continue };
        assert!(own.uploads >= bare.uploads && own.next >= bare.next, "{bare:?} bare, {lingering:?}");
        assert!(lingering.client != Client::Curl || lingering.is_right(rounds), "{lingering:?}");
    }
}

#[test]
fn no_client_over_a_slow_link_gets_less_than_bare() {
    sandboxed(|| over_a_slow_link(&OVER_HTTP2[..4], 2));
}

#[test]
#[ignore = "takes minutes: cargo test -p linger --all-features --test clients -- --ignored slow_link"]
fn twenty_rounds_over_a_slow_link() {
    sandboxed(|| over_a_slow_link(&OVER_HTTP2, 20));
}

#[test]
#[ignore = "takes a quarter of an hour, writes docs/clients.md: cargo test -p linger --all-features --test clients -- --ignored forty"]
fn forty_rounds_of_each() {
    sandboxed(|| {
        let lingering = at(Kind::Lingering, &CLIENTS, &VIAS, ROUNDS, 0.0);
        let bare = at(Kind::Bare, &CLIENTS, &VIAS, BARE_ROUNDS, 0.0);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/clients.md");
        let waiting = at(Kind::Waiting, &CLIENTS, &GATEWAYS, ROUNDS, 0.0);
        std::fs::write(path, table(&bare, &lingering, &waiting)).unwrap();
        for row in lingering.iter().chain(&waiting) {
            assert!(row.is_right(ROUNDS), "{row:?}");
        }
    });
}

const ROUNDS: usize = 40;
const BARE_ROUNDS: usize = 10;

/// Each client pauses by its own clock. Each asserts that all was written: a failed write is an exception.
#[test]
#[ignore = "uploads of 24 s each: cargo test -p linger --all-features --test clients -- --ignored pause"]
fn clients_that_pause_in_their_uploads() {
    sandboxed(|| {
        for pause in [0.1, 0.7, 3.0] {
            for row in at(Kind::Lingering, &CLIENTS, &[Via::Direct], 1, pause) {
                assert!(row.is_right(1), "{pause} s: {row:?}");
            }
        }
    });
}

fn table(bare: &[Row], lingering: &[Row], waiting: &[Row]) -> String {
    let mut text = HEAD.to_owned();
    for row in lingering {
        let Row { client, version, via, .. } = row;
        let cell = |rows: &[Row], absent: &str| {
            let mut rows =
                rows.iter().filter(|row| (row.client, row.version, row.via) == (*client, *version, *via));
            let Some(row) = rows.next() else { return absent.to_owned() };
            let whole = row.whole.as_ref();
            whole.map_or("not here".to_owned(), |whole| format!("{} and {}", whole.uploads, whole.next))
        };
        let (bare, own, waiting) =
            (cell(bare, "not here"), cell(lingering, "not here"), cell(waiting, "not asked"));
        let (client, version, via) = (client.name(), version.name(), via.name());
        writeln!(text, "| {client} | {version} | {via} | {bare} | {own} | {waiting} |").unwrap();
    }
    text
}

const HEAD: &str = "# Clients

What stock clients get of early answers, and of the next requests in their pools: both numbers are of 40 rounds, of 10 with
the bare server. The server (axum) refuses an upload of 3 MB before it has read it, with a `413` of 300,000 bytes; at once the
client asks for another page, on the connection that its pool gives it. *bare* is `axum::serve`, *lingering* is
`linger::http::serve`, and *waiting* is that with `Unread::behind_gateway`: its answer waits for the upload. HTTP/1.1 is in the
clear, HTTP/2 above TLS. wget has no pool between the two requests: its next one is a new process's.

**Gateways that cannot pass an early answer on.** *nginx, unbuffered* has `proxy_request_buffering off`. If the server answers
early, this nginx tells its client `Connection: keep-alive`, and sends its FIN with the last bytes of the answer; over HTTP/2
some clients wait for ever. HAProxy 2.6 resets an HTTP/2 stream whose upload goes on (`PROTOCOL_ERROR`, seen with curl 7.88
alone) before it has passed on the answer that it has. That does not depend on how the server ends its connection: nothing is
different with a server that reads every byte and never closes first (40 lines of Python). Of 10 rounds behind nginx, unbuffered:

| server behind nginx | http.client, next | node:http, next | httpx over HTTP/2 | Java over HTTP/2 | curl over HTTP/2 |
|---|---|---|---|---|---|
| answers at once, reads all, keeps the connection | 3 | 1 | 0 | 0 | 9 |
| answers at once, says `Connection: close`, reads until the end | 8 | 3 | 0 | 0 | 9 |
| reads all, then answers | 10 | 10 | 10 | 10 | 10 |

curl over HTTP/2 behind HAProxy had

| server behind HAProxy | answers whole |
|---|---|
| nginx 1.22, `client_max_body_size`, `lingering_close always` | 15 of 40 |
| answers at once, reads all, then closes | 9 of 20 |
| answers at once, reads all, keeps the connection | 10 of 20, and 7 that waited for 3 s |
| reads all, then answers | 20 of 20 |

So only a server that reads first is safe behind them, and `Unread::behind_gateway` makes one of any handler: 40 and 40 in
each row. With nginx' default, `proxy_request_buffering on`, nothing is needed.

The bare server is not the better one in any row: where its clients lose fewer of the next requests, they had not got the answer
before. Its `502`, said to be kept, is followed by the same lost request (http.client: 8 of 8), and an answer that is cut off makes a
client open a new connection.

**Over a slow link** (`tbf`, 20 Mbit/s, MTU 1500; `-- --ignored twenty`) an answer of 300,000 bytes does not fit into the send buffer
at once. When curl (7.88) sees the status of an early answer, it ends its upload with less than its `content-length`. That is malformed
(RFC 9113 section 8.1.1): h2 resets the stream, and throws away what it has not written yet of the answer, if somebody has the
request's body. So the layer lets go of the body as soon as the answer has to wait, for the socket or for the client's window, as
the bare server does from the beginning. Of 20 answers over HTTP/2, curl, node:http2, Go and reqwest got 20 bare and 20 with the line;
httpx none either way, and Java's client none bare and 19. An answer that fits, as error pages do, gets to all of them.

Written by `cargo test -p linger --all-features --test clients -- --ignored forty`, with the clients that `cargo xtask setup`
installs. One round of each belongs to every run of the tests.

| client | HTTP | through | bare | lingering | waiting |
|---|---|---|---|---|---|
";
