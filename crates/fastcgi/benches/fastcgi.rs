//! Requests a second for a trivial response behind the same nginx: this responder, php-fpm, uWSGI and Go's
//! `net/http/fcgi`, with as many workers each, in turns within one run.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::thread;

use linger_fastcgi::responder::Config;
use linger_fastcgi::{Address, Request, Responder, Response};
use linger_testing::servers::{
    GatewayOptions, RunningServer, Unavailable, go_program, nginx_fcgi, php_fpm, program, uwsgi,
};

const OURS: &str = "linger-fastcgi";
const WORKERS: u32 = 4;
const ROUNDS: usize = 5;
const REQUESTS: usize = 8_000;
/// Requests at once: more than there are workers, or as many where connections are kept. An application that gives a
/// kept connection a worker of its own, as php-fpm does, never gets to the others.
fn at_once(keep_conn: bool) -> u32 {
    if keep_conn { WORKERS } else { 16 }
}

const PHP: &str = "<?php header('Content-Type: text/plain'); echo 'hello';";
const PYTHON: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'hello']
";
const GO: &str = r#"package main

import (
	"net"
	"net/http"
	"net/http/fcgi"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	fcgi.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Write([]byte("hello"))
	}))
}
"#;

struct Contender {
    name: &'static str,
    gateway: SocketAddr,
    rates: Vec<f64>,
    _peers: Vec<RunningServer>,
}

fn contender(
    name: &'static str,
    keep_conn: bool,
    application: Result<RunningServer, Unavailable>,
) -> Option<Contender> {
    let application = match application {
        Ok(application) => application,
        Err(error) => {
            eprintln!("skipped: {name}: {error}");
            return None;
        }
    };
    let scripts = application.path("").display().to_string();
    behind(name, keep_conn, application.address, Some(scripts), vec![application])
}

fn behind(
    name: &'static str,
    keep_conn: bool,
    application: SocketAddr,
    scripts: Option<String>,
    mut peers: Vec<RunningServer>,
) -> Option<Contender> {
    let mut options = GatewayOptions::default();
    (options.keep_conn, options.scripts) = (keep_conn, scripts);
    match nginx_fcgi(application, options) {
        Ok(nginx) => {
            let gateway = nginx.address;
            peers.insert(0, nginx);
            Some(Contender { name, gateway, rates: Vec::new(), _peers: peers })
        }
        Err(error) => {
            eprintln!("skipped: {name}: {error}");
            None
        }
    }
}

/// Starts this project's responder in the background; it ends with the process.
fn ours() -> io::Result<SocketAddr> {
    let mut config = Config::default();
    config.connections = WORKERS as usize;
    let responder = Responder::bind(&"127.0.0.1:0".parse().map_err(io::Error::other)?, config)?;
    let Address::Tcp(address) = responder.local_address()? else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    thread::spawn(move || {
        responder.run(|_: &mut Request, response: &mut Response| {
            response.write_all(b"Content-Type: text/plain\r\n\r\nhello")?;
            Ok(0)
        })
    });
    address.parse().map_err(io::Error::other)
}

/// Requests a second, as ab sees them; all of them must succeed.
fn rate(gateway: SocketAddr, at_once: u32) -> Result<f64, String> {
    let ab = program("ab", "apache2-utils").map_err(|error| error.to_string())?;
    let output = Command::new(ab)
        .args(["-q", "-k", "-n", &REQUESTS.to_string(), "-c", &at_once.to_string()])
        .arg(format!("http://{gateway}/script.php"))
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |label: &str| {
        let line = text.lines().find(|line| line.starts_with(label))?;
        line[label.len()..].split_whitespace().next()?.parse::<f64>().ok()
    };
    let failed = number("Failed requests:").unwrap_or(1.0) + number("Non-2xx responses:").unwrap_or(0.0);
    if failed > 0.0 {
        return Err(format!("{failed} requests failed"));
    }
    number("Requests per second:")
        .ok_or_else(|| format!("ab said: {}", String::from_utf8_lossy(&output.stderr)))
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn main() {
    for keep_conn in [false, true] {
        let Ok(address) = ours() else {
            eprintln!("skipped: loopback has no port");
            return;
        };
        let mut contenders: Vec<Contender> = [
            behind(OURS, keep_conn, address, None, Vec::new()),
            contender("php-fpm", keep_conn, php_fpm(WORKERS, PHP)),
            contender("uWSGI", keep_conn, uwsgi("fastcgi-socket", WORKERS, PYTHON)),
            contender("Go net/http/fcgi", keep_conn, go_program("go-fcgi", GO)),
        ]
        .into_iter()
        .flatten()
        .collect();
        for round in 0..=ROUNDS {
            contenders.retain_mut(|contender| match rate(contender.gateway, at_once(keep_conn)) {
                Ok(rate) => {
                    // The first round warms up.
                    if round > 0 {
                        contender.rates.push(rate);
                    }
                    true
                }
                Err(error) => {
                    eprintln!("skipped: {}: {error}", contender.name);
                    false
                }
            });
        }
        let keep = if keep_conn { "on" } else { "off" };
        println!(
            "fastcgi_keep_conn {keep}, {WORKERS} workers each, {} requests at once, median of {ROUNDS} rounds of {REQUESTS}:",
            at_once(keep_conn)
        );
        let Some(own) = contenders.first_mut().map(|contender| median(&mut contender.rates)) else {
            continue;
        };
        for contender in &mut contenders {
            let rate = median(&mut contender.rates);
            println!(
                "  {:<17}{rate:>8.0} requests/s   linger-fastcgi is {:.2} x",
                contender.name,
                own / rate
            );
        }
    }
}
