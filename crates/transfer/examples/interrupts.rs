//! Ends transfers of the program by signals at random moments, and prints how long the program took to obey.
//!
//! ```text
//! cargo run --release -p linger-transfer --example interrupts -- target/release/linger [ROUNDS] [SEED]
//! ```
//!
//! Each round starts a server and a client that puts or gets a file, a tree, a pipe, a source that gives nothing, or a
//! file of which most is there, with verification or without. After a random time one of the two gets SIGINT or SIGTERM.
//! Under `strace` (if it is installed) every third round delays a random kind of system call of a random end by minutes, as
//! a dying disk does. What has ended before its signal came is not counted.
//!
//! Beside each time stands for how long a thread of the program was ready to run meanwhile and had no processor
//! (`run_delay`, sched-stats.rst of the kernel): on a machine that is overloaded, that is no wait of the program's.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};

/// What obeying may take.
const BOUND: Duration = Duration::from_secs(1);
/// After this long, nobody waits any longer.
const HOPELESS: Duration = Duration::from_secs(20);
/// Calls that a disk can hold up.
const CALLS: [&str; 6] =
    ["pread64", "pwrite64", "fsync,fdatasync,syncfs", "openat,openat2", "newfstatat,statx,fstat", "splice"];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let linger = arguments.next().ok_or("the program is missing: target/release/linger")?;
    let rounds: usize = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let seed = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let has_strace =
        Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut obeyed: Vec<(Duration, String)> = Vec::new();
    let (mut over, mut stalled, mut tries) = (0, 0, 0u64);
    while obeyed.len() < rounds {
        tries += 1;
        let stalls = has_strace && tries % 3 == 0;
        match round(Path::new(&linger), &mut random, stalls)? {
            Some((took, what)) => {
                if took > BOUND {
                    eprintln!("{took:?}: {what}");
                }
                stalled += usize::from(stalls);
                obeyed.push((took, what));
            }
            None => over += 1,
        }
    }
    obeyed.sort();
    println!(
        "{rounds} signals ({stalled} of them while a call was delayed), {over} rounds over before theirs; ms until the program had ended:"
    );
    for percent in [0, 50, 90, 99, 100] {
        let (took, what) = &obeyed[(obeyed.len() - 1) * percent / 100];
        println!("{percent:>4} %  {:>7.1}  {what}", took.as_secs_f64() * 1e3);
    }
    let late = obeyed.iter().filter(|(took, _)| *took > BOUND).count();
    println!("later than {BOUND:?}: {late}");
    std::process::exit(i32::from(late > 0));
}

/// One transfer and one signal. `None` if the transfer was over before it.
fn round(linger: &Path, random: &mut ChaCha8Rng, stalls: bool) -> Result<Option<(Duration, String)>> {
    let mut pick = |below: u32| random.next_u32() % below;
    let directory = tempfile::tempdir()?;
    let (shared, home) = (directory.path().join("shared"), directory.path().join("home"));
    fs::create_dir_all(&shared)?;
    let kind =
        ["put file", "put tree", "get file", "put pipe", "put quiet pipe", "put again"][pick(6) as usize];
    let source = directory.path().join("source");
    prepare(kind, &source, &shared)?;
    let at_server = pick(2) == 0;
    let (call, when) = (CALLS[pick(6) as usize], 1 + pick(60));
    let traced = |here: bool| {
        let mut command = if stalls && here {
            let mut strace = Command::new("strace");
            let inject = format!("inject={call}:delay_enter=300000000:when={when}");
            strace
                .args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])
                .arg(linger);
            strace
        } else {
            Command::new(linger)
        };
        command.env("XDG_CONFIG_HOME", &home).stdin(Stdio::null());
        command
    };
    let mut server = traced(at_server)
        .args(["share", "--writable", "--insecure", "--listen", "127.0.0.1:0"])
        .arg(&shared)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let Some(port) = port(&mut server)? else {
        // A delayed call before it listens.
        end(server);
        return Ok(None);
    };
    let mut command = traced(!at_server);
    command.args([if kind.starts_with("get") { "get" } else { "put" }, "--insecure", "--replace"]);
    if pick(4) == 0 {
        command.arg("--no-verify");
    }
    let remote = format!("127.0.0.1:{port}:copy");
    match kind {
        "get file" => command.arg(remote.replace("copy", "big")).arg(directory.path().join("")),
        "put pipe" | "put quiet pipe" => command.args(["-", &remote]),
        _ => command.arg(&source).arg(&remote),
    };
    let kept = if kind == "put quiet pipe" {
        let (outlet, inlet) = std::io::pipe()?;
        command.stdin(outlet);
        Some(inlet)
    } else {
        if kind == "put pipe" {
            command.stdin(File::open("/dev/zero")?);
        }
        None
    };
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    drop(command);
    std::thread::sleep(Duration::from_micros(u64::from(pick(if stalls { 1_500_000 } else { 600_000 }))));
    let signal_server = pick(2) == 0;
    let signal = [Signal::INT, Signal::TERM][pick(2) as usize];
    let (asked, other) = if signal_server { (&mut server, &mut client) } else { (&mut client, &mut server) };
    let took = if asked.try_wait()?.is_some() { None } else { obey(asked, linger, signal)? };
    end_mut(other);
    end_mut(asked);
    drop(kept);
    let who = if signal_server { "server" } else { "client" };
    let delayed = if stalls {
        format!(", {call} number {when} delayed at the {}", if at_server { "server" } else { "client" })
    } else {
        String::new()
    };
    Ok(took.map(|Obeyed { took, starved }| {
        let told =
            format!("{signal:?} to the {who} of a {kind}{delayed} ({starved:.1?} without a processor)");
        (took, told)
    }))
}

/// How long a program took to end after a signal.
struct Obeyed {
    took: Duration,
    /// For how long the thread that had to wait most for a processor meanwhile waited for one.
    starved: Duration,
}

/// Sends the signal to the program itself, which is strace's child where there is a strace, and waits for its end. After
/// [`HOPELESS`] it is killed, and its threads are shown. `None` if there was no such program (any more).
fn obey(child: &mut Child, linger: &Path, signal: Signal) -> Result<Option<Obeyed>> {
    let Some(pid) = program(child, linger)? else { return Ok(None) };
    let process = pid.parse().ok().and_then(Pid::from_raw).ok_or("a pid is a number")?;
    let before = delays(&pid);
    let mut starved = Duration::ZERO;
    let started = Instant::now();
    if kill_process(process, signal).is_err() {
        return Ok(None);
    }
    while child.try_wait()?.is_none() && !has_exited(&pid) {
        if started.elapsed() > HOPELESS {
            show_threads(&pid);
            end_mut(child);
            break;
        }
        for (thread, delay) in delays(&pid) {
            starved = starved.max(delay.saturating_sub(before.get(&thread).copied().unwrap_or_default()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(Some(Obeyed { took: started.elapsed(), starved }))
}

/// For how long each thread of a process has waited for a processor while it could run.
fn delays(pid: &str) -> HashMap<OsString, Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let delay = |task: &fs::DirEntry| {
        let numbers = fs::read_to_string(task.path().join("schedstat")).ok()?;
        numbers.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
    };
    tasks.filter_map(|task| Some((task.file_name(), delay(&task)?))).collect()
}

/// The pid of the program that a child is, or that strace runs. Before it is executed there is nothing to signal: strace
/// itself ignores SIGINT and SIGTERM when it has a program to run.
fn program(child: &mut Child, linger: &Path) -> Result<Option<String>> {
    let linger = fs::canonicalize(linger)?;
    let is_it = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == linger);
    while child.try_wait()?.is_none() {
        let own = child.id().to_string();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let found = children.split_whitespace().chain([own.as_str()]).find(|pid| is_it(pid));
        if let Some(pid) = found {
            return Ok(Some(pid.to_owned()));
        }
        std::thread::yield_now();
    }
    Ok(None)
}

/// Whether the program has exited. Its thread that takes the signals never ends but by exit_group(2), with the whole process.
/// strace then still keeps a thread that it delays, in the stop before its exit (PTRACE_EVENT_EXIT), until the delay is over.
fn has_exited(pid: &str) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let name = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    !tasks.flatten().any(|task| name(&task).trim() == "signals")
}

/// Prints what each thread of a process waits in, and what signals it has.
fn show_threads(pid: &str) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (name, call, status) = (read("comm"), read("syscall"), read("status"));
        let wanted = ["State", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"];
        let lines: Vec<_> =
            status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))).collect();
        eprintln!("  {} {}: {} {}", task.file_name().display(), name.trim(), call.trim(), lines.join(" "));
    }
}

fn prepare(kind: &str, source: &Path, shared: &Path) -> Result<()> {
    match kind {
        "get file" => File::create(shared.join("big"))?.set_len(3 << 30)?,
        "put tree" => {
            for number in 0..2000 {
                let directory = source.join((number / 100).to_string());
                fs::create_dir_all(&directory)?;
                fs::write(directory.join(number.to_string()), vec![7; number])?;
            }
        }
        "put file" | "put again" => {
            fs::write(source, vec![7; 64 << 20])?;
            if kind == "put again" {
                fs::write(shared.join("copy"), vec![7; 64 << 20])?;
                let time = fs::metadata(source)?.modified()?;
                File::options().append(true).open(shared.join("copy"))?.set_modified(time)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The port that a server says it listens on; `None` if it says nothing for a while.
fn port(server: &mut Child) -> Result<Option<u16>> {
    let stderr = server.stderr.take().ok_or("no stderr")?;
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
            let port = line.strip_prefix("sharing ").and_then(|line| {
                let (_, address) = line.split_once("127.0.0.1:")?;
                address.split(',').next()?.parse().ok()
            });
            if let Some(port) = port {
                let _ = told.send(port);
            }
        }
    });
    Ok(hears.recv_timeout(Duration::from_secs(3)).ok())
}

fn end(mut child: Child) {
    end_mut(&mut child);
}

/// Kills a child, and what strace runs.
fn end_mut(child: &mut Child) {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
    for traced in children.split_whitespace() {
        let _ = Command::new("kill").args(["-s", "KILL", traced]).stderr(Stdio::null()).status();
    }
    let _ = child.kill();
    let _ = child.wait();
}
