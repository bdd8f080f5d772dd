//! A tunnel through an HTTP proxy to a server that speaks TLS (CONNECT, RFC 9110 section 9.3.6).

use std::io;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::config::ProbeConfig;
use crate::direction::instead;
use crate::proxy::{authority, is_for_proxy};
use crate::target::{Scheme, Target};
use crate::wire::ClientStream;

/// The longest head of a proxy's answer to CONNECT, in bytes.
const MOST_HEAD: usize = 16 << 10;

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
