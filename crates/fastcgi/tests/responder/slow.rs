//! Gateways that are never silent, and send so slowly that they hold what others need.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::common::Running;
use crate::idle::{request, response, told};
use linger_fastcgi::record::{RecordType, Role, push, push_begin};
use linger_fastcgi::responder::Config;
use linger_fastcgi::{Request, Response};

const EVER: Duration = Duration::from_secs(3600);
const BRIEF: Duration = Duration::from_millis(100);

fn config(multiplex: bool) -> Config {
    let mut config = Config::default();
    (config.io_timeout, config.keep_idle, config.multiplex) = (EVER, EVER, multiplex);
    (config.params_within, config.record_within, config.body_within) = (None, None, None);
    config.stop_within = Some(Duration::from_millis(50));
    config
}

/// Sends `drop` again and again, until the server has ended the connection.
fn drip_until_the_end(stream: &mut TcpStream, drop: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut got = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => return got,
            Ok(read) => got.extend_from_slice(&bytes[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                // The server may have ended it meanwhile.
                let _ = stream.write_all(drop);
            }
            Err(error) => panic!("{error}: {got:?}"),
        }
    }
}

#[test]
fn a_record_and_parameters_that_drip_end_the_connection() {
    for (multiplex, of_record) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut config = config(multiplex);
        if of_record {
            config.record_within = Some(BRIEF);
        } else {
            config.params_within = Some(BRIEF);
        }
        let told = told(&mut config);
        let running = Running::start(config, |_: &mut Request, _: &mut Response| -> io::Result<u32> {
            unreachable!("no request is complete")
        });
        let mut stream = TcpStream::connect(running.port()).unwrap();
        let mut begin = Vec::new();
        push_begin(&mut begin, 1, Role::Responder, true);
        let mut drop = vec![0];
        if of_record {
            // The header of a record of 65,535 bytes.
            begin.extend_from_slice(&[1, 4, 0, 1, 0xff, 0xff, 0, 0]);
        } else {
            // A pair of no name and no value is two bytes.
            drop.clear();
            push(&mut drop, RecordType::Params, 1, &[0, 0]);
        }
        stream.write_all(&begin).unwrap();
        drip_until_the_end(&mut stream, &drop);
        assert_eq!(told.recv().unwrap(), "TooSlow");
    }
}

#[test]
fn a_body_that_drips_fails_the_read_and_can_be_answered() {
    for multiplex in [false, true] {
        let mut config = config(multiplex);
        config.body_within = Some(BRIEF);
        // After the answer, what still comes is read for no longer.
        (config.policy.grace, config.policy.idle, config.policy.total) = (BRIEF, BRIEF, BRIEF);
        let (tell, read) = channel();
        let running = Running::start(config, move |request: &mut Request, response: &mut Response| {
            let read = io::copy(request, &mut io::sink());
            tell.send(read.map_err(|error| error.kind())).unwrap();
            write!(response, "Status: 408\r\n\r\ntoo slow")?;
            Ok(0)
        });
        let mut stream = TcpStream::connect(running.port()).unwrap();
        let (whole, mut drop) = (request(false), Vec::new());
        push(&mut drop, RecordType::Stdin, 1, b"b");
        stream.write_all(&whole[..whole.len() - 8]).unwrap();
        let got = drip_until_the_end(&mut stream, &drop);
        assert!(got.windows(8).any(|eight| eight == b"too slow"), "{got:?}");
        assert_eq!(read.recv().unwrap(), Err(io::ErrorKind::TimedOut));
    }
}

#[test]
fn who_drips_without_reading_is_not_waited_for() {
    for multiplex in [false, true] {
        let mut config = config(multiplex);
        config.io_timeout = BRIEF;
        let (tell, wrote) = channel();
        let running = Running::start(config, move |_: &mut Request, response: &mut Response| {
            let wrote = io::copy(&mut io::repeat(b'r'), response);
            tell.send(wrote.as_ref().map_err(io::Error::kind).copied()).unwrap();
            wrote.map(|_| 0)
        });
        let mut stream = TcpStream::connect(running.port()).unwrap();
        stream.write_all(&request(true)).unwrap();
        let mut junk = Vec::new();
        push(&mut junk, RecordType::from(99), 7, b"junk");
        loop {
            // The server may have ended it meanwhile.
            let _ = stream.write_all(&junk);
            match wrote.recv_timeout(Duration::from_millis(5)) {
                Ok(wrote) => break assert_eq!(wrote, Err(io::ErrorKind::TimedOut), "multiplex {multiplex}"),
                Err(_) => continue,
            }
        }
    }
}

#[test]
fn who_is_only_slow_is_served() {
    for multiplex in [false, true] {
        let mut config = config(multiplex);
        (config.params_within, config.record_within, config.body_within) =
            (Some(EVER), Some(EVER), Some(EVER));
        let running = Running::start(config, |request: &mut Request, response: &mut Response| {
            write!(response, "Content-Type: text/plain\r\n\r\n")?;
            io::copy(request, response)?;
            Ok(0)
        });
        let mut stream = TcpStream::connect(running.port()).unwrap();
        stream.set_nodelay(true).unwrap();
        let whole = request(false);
        let mut bytes = whole[..whole.len() - 8].to_vec();
        push(&mut bytes, RecordType::Stdin, 1, b"slow");
        bytes.extend_from_slice(&whole[whole.len() - 8..]);
        bytes.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap());
        assert!(response(&mut stream).unwrap().ends_with(b"slow"), "multiplex {multiplex}");
    }
}
