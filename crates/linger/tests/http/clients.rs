//! Clients that people use, each with its pool.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use linger::http::Unread;
use linger_testing::{Counters, sandboxed, skip};

use crate::server::{Kind, SHORT, Server};
use crate::support::{LONG, no_resets};

/// Rounds of a client: an upload that is refused, and the next request.
const ROUNDS: usize = 60;

/// The lines that a client has printed, each with its count; `None` if the client is not installed.
fn said(program: &str, package: &str, arguments: &[String]) -> Option<BTreeMap<String, usize>> {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            skip(package, &error.to_string());
            return None;
        }
    };
    let mut counts = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    assert!(!counts.is_empty(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(counts)
}

fn script(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/http").join(name);
    path.to_str().unwrap().to_owned()
}

/// With the layer all requests succeed. With the close alone the next request meets a connection that ends
/// unannounced: otherwise the test would show nothing.
fn next_requests(program: &str, package: &str, name: &str) {
    sandboxed(|| {
        let right = |kind| {
            let server = Server::start(kind);
            let before = Counters::read().unwrap();
            let arguments = [script(name), server.address.port().to_string(), ROUNDS.to_string()];
            let said = said(program, package, &arguments)?;
            if kind != Kind::Bare {
                no_resets(&before);
            }
            let of = |line: &str| said.get(line).copied().unwrap_or_default();
            Some(([of(&format!("upload 413 {REFUSAL}")), of("next 200 5")], said))
        };
        let Some((layer, layer_said)) = right(Kind::Layer) else { return };
        let Some((listen, listen_said)) = right(Kind::Listen) else { return };
        assert_eq!(layer, [ROUNDS, ROUNDS], "{layer_said:?}");
        assert!(listen[1] < ROUNDS, "{listen_said:?}");
    });
}

/// The length of axum's answer to a body that is too large.
const REFUSAL: usize = 56;

#[test]
fn nodes_agent_gets_each_answer_and_each_next_one() {
    next_requests("node", "nodejs", "pool.mjs");
}

#[test]
fn pythons_connection_gets_each_answer_and_each_next_one() {
    next_requests("python3", "python3", "pool.py");
}

/// The results of reqwest, which uses hyper-util's pool: for an upload that is refused, and for a next request that
/// is not sent twice.
async fn pooled(server: &Server) -> [usize; 2] {
    use http_body_util::{BodyExt, Full};
    use hyper::{Request, body::Bytes};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut right = [0; 2];
    for _ in 0..ROUNDS {
        for (index, (path, bytes, whole)) in
            [("limit", 300_000, (413, REFUSAL)), ("read", 5, (200, 1))].into_iter().enumerate()
        {
            let body = Full::new(Bytes::from(vec![b'u'; bytes]));
            let request = Request::post(format!("http://{}/{path}", server.address)).body(body).unwrap();
            let got = async {
                let response = client.request(request).await.ok()?;
                let status = response.status().as_u16();
                let body = response.into_body().collect().await.ok()?;
                Some((status, body.to_bytes().len()))
            };
            // Once in some hundred runs hyper's client waits for ever at the bare server, on a connection that has long been reset.
            let got = tokio::time::timeout(LONG, got).await.ok().flatten();
            right[index] += usize::from(got == Some(whole));
        }
    }
    right
}

#[test]
fn hypers_pool_gets_each_answer_and_each_next_one() {
    sandboxed(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let right = |kind| {
            let server = Server::start(kind);
            runtime.block_on(pooled(&server))
        };
        for kind in [Kind::Layer, Kind::Serve] {
            let before = Counters::read().unwrap();
            assert_eq!(right(kind), [ROUNDS; 2], "{kind:?}");
            no_resets(&before);
        }
        eprintln!("bare: {:?} of {ROUNDS}", right(Kind::Bare));
    });
}

#[test]
fn curl_gets_each_early_answer_over_http_2() {
    sandboxed(|| {
        const UPLOADS: usize = 40;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![b'u'; 3_000_000]).unwrap();
        let body = format!("@{}", file.path().display());
        // curl ends its stream at the response's headers, short of the length that it has announced. h2 takes that for an
        // error and drops what it has not sent yet of the response (`recv_data`): so this one is sent at once, by a server that
        // knows its connection (`short_end.rs` has the others).
        // A machine so busy that curl has no turn for a second (`Unread::idle`) is not asked about here.
        let mut unread = Unread::default();
        unread.idle = LONG;
        let whole = |kind| {
            let server = Server::with(kind, unread);
            let url = format!("http://{}/refused_shortly", server.address);
            let (mut whole, mut lost) = (0, Vec::new());
            for _ in 0..UPLOADS {
                let arguments = ["-s", "--http2-prior-knowledge", "-o", "/dev/null"];
                let format = "%{http_code} %{size_download} %{exitcode}\n";
                let more = ["-w", format, "-H", "expect:", "--data-binary", &body, &url];
                let arguments: Vec<_> =
                    arguments.iter().chain(&more).map(|word| (*word).to_owned()).collect();
                let said = said("curl", "curl", &arguments)?;
                match said.get(&format!("401 {SHORT} 0")) {
                    Some(one) => whole += one,
                    None => lost.push(said),
                }
            }
            Some((whole, lost))
        };
        let (Some((serve, lost)), Some((bare, _))) = (whole(Kind::Serve), whole(Kind::Bare)) else { return };
        assert_eq!(serve, UPLOADS, "{lost:?}");
        eprintln!("curl over HTTP/2: bare {bare} of {UPLOADS}, with the layer {serve}");
    });
}
