//! A stop under load, as ab sees it behind nginx: every request that nginx could pass on is answered. What comes later is refused, which
//! nginx says in other words.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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

fn wait_for(answered: &AtomicU32) {
    while answered.load(Ordering::SeqCst) < BEFORE {
        std::thread::yield_now();
    }
}

/// Waits for ab, and counts the requests that reached the application and got no whole answer.
fn lost(case: &str, nginx: &RunningServer, mut ab: Child, answered: &AtomicU32) {
    ab.wait().unwrap();
    let log = std::fs::read_to_string(nginx.path("error.log")).unwrap();
    let upstream: Vec<&str> = log.lines().filter(|line| line.contains("upstream")).collect();
    let lost: Vec<&&str> = upstream.iter().filter(|line| !line.contains("Connection refused")).collect();
    let answered = answered.load(Ordering::SeqCst);
    eprintln!("{case}: {answered} answered, {} refused, {} lost", upstream.len() - lost.len(), lost.len());
    assert!((BEFORE..REQUESTS).contains(&answered), "{case}: the stop did not come under load: {answered}");
    assert!(lost.is_empty(), "{case}: {} of {answered} were lost: {lost:?}", lost.len());
}

#[test]
fn of_threads() {
    sandboxed(|| {
        for multiplex in [false, true] {
            let answered = Arc::new(AtomicU32::new(0));
            let counted = answered.clone();
            let mut config = Config::default();
            (config.connections, config.multiplex) = (SLOTS, multiplex);
            let mut running = Running::start(config, move |_: &mut Request, response: &mut Response| {
                write!(response, "Content-Type: text/plain\r\n\r\n")?;
                response.write_all(&[b'r'; ANSWER])?;
                counted.fetch_add(1, Ordering::SeqCst);
                Ok(0)
            });
            let Some((nginx, ab)) = load(running.port()) else { return };
            wait_for(&answered);
            running.stop();
            lost(&format!("threads, multiplex {multiplex}"), &nginx, ab, &answered);
        }
    });
}

#[test]
fn of_tokio() {
    sandboxed(|| {
        let answered = Arc::new(AtomicU32::new(0));
        let counted = answered.clone();
        let handler = move |_: on_tokio::Request, mut response: on_tokio::Response| {
            let counted = counted.clone();
            async move {
                response.write(b"Content-Type: text/plain\r\n\r\n").await?;
                response.write(&[b'r'; ANSWER]).await?;
                counted.fetch_add(1, Ordering::SeqCst);
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
        wait_for(&answered);
        stop.send(()).unwrap();
        runtime.block_on(server).unwrap().unwrap();
        lost("tokio", &nginx, ab, &answered);
    });
}
