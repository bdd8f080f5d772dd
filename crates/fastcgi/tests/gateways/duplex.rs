//! Both drivers behind every gateway, with bodies and answers of up to 20 MB in every combination: unread, half read, read. A
//! gateway's second and third way to be set up gets each third combination.
//!
//! Gateways differ in what they do while the application answers. nginx stops sending the body, mod_fcgid writes all of it before it
//! reads a byte, HAProxy's fcgi-app insists on sending it before it believes an END_REQUEST. All must get the whole answer.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Running, available, post, sized};
use axum::body::Body;
use axum::extract::Request as HttpRequest;
use http_body_util::BodyExt;
use linger_fastcgi::responder::{Config, Responder};
use linger_testing::servers::{
    GatewayOptions, Launch, RunningServer, Unavailable, httpd, httpd_fcgi, lighttpd_fcgi, nginx_fcgi, program,
};
use linger_testing::{Counters, sandboxed};

const BODIES: [usize; 6] = [0, 8, 67_000, 2 << 20, 8 << 20, 20 << 20];
const ANSWERS: [usize; 4] = [0, 67_000, 2 << 20, 20 << 20];

/// Which driver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Threads,
    Tower,
}

/// The application, as an axum service: reads and answers as the headers say, and keeps its request until the answer is written.
async fn answered(request: HttpRequest) -> axum::response::Response {
    let (parts, mut body) = request.into_parts();
    let number = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let (read, answer) = (number("x-read").unwrap_or(usize::MAX), number("x-answer").unwrap_or(0));
    let mut got = 0;
    while got < read
        && let Some(frame) = body.frame().await
    {
        got += frame.unwrap().into_data().unwrap().len();
    }
    let pieces = answer.div_ceil(50_000);
    let answer = futures_util::stream::unfold((0, body), move |(sent, body)| async move {
        let length = answer.saturating_sub(sent * 50_000).min(50_000);
        (sent < pieces).then(|| (Ok::<_, std::io::Error>(vec![b'r'; length]), (sent + 1, body)))
    });
    // The last of the unread body lives as long as the answer is written.
    axum::response::Response::new(Body::from_stream(Box::pin(answer)))
}

/// An application of this driver that runs as long as it exists.
enum Application {
    Threads(Running),
    Tower { address: SocketAddr, _runtime: tokio::runtime::Runtime },
}

impl Application {
    fn start(driver: Driver, multiplex: bool, manner: Manner) -> Self {
        let mut config = Config::default();
        if manner == Manner::ResetsAndInsists {
            config.input_idle = Duration::from_secs(20);
        }
        config.multiplex = multiplex;
        if driver == Driver::Threads {
            return Self::Threads(Running::start(config, sized));
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(answered);
        runtime.spawn(linger_fastcgi::tower::serve(listener, config, app));
        Self::Tower { address, _runtime: runtime }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Threads(running) => running.port(),
            Self::Tower { address, .. } => *address,
        }
    }
}

/// A request: the length of its body, how much of that the application reads (all, if not told), and the length of the answer.
type Combination = (usize, Option<usize>, usize);

fn combinations() -> impl Iterator<Item = Combination> {
    let with_reads = BODIES.into_iter().flat_map(|body| {
        let reads = if body < 9 { vec![None] } else { vec![Some(0), Some(body / 2), None] };
        reads.into_iter().map(move |read| (body, read))
    });
    with_reads.flat_map(|(body, read)| ANSWERS.map(|answer| (body, read, answer)))
}

/// Sends every combination of a list through a gateway. Returns the slowest.
fn every_size(name: &str, gateway: &RunningServer, all: impl Iterator<Item = Combination>) -> Duration {
    let mut slowest = Duration::ZERO;
    for (body, read, answer) in all {
        let got = post(gateway.address, body, read, answer);
        assert!(
            got.is_complete(answer),
            "{name}: body {body}, read {read:?}, answer {answer}: {got:?}\n{}",
            gateway.log()
        );
        slowest = slowest.max(got.elapsed);
    }
    for (body, answer) in [(67_000, 67_000), (8 << 20, 67_000), (20 << 20, 2 << 20)] {
        curl(name, gateway, body, answer);
    }
    slowest
}

/// Posts a body that is not read with a client of HTTP/1.1, which needs more than all bytes: it waits for the end of the answer, not
/// for that of the connection.
fn curl(name: &str, gateway: &RunningServer, body: usize, answer: usize) {
    let Some(curl) = available(program("curl", "curl")) else { return };
    let mut command = Command::new(curl);
    command.args([
        "-s",
        "-m",
        "30",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{size_download}",
        "--data-binary",
        "@-",
    ]);
    for header in ["Expect:", "X-Read: 0", &format!("X-Answer: {answer}")] {
        command.arg("-H").arg(header);
    }
    let mut child = command
        .arg(format!("http://{}/script", gateway.address))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'b'; body]).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let got = (output.status.code(), said.as_str());
    let want = format!("200 {answer}");
    assert_eq!(
        got,
        (Some(0), want.as_str()),
        "{name}: curl, body {body}, answer {answer}\n{}",
        gateway.log()
    );
}

/// What of a gateway the tests have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It reads what it is sent to the end.
    Plain,
    /// It closes connections with unread bytes itself, which the same counters of the kernel count.
    Resets,
    /// So it does; and it insists on sending all of a body, however long it pauses on a busy machine.
    ResetsAndInsists,
}

type Start = fn(SocketAddr) -> Result<RunningServer, Unavailable>;

fn behind(gateways: &[(&str, bool, Start)], manner: Manner) {
    sandboxed(|| {
        for (at, (name, multiplex, start)) in gateways.iter().enumerate() {
            for driver in [Driver::Threads, Driver::Tower] {
                let before = Counters::read().unwrap();
                let application = Application::start(driver, *multiplex, manner);
                let Some(gateway) = available(start(application.address())) else { continue };
                let each = if at == 0 { 1 } else { 3 };
                let all = combinations().skip(at % each).step_by(each);
                let slowest = every_size(&format!("{name}, {driver:?}"), &gateway, all);
                drop(gateway);
                drop(application);
                eprintln!("{name}, {driver:?}: slowest {slowest:?}");
                let counted = Counters::read().unwrap().since(&before);
                if manner == Manner::Plain {
                    assert_eq!(counted.of("TCPAbortOnClose"), 0, "{name}, {driver:?}");
                }
            }
        }
    });
}

fn options(buffered: bool, request_buffered: bool, keep_conn: bool) -> GatewayOptions {
    let mut options = GatewayOptions::default();
    (options.buffered, options.request_buffered, options.keep_conn) = (buffered, request_buffered, keep_conn);
    options
}

#[test]
fn behind_nginx() {
    behind(
        &[("nginx buffered", false, |address| nginx_fcgi(address, options(true, true, false)))],
        Manner::Plain,
    );
}

#[test]
fn behind_nginx_that_keeps_connections() {
    behind(
        &[("nginx keeping", false, |address| nginx_fcgi(address, options(true, true, true)))],
        Manner::Plain,
    );
}

/// It stops reading from either side when it has the length of a response (one close with unread bytes was counted).
#[test]
fn behind_nginx_that_does_not_buffer() {
    behind(
        &[
            ("nginx unbuffered", false, |address| nginx_fcgi(address, options(false, false, false))),
            ("nginx unbuffered keeping", false, |address| nginx_fcgi(address, options(false, false, true))),
        ],
        Manner::Resets,
    );
}

#[test]
fn behind_httpd() {
    behind(
        &[
            ("mod_proxy_fcgi", false, |address| httpd_fcgi(address, options(true, true, false))),
            ("mod_proxy_fcgi keeping", false, |address| httpd_fcgi(address, options(true, true, true))),
        ],
        Manner::Plain,
    );
}

#[test]
fn behind_lighttpd() {
    behind(
        &[
            ("lighttpd", false, |address| lighttpd_fcgi(address, options(true, true, false))),
            ("lighttpd streaming", false, |address| lighttpd_fcgi(address, options(false, false, false))),
        ],
        Manner::Plain,
    );
}

/// HAProxy's fcgi-app in front of an application.
fn haproxy(application: SocketAddr, option: &str) -> Result<RunningServer, Unavailable> {
    let haproxy = program("haproxy", "haproxy")?;
    let launch = Launch::new("haproxy");
    let text = format!(
        "global\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s
frontend all\n  bind 127.0.0.1:{}\n  default_backend application
backend application\n  use-fcgi-app app\n  server one {application} proto fcgi
fcgi-app app\n  docroot {}\n  {option}\n",
        launch.port,
        launch.folder()
    );
    let file = launch.file("haproxy.cfg", text);
    let mut command = Command::new(haproxy);
    command.arg("-f").arg(file);
    launch.start(command)
}

#[test]
fn behind_haproxy() {
    behind(
        &[
            ("HAProxy", false, |address| haproxy(address, "no option keep-conn")),
            ("HAProxy keeping", false, |address| haproxy(address, "option keep-conn")),
            ("HAProxy multiplexing", true, |address| {
                haproxy(address, "option keep-conn\n  option mpxs-conns\n  option max-reqs 20")
            }),
        ],
        Manner::ResetsAndInsists,
    );
}

fn caddy(application: SocketAddr) -> Result<RunningServer, Unavailable> {
    let caddy = program("caddy", "caddy")?;
    let launch = Launch::new("caddy");
    let text = format!(
        "{{\n admin off\n auto_https off\n}}\nhttp://:{} {{\n bind 127.0.0.1\n reverse_proxy {application} {{\n  transport fastcgi\n }}\n}}\n",
        launch.port
    );
    let file = launch.file("Caddyfile", text);
    let mut command = Command::new(caddy);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).env("HOME", launch.path(""));
    launch.start(command)
}

#[test]
fn behind_caddy() {
    behind(&[("caddy", false, caddy)], Manner::Resets);
}

/// varnish in front of a gateway: it speaks no FastCGI itself.
fn varnish(gateway: SocketAddr) -> Result<RunningServer, Unavailable> {
    let varnish = program("varnishd", "varnish")?;
    let launch = Launch::new("varnish");
    let text = format!(
        "vcl 4.1;\nbackend gateway {{ .host = \"{}\"; .port = \"{}\"; }}\nsub vcl_recv {{ return (pass); }}\n",
        gateway.ip(),
        gateway.port()
    );
    let file = launch.file("front.vcl", text);
    let mut command = Command::new(varnish);
    command.args(["-F", "-j", "none", "-n"]).arg(launch.path("work"));
    command.arg("-a").arg(format!("127.0.0.1:{}", launch.port)).arg("-f").arg(file);
    command.args(["-p", "thread_pool_min=20", "-p", "thread_pools=1"]);
    launch.start(command)
}

#[test]
fn behind_varnish_in_front_of_nginx() {
    sandboxed(|| {
        for (at, driver) in [Driver::Threads, Driver::Tower].into_iter().enumerate() {
            let application = Application::start(driver, false, Manner::Plain);
            let gateway = nginx_fcgi(application.address(), options(true, true, false));
            let Some(gateway) = available(gateway) else { return };
            let Some(front) = available(varnish(gateway.address)) else { return };
            let name = format!("varnish in front of nginx, {driver:?}");
            let slowest = every_size(&name, &front, combinations().skip(at).step_by(3));
            eprintln!("{name}: slowest {slowest:?}");
        }
    });
}

/// Set in the environment of an application that mod_fcgid starts: which driver it uses.
const APPLICATION: &str = "LINGER_TEST_APPLICATION";

/// httpd's mod_fcgid, which starts its applications itself: this program, told by its environment what to be.
fn mod_fcgid(driver: Driver) -> Result<RunningServer, Unavailable> {
    if !std::path::Path::new("/usr/lib/apache2/modules/mod_fcgid.so").exists() {
        let (program, package) = ("mod_fcgid".to_owned(), "libapache2-mod-fcgid".to_owned());
        return Err(Unavailable::Missing { program, package });
    }
    let program = std::env::current_exe().unwrap();
    let config = format!(
        "FcgidIPCDir FOLDER/sockets\nFcgidProcessTableFile FOLDER/table\nFcgidMaxRequestLen 1000000000
         FcgidIOTimeout 20\nFcgidBusyTimeout 60\nFcgidInitialEnv {APPLICATION} {driver:?}
         <Location />\nSetHandler fcgid-script\nOptions +ExecCGI
         FcgidWrapper \"{} --exact duplex::as_application --nocapture\" virtual\n</Location>",
        program.display()
    );
    httpd("mod_fcgid", "event", &["fcgid"], &config)
}

#[test]
fn behind_mod_fcgid() {
    sandboxed(|| {
        for driver in [Driver::Threads, Driver::Tower] {
            let Some(gateway) = available(mod_fcgid(driver)) else { return };
            let slowest = every_size(&format!("mod_fcgid, {driver:?}"), &gateway, combinations());
            eprintln!("mod_fcgid, {driver:?}: slowest {slowest:?}");
        }
    });
}

/// No test, but what mod_fcgid starts: an application on descriptor 0.
#[test]
fn as_application() {
    let Ok(driver) = std::env::var(APPLICATION) else { return };
    if driver == format!("{:?}", Driver::Threads) {
        return Responder::inherited(Config::default()).unwrap().run(sized).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().unwrap();
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let app = axum::Router::new().fallback(answered);
        linger_fastcgi::tower::serve(listener, Config::default(), app).await.unwrap();
    });
}

#[test]
fn a_third_of_the_combinations_has_every_length_and_every_way_to_read() {
    for first in 0..3 {
        let third: Vec<Combination> = combinations().skip(first).step_by(3).collect();
        assert!(BODIES.iter().all(|body| third.iter().any(|one| one.0 == *body)), "{first}: {third:?}");
        assert!(ANSWERS.iter().all(|answer| third.iter().any(|one| one.2 == *answer)), "{first}: {third:?}");
        let ways: [fn(&Combination) -> bool; 3] = [
            |one| one.1 == Some(0),
            |one| one.1.is_some_and(|read| read > 0),
            |one| one.1.is_none() && one.0 > 8,
        ];
        assert!(ways.iter().all(|way| third.iter().any(way)), "{first}: {third:?}");
    }
}
