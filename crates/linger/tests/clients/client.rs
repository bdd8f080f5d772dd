//! Clients that people use, each with its pool.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use linger_testing::skip;

use crate::HttpVersion;
use crate::reqwest;
use crate::support::RESPONSE;

/// A client, and how it is started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Client {
    Curl,
    Wget,
    /// A name that `clients.py` knows.
    Python(&'static str),
    /// A name that `clients.mjs` knows.
    Node(&'static str),
    Go,
    Java,
    /// hyper-util's pool, by way of the crate that most programs use it through.
    Reqwest,
}

use HttpVersion::{One, Two};

/// Each with the versions of HTTP that it speaks.
pub(crate) const CLIENTS: [(Client, &[HttpVersion]); 13] = [
    (Client::Curl, &[One, Two]),
    (Client::Wget, &[One]),
    (Client::Python("http.client"), &[One]),
    (Client::Python("requests"), &[One]),
    (Client::Python("urllib3"), &[One]),
    (Client::Python("httpx"), &[One, Two]),
    (Client::Python("aiohttp"), &[One]),
    (Client::Node("fetch"), &[One]),
    (Client::Node("node:http"), &[One]),
    (Client::Node("node:http2"), &[Two]),
    (Client::Go, &[One, Two]),
    (Client::Java, &[One, Two]),
    (Client::Reqwest, &[One, Two]),
];

/// One run of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) url: &'a str,
    pub(crate) version: HttpVersion,
    pub(crate) rounds: usize,
    /// Size of each upload.
    pub(crate) bytes: usize,
    /// Seconds that a client waits after each eighth of its upload. curl and wget do not.
    pub(crate) pause: f64,
    /// Seconds after which a client gives one request up.
    pub(crate) patience: f64,
}

/// How many of a run's requests got the whole of their answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Whole {
    pub(crate) uploads: usize,
    pub(crate) next: usize,
    /// What the client has printed about the others.
    pub(crate) complaints: Vec<String>,
}

impl Client {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Wget => "wget",
            Self::Python(name) | Self::Node(name) => name,
            Self::Go => "Go net/http",
            Self::Java => "Java HttpClient",
            Self::Reqwest => "reqwest",
        }
    }

    /// The name under which `cargo xtask setup` knows what it needs.
    fn need(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Wget => "wget",
            Self::Python("http.client") => "python3",
            Self::Python(name) => name,
            Self::Node(_) => "nodejs",
            Self::Go => "golang-go",
            Self::Java => "default-jdk-headless",
            Self::Reqwest => unreachable!("it is a part of this program"),
        }
    }

    /// Runs it in rounds: an upload that is refused, and at once another request of the same pool. `None` if the client
    /// is not there.
    pub(crate) fn run(self, run: Run<'_>) -> Option<Whole> {
        let output = match self {
            Self::Curl => curl(run),
            Self::Wget => wget(run),
            Self::Python(name) => script(Command::new(python(name)).arg(source("clients.py")).arg(name), run),
            Self::Node(name) => {
                let mut node = Command::new("node");
                node.env("NODE_TLS_REJECT_UNAUTHORIZED", "0").arg("--no-warnings");
                script(node.arg(source("clients.mjs")).arg(name), run)
            }
            Self::Go => script(&mut Command::new(peers().join("clients/go")), run),
            // java says of a class that is not there what it says of a program that fails.
            Self::Java => peers().join("clients/Client.class").metadata().and_then(|_| {
                script(Command::new("java").arg("-cp").arg(peers().join("clients")).arg("Client"), run)
            }),
            Self::Reqwest => {
                let (said, nothing) = (reqwest::run(run).into_bytes(), Vec::new());
                Ok(Output { status: ExitStatus::default(), stdout: said, stderr: nothing })
            }
        };
        match output {
            Ok(output) => Some(whole(self, run.rounds, &output)),
            Err(error) => {
                skip(self.need(), &error.to_string());
                None
            }
        }
    }
}

/// The folder of `cargo xtask setup`.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers")
}

/// The libraries of others are installed for the interpreter of `cargo xtask setup`.
fn python(name: &str) -> PathBuf {
    if name == "http.client" { "python3".into() } else { peers().join("python/bin/python3") }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

fn script(command: &mut Command, run: Run<'_>) -> std::io::Result<Output> {
    let Run { url, version, rounds, bytes, pause, patience } = run;
    let version = if version == Two { "2" } else { "1" };
    command.args([url, version]).args([rounds.to_string(), bytes.to_string()]);
    command.args([pause.to_string(), patience.to_string()]).output()
}

/// A file of so many bytes.
fn upload(bytes: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b'u'; bytes]).unwrap();
    file
}

/// One process a round, in which the second request finds the pool of the first.
fn curl(run: Run<'_>) -> std::io::Result<Output> {
    let file = upload(run.bytes);
    let version = if run.version == Two { "--http2" } else { "--http1.1" };
    let patience = run.patience.to_string();
    let common = ["-s", "-k", version, "-m", &patience, "-o", "/dev/null", "-w"];
    let mut all = Vec::new();
    let mut output = None;
    for _ in 0..run.rounds {
        let mut curl = Command::new("curl");
        curl.args(common).arg("upload %{http_code} %{size_download} %{exitcode}\n");
        curl.args(["-H", "expect:", "--data-binary"]).arg(format!("@{}", file.path().display()));
        curl.arg(format!("{}/refused", run.url)).arg("--next");
        curl.args(common).arg("next %{http_code} %{size_download} %{exitcode}\n");
        let round = curl.arg(format!("{}/hello", run.url)).output()?;
        all.extend_from_slice(&round.stdout);
        output = Some(round);
    }
    Ok(Output { stdout: all, ..output.unwrap() })
}

/// wget has no pool across requests of different methods: its next request is another process's.
fn wget(run: Run<'_>) -> std::io::Result<Output> {
    let file = upload(run.bytes);
    let mut all = None;
    for _ in 0..run.rounds {
        for (what, path) in [("upload", "/refused"), ("next", "/hello")] {
            let mut wget = Command::new("wget");
            wget.args(["-q", "-S", "--tries=1", "--content-on-error", "-O", "-"]);
            wget.arg(format!("--timeout={}", run.patience));
            if what == "upload" {
                wget.arg(format!("--post-file={}", file.path().display()));
            }
            let output = wget.arg(format!("{}{path}", run.url)).output()?;
            let head = String::from_utf8_lossy(&output.stderr).into_owned();
            let status = head.split_whitespace().nth(1).unwrap_or("nothing").to_owned();
            let all: &mut Output = all.get_or_insert(Output { stdout: Vec::new(), ..output.clone() });
            all.stdout.extend(format!("{what} {status} {}\n", output.stdout.len()).into_bytes());
        }
    }
    Ok(all.unwrap())
}

fn whole(client: Client, rounds: usize, output: &Output) -> Whole {
    let said = String::from_utf8_lossy(&output.stdout);
    let exit = if client == Client::Curl { " 0" } else { "" };
    let mut whole = Whole::default();
    for line in said.lines() {
        if line == format!("upload 413 {RESPONSE}{exit}") {
            whole.uploads += 1;
        } else if line == format!("next 200 5{exit}") {
            whole.next += 1;
        } else {
            whole.complaints.push(line.to_owned());
        }
    }
    let counted = whole.uploads + whole.next + whole.complaints.len();
    // A client that reports fewer results has not made all of its requests.
    assert!(counted == 2 * rounds, "{client:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    whole
}
