//! A supervisor in a process of its own, servers to run under it, and clients that notice losses.
#![allow(dead_code)] // Each test binary uses a part.

pub(crate) mod hostile;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use linger_testing::Counters;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

/// The program that supervises: a process replaces itself by a program only if it has one thread, which a test has not.
pub(crate) const SUPERVISOR: &str = env!("CARGO_BIN_EXE_supervisor");

/// Where the servers of these tests listen, each in its own network.
pub(crate) const PORT: u16 = 8_000;

/// A server under test, alone or under a supervisor.
pub(crate) struct Server {
    child: Child,
    report: Option<PathBuf>,
    /// Its stderr and the supervisor's, which may be another process and end later.
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    pub(crate) directory: tempfile::TempDir,
}

/// What the supervisor reported.
pub(crate) type Report = serde_json::Map<String, serde_json::Value>;

impl Server {
    /// Starts a command, under a supervisor if there are settings for one.
    pub(crate) fn start(settings: Option<&str>, command: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let report = directory.path().join("report");
        let mut start = match settings {
            None => {
                let mut start = Command::new(command[0]);
                start.args(&command[1..]);
                start
            }
            Some(settings) => {
                let mut start = Command::new(SUPERVISOR);
                start.arg(&report).arg(settings).args(command);
                start
            }
        };
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = start.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, told) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = thread::spawn(move || {
            let mut piece = [0; 4_096];
            while let Ok(length @ 1..) = stderr.read(&mut piece) {
                told.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        Self { child, report: settings.map(|_| report), log, reader: Some(reader), directory }
    }

    pub(crate) fn start_listening(settings: Option<&str>, command: &[&str], port: u16) -> Self {
        let mut server = Self::start(settings, command);
        server.await_port(port);
        server
    }

    /// Waits until something listens on a port, without connecting to it.
    pub(crate) fn await_port(&mut self, port: u16) {
        self.await_that("listens", || is_listening(port));
    }

    /// Waits until a text is on stderr.
    pub(crate) fn await_log(&mut self, text: &str) {
        let log = Arc::clone(&self.log);
        self.await_that(text, || log.lock().unwrap().contains(text));
    }

    /// No event reports what another process does internally, so this polls.
    fn await_that(&mut self, what: &str, is_so: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_so() {
            let ended = self.child.try_wait().unwrap();
            let late = started.elapsed() > Duration::from_secs(30);
            assert!(ended.is_none() && !late, "{what}: {ended:?}: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The supervisor's pid, if the program is the process that was started.
    pub(crate) fn supervisor(&self) -> Pid {
        let report = self.report.as_ref().unwrap().to_str().unwrap();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
        let mut found = pids.filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // The guard of seccomp is a copy of the supervisor.
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let is_called_so =
                String::from_utf8_lossy(&command).starts_with(&format!("{SUPERVISOR}\0{report}\0"));
            is_called_so && name != "linger-guard\n"
        });
        found.next().unwrap_or_else(|| panic!("no supervisor: {}", self.log()))
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the program, all processes that it left behind and the supervisor have ended: then nobody has their
    /// stderr.
    pub(crate) fn wait_for_all(&mut self) {
        self.wait();
        self.reader.take().into_iter().for_each(|reader| reader.join().unwrap());
    }

    pub(crate) fn has_reported(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.exists())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Ends the server by a signal. Returns the supervisor's report, if there is one, after checking its sums.
    pub(crate) fn stop(mut self, signal: Signal) -> Report {
        let _ = kill_process(self.pid(), signal);
        self.wait();
        self.report()
    }

    /// The report, unchecked: a process killed in the middle of a close may have handed over a connection without counting it.
    pub(crate) fn said(&mut self) -> Report {
        self.wait_for_all();
        let Some(path) = &self.report else { return Report::new() };
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
        // The Debug format of a struct: `Name { field: number, field: number }`.
        let fields = text.trim_end_matches('}').split(['{', ',']).skip(1);
        let pairs = fields.map(|field| field.split_once(':').unwrap_or_else(|| panic!("{text}")));
        pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().parse().unwrap())).collect()
    }

    pub(crate) fn report(&mut self) -> Report {
        let report = self.said();
        if report.is_empty() {
            return report;
        }
        let text = format!("{report:?}");
        let sum = |names: &[&str]| names.iter().map(|name| report[*name].as_u64().unwrap()).sum::<u64>();
        let closes = ["lingered", "finished", "drained", "shared", "aborted", "gone", "refused"];
        assert_eq!(sum(&["closes"]), sum(&closes), "{text}");
        let ends = ["peer_closed", "acknowledged", "peer_reset", "misbehaved", "evicted", "failed"];
        assert_eq!(sum(&["lingered"]), sum(&ends), "{text}");
        assert_eq!(sum(&["lingering", "refused"]), 0, "{text}");
        report
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // SIGTERM, which the supervisor passes on. SIGKILL would leave the program behind.
            let _ = kill_process(self.pid(), Signal::TERM);
            let _ = self.child.wait();
        }
        self.reader.take().into_iter().for_each(|reader| drop(reader.join()));
    }
}

pub(crate) fn is_listening(port: u16) -> bool {
    const LISTEN: &str = "0A";
    sockets().iter().any(|socket| socket.local == port && socket.state == LISTEN)
}

/// Waits until nothing listens on a port. No event reports it.
pub(crate) fn await_nobody_at(port: u16) {
    let started = Instant::now();
    while is_listening(port) {
        assert!(started.elapsed() < Duration::from_secs(30), "port {port} is still listened at");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the other end of a connection, on this host, has not ended its half: it neither sent a FIN nor a reset.
pub(crate) fn is_open(stream: &TcpStream) -> bool {
    // ESTABLISHED, SYN_RECV, CLOSE_WAIT, in the kernel's numbering (`tcp_states.h`).
    const OPEN: [&str; 3] = ["01", "03", "08"];
    let (Ok(own), Ok(other)) = (stream.local_addr(), stream.peer_addr()) else { return false };
    sockets().iter().any(|socket| {
        (socket.local, socket.remote) == (other.port(), own.port()) && OPEN.contains(&socket.state.as_str())
    })
}

/// A TCP socket, as `/proc/net/tcp` has it.
struct Row {
    local: u16,
    remote: u16,
    state: String,
}

fn sockets() -> Vec<Row> {
    let table = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    // Java listens on an IPv6 socket for every address.
    let table = table("tcp") + &table("tcp6");
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let row = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (port(words.next()?)?, port(words.next()?)?);
        Some(Row { local, remote, state: words.next()?.to_owned() })
    };
    table.lines().filter_map(row).collect()
}

pub(crate) fn await_state(process: Pid, state: &str) {
    // No event reports that another process has stopped, so this polls.
    loop {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap();
        if stat.rsplit(')').next().unwrap().trim().starts_with(state) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until something listens on a port.
pub(crate) fn await_listener(port: u16) {
    let started = Instant::now();
    while !is_listening(port) {
        assert!(started.elapsed() < Duration::from_secs(30), "nothing listens on {port}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What one client received.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) bytes: Vec<u8>,
    pub(crate) error: Option<io::Error>,
}

impl Got {
    /// Whether the body is whole, by its announced length.
    pub(crate) fn is_whole(&self) -> bool {
        let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(&self.bytes[..end]).to_lowercase();
        let ok =
            head.starts_with("http/1.1 200") || head.starts_with("http/1.0 200") || head.contains(" 413 ");
        let length: Option<usize> =
            head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        // Without a length, the sentinel marks the end.
        ok && match length {
            Some(length) => self.bytes.len() - end - 4 == length,
            None => self.bytes.ends_with(b"END"),
        }
    }
}

/// Runs a server bare and supervised. Returns the lost responses and the kernel's aborts of each, and the report.
pub(crate) fn compare(
    command: &[&str],
    settings: &str,
    trials: usize,
    client: impl Fn(bool) -> Got,
) -> ([usize; 2], [u64; 2], Report) {
    let mut lost = [0; 2];
    let mut aborted = [0; 2];
    let mut report = Report::new();
    for (place, settings) in [None, Some(settings)].into_iter().enumerate() {
        let server = Server::start_listening(settings, command, PORT);
        let before = Counters::read().unwrap();
        lost[place] = (0..trials).filter(|_| !client(settings.is_none()).is_whole()).count();
        aborted[place] = aborts(&before);
        report = server.stop(Signal::TERM);
    }
    (lost, aborted, report)
}

/// Starts a server, and requests once with a late reader. The response must be complete unless a reset is expected.
#[track_caller]
pub(crate) fn asked_once(settings: Option<&str>, command: &[&str], reset_expected: bool) -> Server {
    let server = Server::start_listening(settings, command, PORT);
    let got = late_reader(PORT, 20_000, reset_expected);
    assert_eq!(
        got.is_whole(),
        !reset_expected,
        "{command:?}, {settings:?}: {} bytes, {:?}",
        got.bytes.len(),
        got.error
    );
    server
}

/// Writes a file, and returns its path.
pub(crate) fn script(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Aborts that the kernel counted: a close with unread bytes, data after a close.
pub(crate) fn aborts(since: &Counters) -> u64 {
    let now = Counters::read().unwrap().since(since);
    now.of("TCPAbortOnClose") + now.of("TCPAbortOnData")
}

pub(crate) fn connect(port: u16, receive: Option<usize>) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if let Some(size) = receive {
        socket.set_recv_buffer_size(size).unwrap();
    }
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// The connections of a report that ended well under the supervisor. On a busy machine the peer may have closed before its connection is
/// looked at: then there was nothing to wait for.
pub(crate) fn ended_well(report: &Report) -> u64 {
    ["lingered", "finished", "drained"].into_iter().filter_map(|way| report[way].as_u64()).sum()
}

/// Sends a request whose body the server does not read, waits for a reset that may come, then reads.
///
/// A server that resets does so during the wait; otherwise the response is read a little later.
pub(crate) fn late_reader(port: u16, body: usize, reset_expected: bool) -> Got {
    let mut stream = connect(port, Some(4_096));
    let _ = stream.write_all(&request(body));
    await_reset(&stream, reset_expected);
    read(stream)
}

/// Waits for a reset. If none is expected, waits for the end of the other end's half, and a little longer: a close at once after
/// it would reset. One that comes later is still counted.
pub(crate) fn await_reset(stream: &TcpStream, expected: bool) {
    let patience = Duration::from_millis(if expected { 30_000 } else { 300 });
    let started = Instant::now();
    while !has_ended(stream, 1) && started.elapsed() < patience {
        if !expected && !is_open(stream) {
            has_ended(stream, 20);
            return;
        }
    }
}

/// Whether a connection was reset, or has ended in both directions, after at most some time.
pub(crate) fn has_ended(stream: &TcpStream, milliseconds: i64) -> bool {
    let mut end = [PollFd::new(stream, PollFlags::ERR | PollFlags::HUP)];
    let patience = Timespec { tv_sec: milliseconds / 1_000, tv_nsec: milliseconds % 1_000 * 1_000_000 };
    poll(&mut end, Some(&patience)).unwrap() > 0
}

/// Goes on sending after its request, a byte at a time, until a reset answers one. Reads only then.
pub(crate) fn late_sender(port: u16, reset_expected: bool) -> Got {
    let mut stream = connect(port, Some(4_096));
    let _ = stream.write_all(&request(0));
    let tries = if reset_expected { 1_000 } else { 60 };
    let mut refused = |_: &u32| {
        // A client's pause between two writes.
        thread::sleep(Duration::from_millis(5));
        stream.write_all(b"y").is_err()
    };
    let _ = (0..tries).find(&mut refused);
    read(stream)
}

pub(crate) fn request(body: usize) -> Vec<u8> {
    let mut request =
        format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {body}\r\n\r\n")
            .into_bytes();
    request.resize(request.len() + body, b'y');
    request
}

pub(crate) fn read(mut stream: TcpStream) -> Got {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).err();
    Got { bytes, error }
}

/// Finds a program in PATH or where `cargo xtask setup` installs Python servers; skips the test if it is missing.
pub(crate) fn program(name: &str, package: &str) -> Option<String> {
    let environment = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/python/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([environment]).map(|directory| directory.join(name));
    let found = places.into_iter().find(|path| path.is_file());
    if found.is_none() {
        linger_testing::skip(package, &format!("{name} is not installed"));
    }
    found.map(|path| path.to_string_lossy().into_owned())
}

/// A command, as [`Server::start`] takes it.
pub(crate) fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// uWSGI with one kind of socket, and a file of Python whose `app` answers.
pub(crate) fn uwsgi(socket: &str, file: &str) -> Option<Vec<String>> {
    let uwsgi = program("uwsgi", "uwsgi-core")?;
    let plugin = ["--plugin", "python3", "--wsgi-file", file, "--callable", "app"];
    let words = [&[uwsgi.as_str(), socket, "127.0.0.1:8000"], &plugin[..], &["--master", "--die-on-term"]];
    Some(words.concat().into_iter().map(str::to_owned).collect())
}

/// gunicorn with one kind of worker, and `app` of a module in a directory.
pub(crate) fn gunicorn(class: &str, directory: &Path, module: &str) -> Option<Vec<String>> {
    let gunicorn = program("gunicorn", "gunicorn")?;
    let (path, app) = (directory.to_str()?, format!("{module}:app"));
    let words = [&gunicorn, "--pythonpath", path, "-k", class, "-b", "127.0.0.1:8000", &app];
    Some(words.map(str::to_owned).into())
}

/// nginx with one location. `listen` is an address, with options of its socket.
pub(crate) fn nginx(listen: &str, directory: &Path, location: &str, settings: &str) -> Option<Vec<String>> {
    let nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).is_file());
    let Some(nginx) = nginx else {
        linger_testing::skip("nginx-light", "nginx is not installed");
        return None;
    };
    let path = directory.display();
    let configuration = format!(
        "user root; worker_processes 1; daemon off; pid {path}/pid; error_log {path}/errors;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; client_max_body_size 0; client_body_temp_path {path}/b; proxy_temp_path {path}/p;\n\
         fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s; {settings}\n\
         server {{ listen {listen}; {location} }} }}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration).unwrap();
    Some(vec![
        nginx.to_owned(),
        "-e".into(),
        format!("{path}/errors"),
        "-c".into(),
        file.display().to_string(),
    ])
}

pub(crate) const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs");

/// Builds a C program with a compiler that may be missing.
pub(crate) fn compiled(
    name: &str,
    directory: &Path,
    compiler: &str,
    package: &str,
    options: &[&str],
) -> Option<String> {
    let compiler = program(compiler, package)?;
    let built = directory.join(name).display().to_string();
    let source = format!("{SOURCES}/{name}.c");
    build(Command::new(compiler).args(["-O1", "-pthread", "-w", "-o", &built, &source]).args(options));
    Some(built)
}

pub(crate) fn build(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
