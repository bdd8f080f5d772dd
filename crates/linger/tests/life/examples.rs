//! The shipped examples when descriptors run out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linger_testing::{sandboxed, skip};

use crate::SOON;
use crate::support::LONG;

/// An example as it is shipped, with 64 descriptors.
struct Example(Child);

impl Example {
    fn start(name: &str, port: u16) -> Self {
        let folder = std::env::current_exe().unwrap();
        let path = folder.parent().unwrap().parent().unwrap().join("examples").join(name);
        assert!(path.exists(), "{}: `cargo build --examples --all-features` first", path.display());
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n 64; exec {}", path.display()));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + LONG;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "{name} does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ninety clients that take what they get and then send a byte now and then; each that is gone is replaced.
fn attack(port: u16, request: &[u8], stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let request = request.to_vec();
    thread::spawn(move || {
        let mut clients: Vec<TcpStream> = Vec::new();
        let connect = || {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let mut client = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
            client.write_all(&request)?;
            client.set_nonblocking(true)?;
            io::Result::Ok(client)
        };
        while !stop.load(Ordering::SeqCst) {
            while clients.len() < 90 {
                let Ok(client) = connect() else { break };
                clients.push(client);
            }
            clients.retain_mut(|client| match client.write(b".") {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            });
            // The client's own pause.
            thread::sleep(Duration::from_millis(10));
        }
    })
}

/// What an honest client gets.
fn ask(port: u16, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(request)?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    Ok(got)
}

fn example(name: &str, port: u16, attacks: &[u8], honest: impl Fn() -> bool) {
    sandboxed(|| {
        let mut example = Example::start(name, port);
        let stop = Arc::new(AtomicBool::new(false));
        let attackers = attack(port, attacks, stop.clone());
        let served = (0..36).filter(|_| example.is_running() && honest()).count();
        assert!(example.is_running(), "{name} has exited");
        assert_eq!(served, 36, "{name}");
        if let "axum_tls" | "sigterm" = name {
            // In the middle of the attack.
            let started = Instant::now();
            let id = rustix::process::Pid::from_child(&example.0);
            rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
            assert!(example.0.wait().unwrap().success(), "{name}");
            assert!(started.elapsed() < 2 * SOON, "{name} {:?}", started.elapsed());
        }
        stop.store(true, Ordering::SeqCst);
        attackers.join().unwrap();
    });
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";

#[test]
fn axum_limit_outlives_an_attack_with_64_descriptors() {
    let served = || ask(8080, GET).is_ok_and(|got| got.starts_with(b"HTTP/1.1 405"));
    // More than the limit, and less than what is announced.
    let mut upload = b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\n".to_vec();
    upload.extend([b'u'; 70_000]);
    example("axum_limit", 8080, &upload, served);
}

#[test]
fn sigterm_outlives_an_attack_with_64_descriptors() {
    example("sigterm", 8080, GET, || ask(8080, GET).is_ok_and(|got| got.ends_with(b"hello\n")));
}

#[test]
fn threads_outlives_an_attack_with_64_descriptors() {
    let served = || ask(8080, GET).is_ok_and(|got| got.starts_with(b"HTTP/1.1 413"));
    example("threads", 8080, GET, served);
}

#[test]
fn tokio_echo_outlives_an_attack_with_64_descriptors() {
    let served = || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", 7007)) else { return false };
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut got = [0; 2];
        stream.write_all(b"hi").is_ok() && stream.read_exact(&mut got).is_ok() && got == *b"hi"
    };
    example("tokio_echo", 7007, b"quit", served);
}

fn curl(arguments: &[&str]) -> bool {
    match Command::new("curl").args(["-s", "-k", "--max-time", "60"]).args(arguments).output() {
        Ok(output) => output.stdout.starts_with(b"hello"),
        Err(error) => {
            skip("curl", &error.to_string());
            true
        }
    }
}

#[test]
fn hyper_tls_outlives_an_attack_with_64_descriptors() {
    example("hyper_tls", 8443, GET, || curl(&["https://127.0.0.1:8443/"]));
}

#[test]
fn axum_tls_outlives_an_attack_with_64_descriptors() {
    example("axum_tls", 8443, GET, || curl(&["https://127.0.0.1:8443/"]));
}
