//! An HTTP proxy between the probe and the server: asked in the absolute form for `http://`, and with CONNECT for `https://`
//! (RFC 9112 section 3.2.2, RFC 9110 section 9.3.6).
//!
//! The connection is the proxy's then, and so is its end.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::config::ProbeConfig;
use crate::request::HeaderField;
use crate::route::instead;
use crate::target::{Scheme, Target};
use crate::wire::ClientStream;

/// The longest head of a proxy's answer to CONNECT, in bytes.
const MOST_HEAD: usize = 16 << 10;

/// An HTTP proxy: `http://HOST:PORT`, or `HOST:PORT` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write http://HOST:PORT".to_owned();
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(format!("only proxies that speak HTTP are known, not {scheme}")),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(
                "a name and a password do not belong in it: -H 'Proxy-Authorization: Basic ...'".into()
            );
        }
        // The port is not left to chance: curl takes 1080, others 80, and squid listens at 3128.
        let Some((_, port)) = rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) else {
            return Err(form());
        };
        if port.parse::<u16>().is_err() {
            return Err("the port is no number up to 65535".into());
        }
        let target: Target = format!("http://{rest}").parse().map_err(|_| form())?;
        if target.path != "/" || target.unix.is_some() {
            return Err(form());
        }
        Ok(Self { host: target.host, port: target.port })
    }
}

/// `http://HOST:PORT`
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http://")?;
        f.write_str(&authority(&self.host, self.port))
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A field that is for the proxy and not for the server behind it.
pub(crate) fn is_for_proxy(field: &HeaderField) -> bool {
    field.name.eq_ignore_ascii_case("proxy-authorization")
}

/// What is sent to a proxy on each connection, so that the rest goes to the server.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    request: Vec<u8>,
}

impl Tunnel {
    /// `None` where no tunnel is needed: without a proxy, and for `http://`.
    pub(crate) fn new(target: &Target, config: &ProbeConfig) -> Option<Self> {
        config.proxy.as_ref().filter(|_| target.scheme == Scheme::Https)?;
        let (host, port) = instead(&config.connect_to, &target.host, target.port);
        let server = authority(&host, port);
        let mut request =
            format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: {}\r\n", config.user_agent);
        for field in config.headers.iter().filter(|field| is_for_proxy(field)) {
            request.push_str(&format!("{}: {}\r\n", field.name, field.value));
        }
        request.push_str("\r\n");
        Some(Self { request: request.into_bytes() })
    }

    /// Asks for the tunnel. Returns how many bytes were sent and read.
    pub(crate) fn open(&self, wire: &mut ClientStream, patience: Duration) -> io::Result<(usize, usize)> {
        let until = Instant::now() + patience;
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "the proxy does not answer CONNECT");
        let mut sent = 0;
        while sent < self.request.len() {
            if wire.wait(PollFlags::OUT, until)?.is_empty() {
                return Err(silent());
            }
            sent += transient(wire.write(&self.request[sent..]))?.unwrap_or(0);
        }
        // A byte at a time: what comes behind the head is the server's.
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            if wire.wait(PollFlags::IN, until)?.is_empty() {
                return Err(silent());
            }
            match transient(wire.read(&mut byte))? {
                Some(0) => return Err(no_tunnel("ended the connection before it answered CONNECT")),
                Some(_) => head.push(byte[0]),
                None => {}
            }
            if head.len() > MOST_HEAD {
                return Err(no_tunnel("answers CONNECT with a head that does not end"));
            }
        }
        match status(&head) {
            Some(200..300) => Ok((sent, head.len())),
            Some(status) => Err(no_tunnel(&format!("answers {status} to CONNECT"))),
            None => Err(no_tunnel("answers CONNECT with something that is not HTTP/1")),
        }
    }
}

fn transient<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        result => result.map(Some),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let mut fields = vec![httparse::EMPTY_HEADER; MOST_HEAD / 4];
    let mut response = httparse::Response::new(&mut fields);
    response.parse(head).ok()?;
    response.code
}

/// The proxy makes no tunnel.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {0}")]
struct NoTunnel(String);

fn no_tunnel(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, NoTunnel(what.to_owned()))
}

/// Whether a proxy has refused to make a tunnel.
pub(crate) fn is_no_tunnel(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NoTunnel>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_port_and_speaks_http() {
        for (text, back) in [
            ("http://127.0.0.1:3128", "http://127.0.0.1:3128"),
            ("http://proxy:3128/", "http://proxy:3128"),
            ("proxy:3128", "http://proxy:3128"),
            ("http://[::1]:8888", "http://[::1]:8888"),
        ] {
            assert_eq!(text.parse::<Proxy>().unwrap().to_string(), back, "{text}");
        }
        for text in [
            "http://proxy",
            "http://[::1]",
            "https://proxy:3128",
            "socks5://proxy:1080",
            "http://a:b@proxy:3128",
            "http://proxy:3128/x",
            "http://proxy:99999",
            "http://unix:/run/x:",
            "",
        ] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_tunnel_is_asked_for_where_there_is_tls_alone() {
        let mut config = ProbeConfig {
            proxy: Some("p:1".parse().unwrap()),
            headers: vec!["Proxy-Authorization: x".parse().unwrap(), "Cookie: y".parse().unwrap()],
            ..ProbeConfig::default()
        };
        let ask = |url: &str, config: &ProbeConfig| {
            Tunnel::new(&url.parse().unwrap(), config)
                .map(|tunnel| String::from_utf8(tunnel.request).unwrap())
        };
        assert_eq!(ask("http://s/", &config), None);
        let asked = ask("https://s/", &config).unwrap();
        assert!(asked.starts_with("CONNECT s:443 HTTP/1.1\r\nHost: s:443\r\n"), "{asked}");
        assert!(asked.ends_with("Proxy-Authorization: x\r\n\r\n") && !asked.contains("Cookie"), "{asked}");
        assert!(ask("https://[::1]:8/", &config).unwrap().starts_with("CONNECT [::1]:8 HTTP/1.1"));
        config.connect_to = vec!["s:443:t:444".parse().unwrap()];
        assert!(ask("https://s/", &config).unwrap().starts_with("CONNECT t:444 "));
        config.proxy = None;
        assert_eq!(ask("https://s/", &config), None);
    }
}
