//! The ways to move a file or a tree. Each runs in its own processes, and returns how long it took.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::Place;

pub(crate) fn has(program: &str) -> bool {
    ["/usr/bin", "/bin", "/usr/local/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {told}");
    told
}

/// The seconds that one of this project's processes kept a processor busy, by its own report. It must not
/// have taken more than 32 MiB.
fn busy(told: &str) -> f64 {
    let usage =
        told.lines().find_map(|line| line.strip_prefix("usage ")?.split_once(' ')).expect("its usage");
    let kib: u64 = usage.0.parse().expect("its peak");
    assert!(kib <= 32 << 10, "{kib} KiB");
    usage.1.parse().expect("its time")
}

/// Waits until a server that was just started listens.
fn await_port(port: u16) {
    let end = Instant::now() + std::time::Duration::from_secs(10);
    let listens = || {
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
            let table = fs::read_to_string(table).unwrap_or_default();
            table.lines().any(|line| line.contains(&format!(":{port:04X} ")) && line.contains(":0000 0A "))
        })
    };
    while !listens() {
        assert!(Instant::now() < end, "nothing listens on port {port}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Another project's server. It is ended with the measurement, even if that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn ours(place: &Place, from: &str, flags: &[&str]) -> f64 {
    let me = std::env::current_exe().expect("this program");
    let mut server = Command::new(&me)
        .arg("serve")
        .arg(place.path("to"))
        .args(flags)
        .env("LINGER_BENCH_KEYS", place.path("keys"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("our server");
    let mut port = String::new();
    BufReader::new(server.stdout.take().expect("its output")).read_line(&mut port).expect("its port");
    let started = Instant::now();
    let sender = run(Command::new(&me)
        .arg("put")
        .arg(place.path(from))
        .arg(port.trim())
        .arg("copy")
        .args(flags)
        .env("LINGER_BENCH_KEYS", place.path("keys")));
    let seconds = started.elapsed().as_secs_f64();
    drop(server.stdin.take());
    let output = server.wait_with_output().expect("our server");
    let receiver = String::from_utf8_lossy(&output.stderr);
    let told = format!("sender busy for {:.2} s, receiver for {:.2} s", busy(&sender), busy(&receiver));
    eprint!("\r{told:>80}");
    seconds
}

pub(crate) fn iperf3(bytes: u64) -> f64 {
    let port = free_port();
    let quiet = || Stdio::null();
    let server = Command::new("iperf3")
        .args(["-s", "-1", "-p", &port.to_string()])
        .stdout(quiet())
        .stderr(quiet())
        .spawn()
        .map(Running)
        .expect("iperf3");
    await_port(port);
    let output = Command::new("iperf3")
        .args(["-c", "127.0.0.1", "-J", "-n", &bytes.to_string(), "-p", &port.to_string()])
        .output()
        .expect("iperf3");
    drop(server);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("iperf3's JSON");
    told["end"]["sum_received"]["seconds"].as_f64().expect("iperf3's seconds")
}

pub(crate) fn nc(place: &Place) -> f64 {
    let port = free_port().to_string();
    let to = fs::File::create(place.path("to/copy")).expect("the target");
    let mut server = Command::new("nc")
        .args(["-l", "127.0.0.1", &port])
        .stdin(Stdio::null())
        .stdout(to)
        .spawn()
        .expect("nc");
    await_port(port.parse().expect("a port"));
    let started = Instant::now();
    let from = fs::File::open(place.path("file")).expect("the file");
    let sent = Command::new("nc").args(["-N", "127.0.0.1", &port]).stdin(from).status().expect("nc");
    assert!(sent.success() && server.wait().expect("nc").success());
    started.elapsed().as_secs_f64()
}

pub(crate) fn tar_nc(place: &Place) -> f64 {
    let port = free_port();
    let to = place.path("to");
    let receive = format!("nc -l 127.0.0.1 {port} | tar -xf - -C {}", to.display());
    let mut server = Command::new("sh").args(["-c", &receive]).stdin(Stdio::null()).spawn().expect("sh");
    await_port(port);
    let started = Instant::now();
    let send = format!("tar -cf - -C {} tree | nc -N 127.0.0.1 {port}", place.0.display());
    run(Command::new("sh").args(["-c", &send]));
    assert!(server.wait().expect("tar").success());
    started.elapsed().as_secs_f64()
}

pub(crate) fn rsync(place: &Place, from: &str) -> f64 {
    let port = free_port();
    let configuration = place.path("rsyncd.conf");
    let text = format!(
        "use chroot = no\nuid = {0}\ngid = {0}\n[to]\npath = {1}\nread only = no\n",
        rustix::process::getuid().as_raw(),
        place.path("to").display()
    );
    fs::write(&configuration, text).expect("rsyncd.conf");
    let server = Command::new("rsync")
        .args(["--daemon", "--no-detach", "--address=127.0.0.1", &format!("--port={port}")])
        .arg(format!("--config={}", configuration.display()))
        .stdin(Stdio::null())
        .spawn()
        .map(Running)
        .expect("rsync");
    await_port(port);
    let started = Instant::now();
    // Whole files: a delta against nothing would only cost rsync time.
    run(Command::new("rsync")
        .args(["-aW"])
        .arg(place.path(from))
        .arg(format!("rsync://127.0.0.1:{port}/to/")));
    let seconds = started.elapsed().as_secs_f64();
    drop(server);
    seconds
}

pub(crate) fn scp(place: &Place) -> f64 {
    let port = free_port();
    let key = place.path("key");
    if !key.exists() {
        for name in ["key", "host"] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(place.path(name)));
        }
        fs::copy(place.path("key.pub"), place.path("authorized")).expect("the key");
        fs::create_dir_all("/run/sshd").expect("sshd's directory");
    }
    let server = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f", "/dev/null", "-o", "StrictModes=no", "-o", "PidFile=none"])
        .args([
            "-o",
            "Subsystem=sftp internal-sftp",
            "-o",
            "ListenAddress=127.0.0.1",
            "-p",
            &port.to_string(),
        ])
        .arg("-h")
        .arg(place.path("host"))
        .args(["-o", &format!("AuthorizedKeysFile={}", place.path("authorized").display())])
        .stderr(Stdio::null())
        .spawn()
        .map(Running)
        .expect("sshd");
    await_port(port);
    let started = Instant::now();
    run(Command::new("scp")
        .args(["-q", "-F", "/dev/null", "-c", "aes128-gcm@openssh.com", "-P", &port.to_string(), "-i"])
        .arg(&key)
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .arg(place.path("file"))
        .arg(format!("127.0.0.1:{}", place.path("to/copy").display())));
    let seconds = started.elapsed().as_secs_f64();
    drop(server);
    seconds
}
