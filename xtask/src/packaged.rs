//! Stock clients against servers that were made of the packaged crates.
//!
//! Runs in a process and a network namespace of its own, so that its fixed ports are free.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use linger_netns::{Isolation, net};

use crate::call;

mod relay;

/// The argument with which this program starts itself in a network of its own.
pub(crate) const WORD: &str = "packaged-clients";

/// Uploads of each client.
const TIMES: usize = 20;
/// Bytes of each upload.
const UPLOAD: usize = 20_000_000;
/// Bytes of an early answer of `plain.rs`.
const ANSWER: usize = 300_000;

/// How long a server may take to listen, and to stop. Only a server that hangs takes this long.
const LONG: Duration = Duration::from_secs(60);

/// How long the README's server may take to stop: the deadline that it gives.
const DEADLINE: Duration = Duration::from_secs(9);

/// Starts this program again, as `packaged-clients PROJECT PROGRAMS`.
pub(crate) fn in_a_network_of_its_own(project: &Path, programs: &Path) -> anyhow::Result<()> {
    let mut again = Command::new(std::env::current_exe()?);
    Isolation::prepare().enter_before_exec(again.arg(WORD).arg(project).arg(programs));
    call(&mut again)
}

/// Runs all checks, inside the network that was made for them.
pub(crate) fn run(project: &str, programs: &str) -> anyhow::Result<()> {
    net::up("lo").context("lo")?;
    let (project, programs) = (Path::new(project), Path::new(programs));
    readme(project, &programs.join("project"))?;
    table(project, &programs.join("plain"))
}

/// A server, ended when this is dropped.
struct ServerProcess(Child);

impl ServerProcess {
    fn start(program: &Path, words: &[&str], folder: &Path, port: u16) -> anyhow::Result<Self> {
        let child = Command::new(program).args(words).current_dir(folder).spawn();
        let mut server = Self(child.with_context(|| program.display().to_string())?);
        let end = Instant::now() + LONG;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(server.0.try_wait()?.is_none() && Instant::now() < end, "no server on port {port}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tests the README's server: early answers over TLS, the client's address, and SIGTERM while a peer sends its request a byte
/// at a time.
fn readme(folder: &Path, program: &Path) -> anyhow::Result<()> {
    let certificate = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
                       -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem";
    call(
        Command::new("openssl")
            .args(certificate.split_whitespace())
            .current_dir(folder)
            .stderr(Stdio::null()),
    )?;
    fs::write(folder.join("large"), vec![b'u'; UPLOAD])?;
    let mut server = ServerProcess::start(program, &[], folder, 8443)?;
    let curl = |words: &[&str], body: &str| {
        let mut command = Command::new("curl");
        command.args(["-s", "--cacert", "cert.pem", "-H", "expect:", "--data-binary", body]).args(words);
        let output = command.arg("https://localhost:8443/").current_dir(folder).output().context("curl")?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let said = curl(&[option], "hello")?;
        ensure!(said == "5 bytes from 127.0.0.1\n", "HTTP/{version}: {said:?}");
        let wanted = format!("length limit exceeded 413 {version} 0");
        for _ in 0..TIMES {
            let said = curl(&[option, "-w", " %{http_code} %{http_version} %{exitcode}"], "@large")?;
            ensure!(said.ends_with(&wanted), "HTTP/{version}: {said:?}");
        }
        println!("the README's server, curl over HTTP/{version}: {TIMES} of {TIMES} early answers whole");
    }
    sigterm(folder, &mut server.0)
}

/// Ends the server by SIGTERM while a client sends, byte by byte, the body that its handler waits for.
fn sigterm(folder: &Path, server: &mut Child) -> anyhow::Result<()> {
    let words = "s_client -connect localhost:8443 -CAfile cert.pem -quiet -no_ign_eof";
    let mut command = Command::new("openssl");
    command.args(words.split(' ')).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut peer = command.stderr(Stdio::null()).spawn().context("openssl")?;
    let (mut to, from) = (peer.stdin.take().context("stdin")?, peer.stdout.take().context("stdout")?);
    let _peer = ServerProcess(peer);
    to.write_all(
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n",
    )?;
    to.flush()?;
    let mut from = BufReader::new(from);
    let mut line = String::new();
    from.read_line(&mut line)?;
    ensure!(line.contains("100 Continue"), "the handler does not read: {line:?}");
    let dripping = std::thread::spawn(move || {
        while to.write_all(b"d").and_then(|()| to.flush()).is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let pid = rustix::process::Pid::from_child(server);
    let started = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let status = loop {
        match server.try_wait()? {
            Some(status) => break status,
            None if started.elapsed() > LONG => bail!("the server has not stopped after {LONG:?}"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let took = started.elapsed();
    ensure!(status.success(), "the server: {status}");
    // A second for a machine that is busy.
    ensure!(took < DEADLINE + Duration::from_secs(1), "SIGTERM took {took:?}");
    let _ = from.read_to_end(&mut Vec::new());
    drop(_peer);
    dripping.join().ok();
    println!("the README's server, SIGTERM with a peer that drips: ended after {:.2} s", took.as_secs_f64());
    Ok(())
}

/// A client: its name, and a function that returns how many of its answers were whole; `None` if it is not installed.
type StockClient = (&'static str, fn(&Path, &str) -> anyhow::Result<Option<usize>>);

/// The client that is judged by what it was sent: see [`relay`].
const HTTP2: &str = "curl, HTTP/2";

const CLIENTS: [StockClient; 9] = [
    ("curl, HTTP/1.1", |folder, url| curl(folder, url, "--http1.1")),
    (HTTP2, |folder, url| curl(folder, url, "--http2-prior-knowledge")),
    ("wget", wget),
    ("Python http.client", |folder, url| script(folder, url, "python3", &["upload.py", "http.client"])),
    ("Python urllib", |folder, url| script(folder, url, "python3", &["upload.py", "urllib"])),
    ("node fetch", |folder, url| script(folder, url, "node", &["upload.mjs", "fetch"])),
    ("node http", |folder, url| script(folder, url, "node", &["upload.mjs", "http"])),
    ("Go net/http", |folder, url| script(folder, url, "go", &["run", "upload.go"])),
    ("Java HttpClient", |folder, url| script(folder, url, "java", &["Upload.java"])),
];

/// Prints how many complete early answers each client gets: from axum alone, and from `linger::http::serve`, where none may be
/// lost.
fn table(folder: &Path, program: &Path) -> anyhow::Result<()> {
    for (name, text) in [
        ("upload.py", include_str!("packaged/upload.py")),
        ("upload.mjs", include_str!("packaged/upload.mjs")),
        ("upload.go", include_str!("packaged/upload.go")),
        ("Upload.java", include_str!("packaged/Upload.java")),
    ] {
        fs::write(folder.join(name), text)?;
    }
    let _bare = ServerProcess::start(program, &["bare", "8001"], folder, 8001)?;
    let _line = ServerProcess::start(program, &["line", "8002"], folder, 8002)?;
    let mut lost = Vec::new();
    println!("| client, {TIMES} uploads each | bare axum | with the line |\n|---|---|---|");
    for (name, client) in CLIENTS {
        let (bare, line) =
            (client(folder, "http://127.0.0.1:8001/")?, client(folder, "http://127.0.0.1:8002/")?);
        let (Some(bare), Some(line)) = (bare, line) else {
            println!("| {name} | not installed | |");
            continue;
        };
        println!("| {name} | {bare} | {line} |");
        if line < TIMES && name != HTTP2 {
            lost.push(name);
        }
    }
    let sent = sent_to_curl(folder)?;
    println!(
        "sent to curl over HTTP/2 with the line, whatever it makes of them: {sent} of {TIMES} answers whole"
    );
    if sent < TIMES {
        lost.push(HTTP2);
    }
    ensure!(lost.is_empty(), "answers were lost with the line: {}", lost.join(", "));
    Ok(())
}

/// Counts the complete answers that the server with the line sends curl over HTTP/2.
fn sent_to_curl(folder: &Path) -> anyhow::Result<usize> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let url = format!("http://{}/", listener.local_addr()?);
    let mut sent = 0;
    for _ in 0..TIMES {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--http2-prior-knowledge", "-H", "expect:", "--data-binary", "@large", &url]);
        let curl = curl.current_dir(folder).stdout(Stdio::null()).spawn().context("curl")?;
        let _curl = ServerProcess(curl);
        let response = relay::pass_on(&listener, 8002)?;
        sent += usize::from((response.bytes, response.complete) == (ANSWER, true));
    }
    Ok(sent)
}

/// Counts the runs of a command whose output is right.
fn count(mut run: impl FnMut() -> std::io::Result<bool>) -> anyhow::Result<Option<usize>> {
    let mut right = 0;
    for _ in 0..TIMES {
        match run() {
            Ok(is_right) => right += usize::from(is_right),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(right))
}

fn curl(folder: &Path, url: &str, option: &str) -> anyhow::Result<Option<usize>> {
    let wanted = format!("413 {ANSWER} 0");
    count(|| {
        let mut command = Command::new("curl");
        command.args(["-s", option, "-H", "expect:", "--data-binary", "@large", "-o", "/dev/null"]);
        command.args(["-w", "%{http_code} %{size_download} %{exitcode}", url]).current_dir(folder);
        Ok(command.output()?.stdout == wanted.as_bytes())
    })
}

fn wget(folder: &Path, url: &str) -> anyhow::Result<Option<usize>> {
    let got: PathBuf = folder.join("got");
    count(|| {
        let mut command = Command::new("wget");
        command.args(["-q", "-t", "1", "--content-on-error", "--post-file", "large", "-O", "got", url]);
        // Exit status 8 of wget: the server has answered with an error, here 413.
        let status = command.current_dir(folder).status()?;
        Ok(status.code() == Some(8) && fs::metadata(&got).is_ok_and(|got| got.len() == ANSWER as u64))
    })
}

fn script(folder: &Path, url: &str, program: &str, words: &[&str]) -> anyhow::Result<Option<usize>> {
    let numbers = [TIMES, UPLOAD, ANSWER].map(|number| number.to_string());
    let output = Command::new(program).args(words).arg(url).args(numbers).current_dir(folder).output();
    match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        output => {
            let output = output?;
            let said = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
            let errors = || format!("{program}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(Some(said.with_context(errors)?))
        }
    }
}
