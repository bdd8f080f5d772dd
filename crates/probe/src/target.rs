//! The target of a probe: a URL.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use socket2::SockAddr;

/// The protocol spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    /// HTTP/1.1 or HTTP/2 over TLS. Certificates are not checked, as nothing secret is sent.
    Https,
    /// FastCGI, responder role.
    Fcgi,
    /// Raw TCP: the user gives the bytes to send.
    Tcp,
}

/// Where to connect, and what to ask for.
///
/// `http://host[:port]/path`, `https://...`, `fcgi://host[:port]/path/of/the/script`, `tcp://host:port`. For a unix
/// socket write `unix:PATH:` in place of the host and the port: `http://unix:/run/app.sock:/path`,
/// `fcgi://unix:/run/php.sock:/srv/index.php`. `unix:/run/app.sock` alone is HTTP with the path `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// The protocol.
    pub scheme: Scheme,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path of a unix socket, in place of host and port.
    pub unix: Option<PathBuf>,
    /// Path and query, or the script's file name.
    pub path: String,
}

/// The target cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no target: {reason}")]
#[non_exhaustive]
pub struct InvalidTarget {
    /// The text that was to be a target.
    pub text: String,
    /// What is wrong with the text.
    pub reason: &'static str,
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let wrong = |reason| InvalidTarget { text: text.to_owned(), reason };
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("fcgi" | "fastcgi", rest)) => (Scheme::Fcgi, rest),
            Some(("tcp", rest)) => (Scheme::Tcp, rest),
            Some(_) => return Err(wrong("the schemes are http, https, fcgi and tcp")),
            None if text.starts_with("unix:") => (Scheme::Http, text),
            None => {
                return Err(wrong("write http://HOST:PORT/PATH, fcgi://HOST:PORT/SCRIPT or tcp://HOST:PORT"));
            }
        };
        if let Some(socket) = rest.strip_prefix("unix:") {
            let (socket, path) = socket.split_once(':').unwrap_or((socket, "/"));
            if socket.is_empty() {
                return Err(wrong("the socket's path is missing"));
            }
            let (unix, path) = (Some(socket.into()), path.to_owned());
            return Ok(Self { scheme, host: "localhost".into(), port: 0, unix, path });
        }
        // A fragment is for the reader alone (RFC 9110 section 4.2.5), and a space would end the request line's target.
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        if rest.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(wrong("spaces and control characters are written as %20 and the like"));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if authority.contains('@') {
            return Err(wrong("a name and a password do not belong in it: send a header"));
        }
        let default = match scheme {
            Scheme::Http => Some(80),
            Scheme::Https => Some(443),
            Scheme::Fcgi => Some(9000),
            Scheme::Tcp => None,
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| wrong("the port is no number up to 65535"))?))
            }
            _ => (authority, default),
        };
        let port = port.ok_or_else(|| wrong("tcp:// needs a port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        Ok(Self { scheme, host: host.to_owned(), port, unix: None, path })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Fcgi => "fcgi",
            Scheme::Tcp => "tcp",
        };
        match &self.unix {
            Some(path) => write!(f, "{scheme}://unix:{}:{}", path.display(), self.path),
            None if self.host.contains(':') => {
                write!(f, "{scheme}://[{}]:{}{}", self.host, self.port, self.path)
            }
            None => write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path),
        }
    }
}

impl Target {
    /// The host and the port as the Host header has them (RFC 9110 section 7.2): an IPv6 address in brackets and without its zone,
    /// which means something on this machine only (RFC 6874 section 4).
    pub(crate) fn authority(&self) -> String {
        let host = match self.host.split_once('%') {
            Some((address, _)) if address.contains(':') => format!("[{address}]"),
            _ if self.host.contains(':') => format!("[{}]", self.host),
            _ => self.host.clone(),
        };
        match (self.scheme, self.port) {
            (_, 0) | (Scheme::Http, 80) | (Scheme::Https, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Whether an address is a unix socket, loopback, or of a private network (RFC 1918, RFC 4193, link-local).
pub(crate) fn is_near(address: &SockAddr) -> bool {
    match address.as_socket().map(|address| address.ip().to_canonical()) {
        None => true,
        Some(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Some(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether an address is loopback or a unix socket, so that the server shares this machine's kernel. Other addresses of
/// this machine are not recognized.
pub(crate) fn is_here(address: &SockAddr) -> bool {
    address.as_socket().is_none_or(|address| address.ip().to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written() {
        for (text, back) in [
            ("http://localhost", "http://localhost:80/"),
            ("https://example.org/a?b=c", "https://example.org:443/a?b=c"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("fcgi://127.0.0.1:9000/srv/index.php", "fcgi://127.0.0.1:9000/srv/index.php"),
            ("fcgi://unix:/run/php.sock:/srv/index.php", "fcgi://unix:/run/php.sock:/srv/index.php"),
            ("unix:/run/app.sock", "http://unix:/run/app.sock:/"),
            ("tcp://localhost:25", "tcp://localhost:25/"),
            ("http://example.org?a=b/c", "http://example.org:80/?a=b/c"),
            ("http://example.org/x#y?z", "http://example.org:80/x"),
            ("http://example.org/a@b:9", "http://example.org:80/a@b:9"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), back, "{text}");
        }
        for text in [
            "localhost",
            "ftp://x",
            "http://",
            "tcp://localhost",
            "http://x:99999/",
            "unix:",
            "http://a:b@x/",
            "http://x/a b",
            "http://x/\r\nX: y",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_host_header_has_brackets_and_no_zone() {
        for (text, authority) in [
            ("http://[::1]/", "[::1]"),
            ("http://[::1]:8080/", "[::1]:8080"),
            ("https://[fe80::1%eth0]:443/", "[fe80::1]"),
            ("http://example.org:80/", "example.org"),
            ("https://example.org:80/", "example.org:80"),
            ("http://unix:/run/app.sock:/", "localhost"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().authority(), authority, "{text}");
        }
    }

    #[test]
    fn near_and_far_are_told_apart() {
        for (text, near) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("192.0.2.1", false),
            ("::1", true),
            ("2001:db8::1", false),
        ] {
            let address = SockAddr::from(std::net::SocketAddr::new(text.parse().unwrap(), 80));
            assert_eq!(is_near(&address), near, "{text}");
        }
    }
}
