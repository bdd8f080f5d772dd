//! `HOST:PORT`, which means the same for every verb: a name, an IPv4 address, or an IPv6 address in brackets.
//!
//! Where a verb listens, `:PORT` and `*:PORT` are all addresses of the host, and port 0 is any that is free.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use linger_fastcgi::Address as FastCgi;
use linger_untrusted::Untrusted;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// The host, an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl HostPort {
    /// The first address that the host has.
    pub(crate) fn resolve(&self) -> io::Result<SocketAddr> {
        let mut found = (self.host.as_str(), self.port).to_socket_addrs()?;
        found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// An address to connect to.
pub(crate) fn connect_to(text: &str) -> Result<HostPort, String> {
    const FORM: &str = "write HOST:PORT, as server:8080, 192.0.2.7:8080 or [2001:db8::7]:8080";
    let address = parse(text).map_err(|why| format!("{why}; {FORM}"))?;
    if address.port == 0 {
        return Err(format!("0 is no port, 1 to 65535; {FORM}"));
    }
    Ok(address)
}

/// An address to listen on.
pub(crate) fn listen_on(text: &str) -> Result<HostPort, String> {
    const FORM: &str = "write HOST:PORT, as 127.0.0.1:8080, [::1]:8080, or :8080 for all addresses";
    let everywhere = text.strip_prefix('*').unwrap_or(text).strip_prefix(':');
    let address = match everywhere {
        // `::1` begins with a colon, too.
        Some(number) if !number.contains(':') => {
            number_of(number).map(|port| HostPort { host: Ipv6Addr::UNSPECIFIED.to_string(), port })
        }
        _ => parse(text),
    };
    address.map_err(|why| format!("{why}; {FORM}"))
}

/// Where a FastCGI application listens: an address as [`connect_to`] reads it, or the path of a unix socket.
pub(crate) fn fastcgi(text: &str) -> Result<FastCgi, String> {
    match unix(text) {
        Some(path) => path.map(FastCgi::Unix),
        None => match connect_to(text) {
            Ok(address) => Ok(FastCgi::Tcp(address.to_string())),
            Err(why) => Err(format!("{why}, or unix:/PATH")),
        },
    }
}

/// What `--listen` means, for every verb that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenOn {
    Tcp(HostPort),
    Unix(PathBuf),
    /// The socket that the parent left as fd 0.
    Inherited,
}

impl ListenOn {
    /// The address, for a verb that speaks over TCP alone.
    pub(crate) fn tcp(&self) -> Result<&HostPort, &'static str> {
        match self {
            Self::Tcp(address) => Ok(address),
            Self::Unix(_) | Self::Inherited => Err("this verb listens on TCP alone; write HOST:PORT"),
        }
    }
}

impl FromStr for ListenOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match unix(text) {
            _ if text == "inherited" => Ok(Self::Inherited),
            Some(path) => path.map(Self::Unix),
            None => listen_on(text).map(Self::Tcp),
        }
    }
}

/// The path, if an address is that of a unix socket.
fn unix(text: &str) -> Option<Result<PathBuf, String>> {
    let path = text.strip_prefix("unix:").or_else(|| text.starts_with('/').then_some(text))?;
    Some(if path.is_empty() {
        Err("the socket's path is missing; write unix:/PATH".to_owned())
    } else {
        Ok(PathBuf::from(path))
    })
}

/// The number of a port that something can listen on.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    number_of(text)
        .and_then(|port| if port == 0 { Err("0 is no port, 1 to 65535".to_owned()) } else { Ok(port) })
}

fn number_of(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| format!("`{}` is no port, 1 to 65535", Untrusted::from(text).terminal()))
}

fn parse(text: &str) -> Result<HostPort, String> {
    if !text.contains(':') {
        return Err("has no port".to_owned());
    }
    let (host, number) = host_and_rest(text.as_bytes(), "PORT")?;
    // The text was valid UTF-8, so what follows the colon in it is valid, too.
    let port = number_of(&String::from_utf8_lossy(number))?;
    Ok(HostPort { host: host.to_owned(), port })
}

/// Splits `text` into the host and what follows the host's colon. `rest` names the latter, for error messages.
pub(crate) fn host_and_rest<'a>(text: &'a [u8], rest: &str) -> Result<(&'a str, &'a [u8]), String> {
    if let Some(inside) = text.strip_prefix(b"[") {
        let end = inside.iter().position(|byte| *byte == b']').ok_or("no `]` after the address")?;
        let after = inside[end + 1..].strip_prefix(b":").ok_or("a `:` has to follow the address")?;
        return Ok((host(&inside[..end], rest)?, after));
    }
    let last = text.iter().rposition(|byte| *byte == b':').map_or(text, |last| &text[..last]);
    for bare in [last, text] {
        let bare = std::str::from_utf8(bare).unwrap_or_default();
        if bare.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("an IPv6 address goes in brackets, as [{bare}]:{rest}"));
        }
    }
    let colon = text.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or_else(|| format!("has no `:`; write HOST:{rest}"))?;
    let (name, after) = (&text[..colon], &text[colon + 1..]);
    match (name, after) {
        ([letter], [b'\\', ..]) if letter.is_ascii_alphabetic() => {
            Err(format!("a path with a drive is no place on another machine; write HOST:{rest}"))
        }
        (_, [b'/', b'/', ..]) => {
            let scheme = String::from_utf8_lossy(name);
            Err(format!("an address is no URL; leave out `{}://`", Untrusted::from(&*scheme).terminal()))
        }
        _ => Ok((host(name, rest)?, after)),
    }
}

fn host<'a>(name: &'a [u8], rest: &str) -> Result<&'a str, String> {
    let host = std::str::from_utf8(name).ok().filter(|host| !host.is_empty());
    let host = host.ok_or("has no host before the `:`")?;
    if let Some((_, host)) = host.rsplit_once('@') {
        return Err(format!("an address has no user; write {host}:{rest}"));
    }
    if host == "*" {
        return Err("`*` is no host".to_owned());
    }
    if host.contains('/') {
        return Err(format!("a host has no `/` in its name; write HOST:{rest}"));
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> HostPort {
        HostPort { host: host.to_owned(), port }
    }

    #[test]
    fn an_address_means_the_same_to_whoever_connects_and_listens() {
        for (text, host, port) in [
            ("server:8080", "server", 8080),
            ("192.0.2.7:80", "192.0.2.7", 80),
            ("[2001:db8::7]:8080", "2001:db8::7", 8080),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
            ("localhost:65535", "localhost", 65535),
        ] {
            assert_eq!(connect_to(text), Ok(at(host, port)), "{text}");
            assert_eq!(listen_on(text), Ok(at(host, port)), "{text}");
            assert_eq!(at(host, port).to_string(), text);
            assert_eq!(fastcgi(text), Ok(FastCgi::Tcp(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_write() {
        for (text, told) in [
            ("", "has no port"),
            ("server", "has no port"),
            ("8080", "has no port"),
            ("::1", "as [::1]:PORT"),
            ("::1:8080", "as [::1]:PORT"),
            ("[::1]", "a `:` has to follow"),
            ("[::1]8080", "a `:` has to follow"),
            ("[::1:8080", "no `]`"),
            ("server:", "`` is no port"),
            ("server:http", "`http` is no port"),
            ("server:+80", "`+80` is no port"),
            ("server:65536", "`65536` is no port, 1 to 65535"),
            ("server:8080:x", "`8080:x` is no port"),
            ("server:8080/x", "`8080/x` is no port"),
            ("http://server:8080", "an address is no URL"),
            ("user@server:80", "an address has no user"),
        ] {
            for refused in [connect_to(text).unwrap_err(), listen_on(text).unwrap_err()] {
                assert!(
                    refused.contains(told) && refused.contains("write HOST:PORT, as"),
                    "{text}: {refused}"
                );
            }
            assert!(fastcgi(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_addresses_and_any_port_are_for_those_who_listen() {
        for text in [":8080", "*:8080", "[::]:8080"] {
            assert_eq!(listen_on(text), Ok(at("::", 8080)), "{text}");
        }
        assert_eq!(listen_on("127.0.0.1:0"), Ok(at("127.0.0.1", 0)));
        for text in [":8080", "*:8080", "127.0.0.1:0"] {
            assert!(connect_to(text).is_err(), "{text}");
        }
        assert_eq!(":9000".parse(), Ok(ListenOn::Tcp(at("::", 9000))));
        assert!(fastcgi(":9000").is_err());
    }

    #[test]
    fn a_path_is_an_address_too() {
        for text in ["unix:/run/app.sock", "/run/app.sock"] {
            assert_eq!(fastcgi(text), Ok(FastCgi::Unix("/run/app.sock".into())));
            assert_eq!(text.parse(), Ok(ListenOn::Unix("/run/app.sock".into())));
        }
        assert_eq!("unix:app.sock".parse(), Ok(ListenOn::Unix("app.sock".into())));
        assert!(fastcgi("unix:").is_err() && "unix:".parse::<ListenOn>().is_err());
    }

    #[test]
    fn inherited_is_a_word_and_only_to_listen_on() {
        assert_eq!("inherited".parse(), Ok(ListenOn::Inherited));
        assert_eq!("inherited:1".parse(), Ok(ListenOn::Tcp(at("inherited", 1))));
        assert!("inherit".parse::<ListenOn>().is_err() && listen_on("inherited").is_err());
        assert!(fastcgi("inherited").is_err());
    }

    #[test]
    fn a_verb_over_tcp_takes_no_other_socket() {
        let tcp = |text: &str| text.parse::<ListenOn>().unwrap().tcp().cloned();
        assert_eq!(tcp("localhost:1"), Ok(at("localhost", 1)));
        assert!(tcp("/localhost:1").is_err() && tcp("inherited").is_err());
    }
}
