//! A stop under load, as ab sees it behind nginx: every request that nginx could pass on is answered. What comes later is refused, which
//! nginx says in other words.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::common::Running;
use linger_fastcgi::responder::Config;
use linger_fastcgi::{Request, Response, tokio as on_tokio};
use linger_testing::sandboxed;
use linger_testing::servers::{GatewayOptions, RunningServer, available, nginx_fcgi, program};

const REQUESTS: u32 = 6000;
/// So many are answered when the stop comes.
const BEFORE: u32 = 1000;
const ANSWER: usize = 20_000;
/// Fewer than ab has requests at once: when the stop comes, some wait in the accept queue.
const SLOTS: usize = 4;

/// nginx in front of `application`, and ab in front of that.
fn load(application: SocketAddr) -> Option<(RunningServer, Child)> {
    let ab = available(program("ab", "apache2-utils"))?;
    let nginx = available(nginx_fcgi(application, GatewayOptions::default()))?;
    let mut command = Command::new(ab);
    command.args(["-q", "-r", "-c", "12", "-s", "60", "-n", &REQUESTS.to_string()]);
    command.arg(format!("http://{}/x", nginx.address)).stdout(Stdio::null()).stderr(Stdio::null());
    let ab = command.spawn().unwrap();
    Some((nginx, ab))
}

/// Handlers that wait, once so many are answered, until the stop has been asked for: the accept queue fills behind them.
#[derive(Debug, Default)]
struct Brake {
    answered: AtomicU32,
    is_released: AtomicBool,
}

impl Brake {
    fn holds(&self) -> bool {
        self.answered.load(Ordering::SeqCst) >= BEFORE && !self.is_released.load(Ordering::SeqCst)
    }

    /// Waits until connections wait to be accepted at this address.
    fn wait_for_queue(&self, address: SocketAddr) {
        let listener = format!(":{:04X} 00000000:0000 0A ", address.port());
        let is_queued = || {
            let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let line = all.lines().find(|line| line.contains(&listener)).expect("it listens");
            // For a listener the second of the two queues is the accept queue.
            let queues = line.split_once(" 0A ").unwrap().1;
            queues[..17].split_once(':').is_some_and(|(_, queued)| queued != "00000000")
        };
        while !self.holds() || !is_queued() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Waits for ab, and counts the requests that reached the application and got no whole answer.
fn lost(case: &str, nginx: &RunningServer, mut ab: Child, brake: &Brake) {
    ab.wait().unwrap();
    let log = std::fs::read_to_string(nginx.path("error.log")).unwrap();
    let upstream: Vec<&str> = log.lines().filter(|line| line.contains("upstream")).collect();
    let lost: Vec<&&str> = upstream.iter().filter(|line| !line.contains("Connection refused")).collect();
    let answered = brake.answered.load(Ordering::SeqCst);
    eprintln!("{case}: {answered} answered, {} refused, {} lost", upstream.len() - lost.len(), lost.len());
    assert!((BEFORE..REQUESTS).contains(&answered), "{case}: the stop did not come under load: {answered}");
    assert!(lost.is_empty(), "{case}: {} of {answered} were lost: {lost:?}", lost.len());
}

#[test]
fn of_threads() {
    sandboxed(|| {
        for multiplex in [false, true] {
            let brake = Arc::new(Brake::default());
            let held = brake.clone();
            let mut config = Config::default();
            (config.connections, config.multiplex) = (SLOTS, multiplex);
            let mut running = Running::start(config, move |_: &mut Request, response: &mut Response| {
                write!(response, "Content-Type: text/plain\r\n\r\n")?;
                response.write_all(&[b'r'; ANSWER])?;
                while held.holds() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                held.answered.fetch_add(1, Ordering::SeqCst);
                Ok(0)
            });
            let Some((nginx, ab)) = load(running.port()) else { return };
            brake.wait_for_queue(running.port());
            running.stop();
            brake.is_released.store(true, Ordering::SeqCst);
            lost(&format!("threads, multiplex {multiplex}"), &nginx, ab, &brake);
        }
    });
}

#[test]
fn of_tokio() {
    sandboxed(|| {
        let brake = Arc::new(Brake::default());
        let held = brake.clone();
        let handler = move |_: on_tokio::Request, mut response: on_tokio::Response| {
            let held = held.clone();
            async move {
                response.write(b"Content-Type: text/plain\r\n\r\n").await?;
                response.write(&[b'r'; ANSWER]).await?;
                while held.holds() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                held.answered.fetch_add(1, Ordering::SeqCst);
                response.end(0).await
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let mut config = Config::default();
        (config.connections, config.owns_listener) = (SLOTS, true);
        let serve = on_tokio::serve_until(listener, config, handler, async { drop(stopped.await) });
        let server = runtime.spawn(serve);
        let Some((nginx, ab)) = load(address) else { return };
        brake.wait_for_queue(address);
        stop.send(()).unwrap();
        brake.is_released.store(true, Ordering::SeqCst);
        runtime.block_on(server).unwrap().unwrap();
        lost("tokio", &nginx, ab, &brake);
    });
}
