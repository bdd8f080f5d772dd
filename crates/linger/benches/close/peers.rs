//! The servers of others, started from Debian's packages on loopback and stopped at the end.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server, with a directory of its own.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SIGTERM, so that the workers go, too.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// A port that is free now; in this network nobody else takes it.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address")
}

fn start(
    name: &'static str,
    program: &str,
    configuration: impl Fn(&Path, SocketAddr) -> String,
    arguments: &[&str],
) -> Option<Peer> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    // httpd's workers are not root.
    let _ = std::fs::set_permissions(path, PermissionsExt::from_mode(0o755));
    std::fs::write(path.join("index.html"), [b'i'; 100]).expect("a writable directory");
    let address = free_address();
    let file = path.join("configuration");
    let text = configuration(path, address);
    std::fs::File::create(&file)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("a writable file");
    let mut command = Command::new(program);
    command.args(arguments).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("skipped: {name}: {program}: {error} (cargo xtask setup installs it)");
            return None;
        }
    };
    let peer = Peer { name, address, child, _directory: directory };
    let end = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > end {
            println!("skipped: {name}: it does not listen on {address} after 10 s");
            return None;
        }
        // No event tells other processes that a server listens, so this polls.
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(peer)
}

pub(crate) fn nginx() -> Option<Peer> {
    let configuration = |path: &Path, address| {
        let path = path.display();
        format!(
            "daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log; user root;\n\
             worker_rlimit_nofile 19000; events {{ worker_connections 18000; }}\n\
             http {{ access_log off; lingering_close always; keepalive_timeout 60;\n\
             client_body_temp_path {path}/1; proxy_temp_path {path}/2; fastcgi_temp_path {path}/3;\n\
             uwsgi_temp_path {path}/4; scgi_temp_path {path}/5;\n\
             server {{ listen {address} backlog=4096; root {path}; }} }}\n"
        )
    };
    start("nginx", "/usr/sbin/nginx", configuration, &["-c"])
}

pub(crate) fn httpd() -> Option<Peer> {
    let configuration = |path: &Path, address: SocketAddr| {
        let path = path.display();
        format!(
            "ServerName localhost\nServerRoot {path}\nPidFile {path}/pid\nErrorLog /dev/null\nListen {address}\n\
             ListenBacklog 4096\nUser www-data\nGroup www-data\n\
             LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
             LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
             LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so\n\
             DocumentRoot {path}\nDirectoryIndex index.html\nDefaultRuntimeDir {path}\n\
             StartServers 1\nServerLimit 1\nThreadsPerChild 64\nMaxRequestWorkers 64\n\
             AsyncRequestWorkerFactor 200\n"
        )
    };
    start("httpd event", "/usr/sbin/apache2", configuration, &["-D", "FOREGROUND", "-f"])
}

impl Peer {
    /// The processes of this server.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut at = 0;
        while at < all.len() {
            let tasks = format!("/proc/{0}/task/{0}/children", all[at]);
            let children = std::fs::read_to_string(tasks).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        all
    }

    /// Seconds of processor time its processes have used.
    pub(crate) fn cpu(&self) -> f64 {
        self.processes().iter().map(|pid| cpu_of(&format!("/proc/{pid}"))).sum()
    }

    /// Bytes of memory that its processes keep resident, shared pages counted by share.
    pub(crate) fn memory(&self) -> f64 {
        let of = |pid: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0 kB");
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) * 1024.0
        };
        self.processes().iter().map(of).sum()
    }
}

/// Processor time of a process, all its threads, or of one task, in seconds.
pub(crate) fn cpu_of(directory: &str) -> f64 {
    let tasks = std::fs::read_dir(format!("{directory}/task")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = tasks.map(|task| task.path()).collect();
    if paths.is_empty() {
        paths.push(directory.into());
    }
    let nanoseconds = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0)
    };
    paths.iter().map(nanoseconds).sum::<f64>() / 1e9
}

/// The directory in `/proc` of the thread of a closer that was made just now: this process's newest.
pub(crate) fn closer_thread() -> String {
    let number = |path: &std::path::PathBuf| -> u32 {
        path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
    };
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc").flatten();
    tasks.map(|task| task.path()).max_by_key(number).expect("a process has a thread").display().to_string()
}

/// What wrk counted.
#[derive(Debug, Default)]
pub(crate) struct Wrk {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) errors: f64,
}

/// Runs wrk with `Connection: close`; `None` where it is not installed.
pub(crate) fn wrk(address: SocketAddr, connections: u32, seconds: u32) -> Option<Wrk> {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-H", "Connection: close"])
        .arg(format!("http://{address}/"))
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: wrk: {error} (cargo xtask setup installs it)");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |line: &str| -> f64 {
        let digits: String = line.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
        digits.parse().unwrap_or(0.0)
    };
    let mut wrk = Wrk::default();
    for line in text.lines() {
        if let Some((count, _)) = line.split_once(" requests in ") {
            wrk.requests = number(count);
        } else if let Some(rest) = line.strip_prefix("Requests/sec:") {
            wrk.per_second = number(rest);
        } else if let Some(rest) = line.trim().strip_prefix("Socket errors:") {
            wrk.errors += rest.split(',').map(number).sum::<f64>();
        } else if let Some(rest) = line.trim().strip_prefix("Non-2xx or 3xx responses:") {
            wrk.errors += number(rest);
        }
    }
    Some(wrk)
}
