//! This crate's responder behind real gateways, in a private network whose counters belong to the test alone.
//!
//! The gateway must get every byte of every response, and the responder's host must send no reset for unread
//! data, however much of the request was read.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::{Got, Running, SIZES, available, post, sized};
use linger_fastcgi::responder::Config;
use linger_testing::Counters;
use linger_testing::sandboxed;
use linger_testing::servers::{
    GatewayOptions, RunningServer, Unavailable, cgi_fcgi, httpd_fcgi, lighttpd_fcgi, nginx_fcgi,
};

fn options(buffered: bool, request_buffered: bool, keep_conn: bool) -> GatewayOptions {
    let mut options = GatewayOptions::default();
    (options.buffered, options.request_buffered, options.keep_conn) = (buffered, request_buffered, keep_conn);
    options
}

type Start = fn(SocketAddr) -> Result<RunningServer, Unavailable>;

/// Sends every size through each gateway, with the body unread, half read and read.
fn behind(gateways: &[(&str, Start)]) {
    sandboxed(|| {
        for (name, start) in gateways {
            let responder = Running::start(Config::default(), sized);
            let Some(gateway) = available(start(responder.port())) else { continue };
            let before = Counters::read().unwrap();
            let mut slowest = Duration::ZERO;
            for body in SIZES {
                for read in [Some(0), Some(body / 2), None] {
                    for answer in [0, 67_000, 2 << 20] {
                        let got: Got = post(gateway.address, body, read, answer);
                        assert!(
                            got.is_complete(answer),
                            "{name}: body {body}, read {read:?}, answer {answer}: {got:?}\n{}",
                            gateway.log()
                        );
                        slowest = slowest.max(got.elapsed);
                    }
                }
            }
            drop(gateway);
            drop(responder);
            let counted = Counters::read().unwrap().since(&before);
            eprintln!("{name}: slowest {slowest:?}, {:?}", counted.nonzero().collect::<Vec<_>>());
            assert_eq!(counted.of("TCPAbortOnClose"), 0, "{name}");
        }
    });
}

#[test]
fn behind_nginx() {
    behind(&[
        ("nginx buffered", |address| nginx_fcgi(address, options(true, true, false))),
        ("nginx unbuffered", |address| nginx_fcgi(address, options(false, true, false))),
        ("nginx request unbuffered", |address| nginx_fcgi(address, options(true, false, false))),
        ("nginx buffered keep_conn", |address| nginx_fcgi(address, options(true, true, true))),
        ("nginx unbuffered keep_conn", |address| nginx_fcgi(address, options(false, false, true))),
    ]);
}

#[test]
fn behind_httpd() {
    behind(&[
        ("httpd", |address| httpd_fcgi(address, options(true, true, false))),
        ("httpd flushing", |address| httpd_fcgi(address, options(false, true, false))),
        ("httpd keep", |address| httpd_fcgi(address, options(true, true, true))),
    ]);
}

#[test]
fn behind_lighttpd() {
    behind(&[
        ("lighttpd buffered", |address| lighttpd_fcgi(address, options(true, true, false))),
        ("lighttpd streaming", |address| lighttpd_fcgi(address, options(false, false, false))),
    ]);
}

#[test]
fn behind_cgi_fcgi() {
    sandboxed(|| {
        let responder = Running::start(Config::default(), sized);
        for body in SIZES {
            for read in [Some(0), Some(body / 2), None] {
                let read = read.unwrap_or(usize::MAX).to_string();
                let variables = [
                    ("REQUEST_METHOD", "POST"),
                    ("HTTP_X_READ", read.as_str()),
                    ("HTTP_X_ANSWER", "67000"),
                    ("SCRIPT_FILENAME", "/script"),
                ];
                let got = cgi_fcgi(responder.port(), &variables, &vec![b'b'; body]);
                let Some((_, output)) = available(got) else { return };
                let answered = output.iter().filter(|byte| **byte == b'r').count();
                assert!(answered >= 67_000, "body {body}, read {read}: {answered} bytes");
            }
        }
    });
}
