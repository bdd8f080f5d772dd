//! What `linger run` costs: `cargo xtask bench run`.
//!
//! nginx with one worker and wrk with one thread, bare and supervised in turns, so that whatever else the machine
//! does meets both alike; the figure is the median of the pairs' ratios. And the time to start a program.
//!
//! wrk has a processor of its own, and nginx shares the other with its supervisor. Left to the scheduler, wrk and
//! nginx stand on one processor for seconds at a time, which is another experiment: there a supervised nginx that
//! has half the machine to itself was measured at 0.7 to 0.9 of a bare one, and at 1.1 in the seconds between.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use linger_preload::protocol::{Message, MessageKind};
use linger_run::{Options, Via};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const SUPERVISED: &str = "LINGER_BENCH_COMMAND";
const PAIRS: usize = 15;

/// Set in the server whose closes are timed, to the file that its times go to.
const TIMED: &str = "LINGER_BENCH_TIMES";

/// Set for each supervised server and its supervisor, to a directory of their own.
const MARK: &str = "LINGER_BENCH_DIRECTORY";

fn main() {
    if let Some(file) = std::env::var_os(TIMED).filter(|_| std::env::var_os(SUPERVISED).is_none()) {
        return serve_timed(Path::new(&file));
    }
    if let Some(command) = std::env::var_os(SUPERVISED) {
        return supervise(&command);
    }
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let requests = |name: &str, options: &[&str], settings: &str, goal| {
        if name.contains(&wanted) {
            requests(name, options, settings, goal);
        }
    };
    if wanted.is_empty() {
        start_up();
    }
    if "harm".contains(&wanted) {
        harm();
    }
    let tools = ["/usr/sbin/nginx", "/usr/bin/wrk"];
    if let Some(missing) = tools.iter().find(|tool| !Path::new(tool).exists()) {
        println!("skipped: {missing} is not installed");
        return;
    }
    let close = ["-H", "Connection: close"];
    requests("Connection: close", &close, "", Wanted { rate: Some(0.97), cost: Some(1.3) });
    requests("keep-alive", &[], "", Wanted { rate: Some(0.97), cost: None });
    requests("Connection: close, --hold", &close, "hold", Wanted::default());
    let seccomp = Wanted { rate: Some(0.9), cost: Some(1.6) };
    requests("Connection: close, --via seccomp", &close, "seccomp", seccomp);
    requests("keep-alive, --via seccomp", &[], "seccomp", Wanted::default());
}

/// Runs this program again, as the supervisor.
fn supervise(command: &OsStr) {
    let text = command.to_string_lossy().into_owned();
    let mut words = text.split('\u{1f}').map(OsString::from);
    let (settings, command) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let arguments: Vec<OsString> = words.collect();
    let mut options = Options::default();
    options.hold = settings == "hold";
    options.via = (settings == "seccomp").then_some(Via::Seccomp);
    let ended = linger_run::run(&command, &arguments, &options, |_| ()).expect("the command starts");
    std::process::exit(ended.status.and_then(|status| status.code()).unwrap_or(1));
}

/// Which programs run on which of this process's processors.
#[derive(Clone, Copy)]
enum Side {
    Server,
    Load,
}

/// Starts programs on their side's processor; with one processor alone there are no sides.
fn on<T>(side: Side, start: impl FnOnce() -> T) -> T {
    let ours = sched_getaffinity(None).expect("a process has processors");
    let mut processors = (0..CpuSet::MAX_CPU).filter(|number| ours.is_set(*number));
    let (first, second) = (processors.next(), processors.next());
    let mut only = CpuSet::new();
    if let Some(number) = match side {
        Side::Server => first,
        Side::Load => second.or(first),
    } {
        only.set(number);
    }
    sched_setaffinity(None, &only).expect("a processor of ours");
    let started = start();
    sched_setaffinity(None, &ours).expect("our processors");
    started
}

fn start(supervised: Option<&str>, command: &[&str], directory: &Path) -> Child {
    let mut start = match supervised {
        None => {
            let mut start = Command::new(command[0]);
            start.args(&command[1..]);
            start
        }
        Some(settings) => {
            let mut start = Command::new(std::env::current_exe().expect("a bench has a path"));
            start.env(SUPERVISED, [&[settings], command].concat().join("\u{1f}")).env(MARK, directory);
            start
        }
    };
    start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn verdict(ok: bool) -> &'static str {
    if ok { "ok" } else { "MISSED" }
}

fn start_up() {
    let time = |supervised| {
        let times = (0..60).map(|_| {
            let started = Instant::now();
            start(supervised, &["/bin/true"], Path::new("/")).wait().expect("it ends");
            started.elapsed().as_secs_f64() * 1_000.0
        });
        median(times.collect())
    };
    let (bare, supervised) = (time(None), time(Some("")));
    let added = supervised - bare;
    let ok = verdict(added <= 5.0);
    println!("start and end: {bare:.1} ms bare, {supervised:.1} ms supervised, {added:+.1} ms (<= 5: {ok})");
}

/// The port of the server whose closes are timed.
const TIMED_PORT: u16 = 18_283;

/// Connections that are timed, and how many a second.
const CLOSES: usize = 3_000;
const A_SECOND: u32 = 1_000;

/// Answers and closes, and writes how long each close took, in microseconds.
fn serve_timed(file: &Path) {
    let listener = TcpListener::bind(("127.0.0.1", TIMED_PORT)).expect("the bench's port");
    let mut times: Vec<f64> = Vec::with_capacity(CLOSES);
    while times.len() < CLOSES {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let _ = stream.read(&mut [0; 16]);
        let _ = stream.write_all(b"hello");
        let started = Instant::now();
        drop(stream);
        times.push(started.elapsed().as_secs_f64() * 1_000_000.0);
    }
    times.sort_unstable_by(f64::total_cmp);
    let all: Vec<String> = times.iter().map(f64::to_string).collect();
    fs::write(file, all.join(" ")).expect("the bench's file");
}

/// The supervisor that was started with this variable in its environment, and is no child of this process.
fn supervisor(variable: &str, value: &Path) -> Option<Pid> {
    let mark = format!("{variable}={}", value.display());
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.find(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        name.trim() == "linger-run" && environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes())
    })?;
    Pid::from_raw(found.cast_signed())
}

/// Starts with real-time priority, so that no other load of the machine is measured. Root may.
const FIRST: [&str; 3] = ["chrt", "-r", "10"];

/// What a close costs the program while its supervisor does not do its work: at most a millisecond more, and 50 of them a second.
fn harm() {
    let mut usual = (0.0, 0.0);
    let is_first = Command::new(FIRST[0])
        .args(&FIRST[1..])
        .arg("/bin/true")
        .status()
        .is_ok_and(|status| status.success());
    println!("close: {} real-time priority", if is_first { "with" } else { "without" });
    for state in ["bare", "supervised", "killed", "stopped", "starved", "flooded"] {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("times");
        let own = std::env::current_exe().expect("a bench has a path");
        let own = own.to_str().expect("a path of text");
        let words: Vec<&str> = if is_first { [&FIRST[..], &[own]].concat() } else { vec![own] };
        let mut start = Command::new(words[0]);
        start.args(&words[1..]);
        if state != "bare" {
            start.env(SUPERVISED, ["", "/usr/bin/env", "-u", SUPERVISED, own].join("\u{1f}"));
        }
        start.env(TIMED, &file).stdin(Stdio::null()).stdout(Stdio::null());
        let mut server = start.spawn().expect("it starts");
        let until = Instant::now() + Duration::from_secs(10);
        let listens = format!(":{TIMED_PORT:04X} 00000000:0000 0A");
        while fs::read_to_string("/proc/net/tcp").is_ok_and(|all| !all.contains(&listens)) {
            assert!(Instant::now() < until, "nothing listens");
            thread::sleep(Duration::from_millis(10));
        }
        let supervisor = supervisor(TIMED, &file);
        let (begun, mut flood) = (Instant::now(), None);
        // In the first part the supervisor works normally.
        for turn in 0..CLOSES {
            if turn == CLOSES / 10
                && let Some(pid) = supervisor
            {
                flood = disturb(state, pid, server.id());
            }
            thread::sleep((Duration::from_secs(1) / A_SECOND * turn as u32).saturating_sub(begun.elapsed()));
            let mut stream = TcpStream::connect(("127.0.0.1", TIMED_PORT)).expect("it listens");
            let _ = stream.write_all(b"hello");
            let _ = stream.read_exact(&mut [0; 5]);
        }
        let _ = server.wait();
        drop(flood);
        if let (Some(pid), "stopped") = (supervisor, state) {
            let _ = kill_process(pid, Signal::CONT);
        }
        let text = fs::read_to_string(&file).unwrap_or_default();
        let times: Vec<f64> = text.split(' ').filter_map(|time| time.parse().ok()).collect();
        let at = |part: usize| times.get(times.len() * part / 1_000).copied().unwrap_or(f64::NAN);
        let all = times.iter().sum::<f64>() / 1_000.0 / (CLOSES as f64 / f64::from(A_SECOND));
        if state == "bare" {
            usual = (at(999), all);
        }
        let ok = verdict(at(999) <= usual.0 + 1_000.0 && all <= usual.1 + 50.0);
        println!(
            "close, {state}: p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, all {:.1} ms a second ({ok})",
            at(500),
            at(990),
            at(999),
            all,
        );
    }
}

/// Keeps the supervisor from its work. What is returned is kept until the server has ended.
fn disturb(state: &str, supervisor: Pid, server: u32) -> Option<Flood> {
    match state {
        "killed" => kill_process(supervisor, Signal::KILL).expect("our supervisor"),
        "stopped" => kill_process(supervisor, Signal::STOP).expect("our supervisor"),
        "starved" => {
            // No new descriptor is to be had below the ones that are open.
            let none = Rlimit { current: Some(3), maximum: Some(3) };
            prlimit(Some(supervisor), Resource::Nofile, none).expect("our supervisor");
        }
        "flooded" => return Some(Flood::start(server)),
        _ => {}
    }
    None
}

/// Threads that connect to the supervisor as the program's processes do, and pass it descriptors as fast as they can.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<u64>>,
}

impl Flood {
    /// Reads the supervisor's address and token from the server's environment.
    fn start(server: u32) -> Self {
        let environment = fs::read(format!("/proc/{server}/environ")).expect("our server");
        let text = String::from_utf8_lossy(&environment).into_owned();
        let settings =
            text.split('\0').find_map(|one| one.strip_prefix("LINGER_RUN=")).expect("a supervisor");
        let value = |key| settings.split(';').find_map(|one| one.strip_prefix(key)).unwrap_or_default();
        let digits = value("token=").as_bytes().chunks(2).filter_map(|two| std::str::from_utf8(two).ok());
        let token: Vec<u8> = digits.filter_map(|two| u8::from_str_radix(two, 16).ok()).collect();
        let (name, token) = (value("name=").to_owned(), token.try_into().expect("16 bytes"));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = || {
            let (name, stop) = (name.clone(), Arc::clone(&stop));
            thread::spawn(move || flood(&name, token, &stop))
        };
        Self { threads: vec![thread(), thread()], stop }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let said: u64 = self.threads.drain(..).filter_map(|thread| thread.join().ok()).sum();
        println!("flooded by {said} messages with a descriptor");
    }
}

/// Returns how many messages were taken.
fn flood(name: &str, token: [u8; 16], stop: &AtomicBool) -> u64 {
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("a short name");
    let mut taken = 0;
    while !stop.load(Relaxed) {
        let kind = SocketType::SEQPACKET;
        let Ok(socket) = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        else {
            continue;
        };
        if rustix::net::connect(&socket, &address).is_err() {
            continue;
        }
        let _ = rustix::io::write(&socket, &Message::hello(token).to_bytes());
        for cookie in 1..1_000 {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let passed = [socket.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&passed));
            let message = Message::about(MessageKind::Hold, cookie, 0).to_bytes();
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            taken += u64::from(
                rustix::net::sendmsg(&socket, &[IoSlice::new(&message)], &mut control, flags).is_ok(),
            );
        }
    }
    taken
}

/// A server's configuration, in a file.
fn configure(directory: &Path, name: &str, port: u16) -> String {
    let path = directory.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {path}/{kind};"))
        .concat();
    let text = format!(
        "worker_processes 1; daemon off; pid {path}/{name}.pid; error_log {path}/{name}.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 100000000; {temporary}\n\
         server {{ listen 127.0.0.1:{port} backlog=1024; return 200 'hello, world, hello, world'; }} }}\n"
    );
    let file = format!("{path}/{name}.conf");
    fs::write(&file, text).expect("a file");
    file
}

fn measure(port: u16, options: &[&str]) -> f64 {
    let mut wrk = Command::new("/usr/bin/wrk");
    wrk.args(["-t1", "-c32", "-d1s"]).args(options).arg(format!("http://127.0.0.1:{port}/"));
    let output = on(Side::Load, || wrk.output()).expect("wrk runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse::<f64>().ok());
    rate.unwrap_or_else(|| panic!("wrk: {text}"))
}

/// Processor time that a process and its descendants have used.
fn processor_seconds(pid: u32) -> f64 {
    /// Of the clock in which the kernel counts there (`proc_pid_stat(5)`), which is 100 Hz wherever Linux runs.
    const TICK: f64 = 0.01;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let own: f64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * TICK;
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    own + children.into_iter().map(processor_seconds).sum::<f64>()
}

/// The ratios to the bare server that are wanted: of requests a second, and of processor time a request.
#[derive(Clone, Copy, Default)]
struct Wanted {
    rate: Option<f64>,
    cost: Option<f64>,
}

fn requests(name: &str, options: &[&str], settings: &str, wanted: Wanted) {
    const PORTS: [u16; 2] = [18_281, 18_282];
    let directory = tempfile::tempdir().expect("a directory");
    let files = [("bare", PORTS[0]), ("supervised", PORTS[1])]
        .map(|(name, port)| configure(directory.path(), name, port));
    let mut servers = [None, Some(settings)]
        .into_iter()
        .zip(&files)
        .map(|(supervised, file)| {
            let command = ["/usr/sbin/nginx", "-c", file.as_str()];
            on(Side::Server, || start(supervised, &command, directory.path()))
        })
        .collect::<Vec<_>>();
    let until = Instant::now() + Duration::from_secs(10);
    for port in PORTS {
        // No event tells other processes that a server listens, so this polls.
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "nginx does not listen at {port}");
            thread::sleep(Duration::from_millis(10));
        }
    }
    let mut ratios = Vec::new();
    let mut rates = [Vec::new(), Vec::new()];
    for pair in 0..PAIRS {
        // The order changes, so that a slow drift of the machine meets both.
        for which in [pair % 2, 1 - pair % 2] {
            rates[which].push(measure(PORTS[which], options));
        }
        ratios.push(rates[1][pair] / rates[0][pair]);
    }
    let mut costs: Vec<f64> = servers.iter().map(|server| processor_seconds(server.id())).collect();
    // The supervisor of a preloaded program is nobody's child.
    let apart = supervisor(MARK, directory.path());
    costs[1] += apart.map_or(0.0, |pid| processor_seconds(pid.as_raw_nonzero().get().cast_unsigned()));
    assert!(apart.is_some() || settings == "seccomp", "the supervisor is not found");
    for server in &mut servers {
        let _ = kill_process(Pid::from_child(server), Signal::TERM);
        let _ = server.wait();
    }
    let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let high = ratios.iter().copied().fold(0.0, f64::max);
    // Each run was a second long.
    let [bare_cost, supervised_cost] =
        [0, 1].map(|which| costs[which] / rates[which].iter().sum::<f64>() * 1_000_000.0);
    let [bare, supervised] = rates.map(median);
    let ratio = median(ratios);
    let said = wanted
        .rate
        .map_or_else(String::new, |wanted| format!(" (>= {wanted}: {})", verdict(ratio >= wanted)));
    let dearer = supervised_cost / bare_cost;
    let cost = wanted
        .cost
        .map_or_else(String::new, |wanted| format!(" (<= {wanted}: {})", verdict(dearer <= wanted)));
    println!(
        "nginx, {name}: {bare:.0}/s bare, {supervised:.0}/s supervised, ratio {ratio:.3} of {low:.2} to {high:.2}{said}"
    );
    println!(
        "  processor time of all server processes: {bare_cost:.1} us a request bare, {supervised_cost:.1} us \
         supervised, {dearer:.2} times{cost}"
    );
}
