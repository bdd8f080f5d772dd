//! The text that a user types for a place that is shared: `HOST:PATH`, `HOST:PORT`, `HOST:PORT:PATH`, `unix:/SOCKET:PATH`.
//!
//! `HOST:PORT` means what it means for every other verb, so a number after the host is a port and never a file's name.
//! An absolute path after a host has no meaning, so `unix:/` begins a socket's path, and `unix:name` is a name on a host `unix`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use linger_transfer::{Destination, Error, PORT};
use linger_untrusted::Untrusted;

use crate::typed::host_and_rest;

/// A server, and the destination there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// The host, or `unix:` and the socket's path.
    pub(crate) host: String,
    pub(crate) at: ServerPlace,
    pub(crate) place: Destination,
}

/// Where the server of a host listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerPlace {
    Port(u16),
    Socket(PathBuf),
}

impl Remote {
    /// Reads what was typed. `port` is the value of the option `--port`, if it was given.
    ///
    /// # Errors
    /// Returns [`Error::Usage`], which says what to write instead.
    pub(crate) fn parse(text: &[u8], port: Option<u16>) -> Result<Self, Error> {
        let usage = |why: String| Error::Usage(format!("{}: {why}", Untrusted::from(text).terminal()).into());
        if text.starts_with(SOCKET) {
            return socket(text, port).map_err(usage);
        }
        let (host, rest) = host_and_rest(text, "PATH").map_err(usage)?;
        let (own_port, path) = split_port(host, rest).map_err(usage)?;
        let port = match (own_port, port) {
            (Some(own), Some(other)) if own != other => {
                return Err(usage(format!("its port is {own}, and --port says {other}: leave one out")));
            }
            (own, other) => own.or(other).unwrap_or(PORT),
        };
        let place = destination(host, path).map_err(usage)?;
        Ok(Self { host: host.to_owned(), at: ServerPlace::Port(port), place })
    }

    /// The address of a sink or source there, as it is typed.
    pub(crate) fn typed(&self, name: &str) -> String {
        let host = if self.host.contains(':') && matches!(self.at, ServerPlace::Port(_)) {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match self.at {
            ServerPlace::Port(PORT) | ServerPlace::Socket(_) => format!("{host}:@{name}"),
            ServerPlace::Port(port) => format!("{host}:{port}:@{name}"),
        }
    }
}

/// What the address of a socket in the file system begins with.
const SOCKET: &[u8] = b"unix:/";

/// Reads `unix:/SOCKET`, which is the directory that is shared, or `unix:/SOCKET:PATH`.
fn socket(text: &[u8], port: Option<u16>) -> Result<Remote, String> {
    if port.is_some() {
        return Err("a unix socket has no port: leave out --port".to_owned());
    }
    let after = &text[SOCKET.len() - 1..];
    let end = after.iter().position(|byte| *byte == b':').unwrap_or(after.len());
    let (socket, path) = (&after[..end], after.get(end + 1..).unwrap_or_default());
    let host = format!("unix:{}", Untrusted::from(socket).terminal());
    let place = destination(&host, path)?;
    Ok(Remote { host, at: ServerPlace::Socket(OsStr::from_bytes(socket).into()), place })
}

/// The destination that a path means at a host.
fn destination(host: &str, path: &[u8]) -> Result<Destination, String> {
    let path = if path == b"/" { b"" } else { path };
    let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    if first == b"~" || (first.first() == Some(&b'~') && first.len() < path.len()) {
        let rest = Untrusted::from(&path[(first.len() + 1).min(path.len())..]);
        let rest = rest.terminal();
        let told = format!(
            "paths are below the directory that is shared, which has no `~`; write {host}:{rest}, or {host}:./~ for that name"
        );
        return Err(told);
    }
    Destination::typed(path).map_err(|why| why.to_string())
}

/// The port, if what follows the host begins with one, and the path.
fn split_port<'a>(host: &str, rest: &'a [u8]) -> Result<(Option<u16>, &'a [u8]), String> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, after) = rest.split_at(digits);
    let number = std::str::from_utf8(number).unwrap_or_default();
    let path = match after {
        _ if number.is_empty() => return Ok((None, rest)),
        [] => after,
        [b':', path @ ..] => path,
        [b'/', path @ ..] => {
            let path = Untrusted::from(path);
            let path = path.terminal();
            return Err(format!(
                "write {host}:{number}:{path} for a port, {host}:./{number}/{path} for a directory"
            ));
        }
        // A name that only begins with digits.
        _ => return Ok((None, rest)),
    };
    match number.parse() {
        Ok(port @ 1..) => Ok((Some(port), path)),
        _ => Err(format!("{number} is no port, 1 to 65535; write {host}:./{number} for a file of that name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linger_transfer::RelPath;

    fn path(path: &str, into: bool) -> Destination {
        Destination::Path { path: RelPath::typed(path.as_bytes()).unwrap(), into }
    }

    #[test]
    fn what_people_type_is_understood() {
        for (text, host, port, place) in [
            ("host:", "host", PORT, path("", true)),
            ("host:.", "host", PORT, path("", true)),
            ("host:a/b", "host", PORT, path("a/b", false)),
            ("host:a/", "host", PORT, path("a", true)),
            ("host:/", "host", PORT, path("", true)),
            ("host:./~", "host", PORT, path("~", false)),
            ("host:~lock", "host", PORT, path("~lock", false)),
            ("host:a~", "host", PORT, path("a~", false)),
            ("host:a:b", "host", PORT, path("a:b", false)),
            ("host:@print", "host", PORT, Destination::Named("print".into())),
            ("host:./@print", "host", PORT, path("@print", false)),
            ("host:8000", "host", 8000, path("", true)),
            ("host:8000:", "host", 8000, path("", true)),
            ("host:8000:dir/name", "host", 8000, path("dir/name", false)),
            ("host:8000:dir/", "host", 8000, path("dir", true)),
            ("host:8000:9000", "host", 8000, path("9000", false)),
            ("host:8000:@print", "host", 8000, Destination::Named("print".into())),
            ("host:65535", "host", 65535, path("", true)),
            ("host:./8000", "host", PORT, path("8000", false)),
            ("host:./8000/x", "host", PORT, path("8000/x", false)),
            ("host:2024-01-01.log", "host", PORT, path("2024-01-01.log", false)),
            ("host:x8000", "host", PORT, path("x8000", false)),
            ("127.0.0.1:8000", "127.0.0.1", 8000, path("", true)),
            ("[::1]:", "::1", PORT, path("", true)),
            ("[::1]:a", "::1", PORT, path("a", false)),
            ("[::1]:8000", "::1", 8000, path("", true)),
            ("[::1]:8000:a", "::1", 8000, path("a", false)),
            ("[fe80::1%eth0]:a", "fe80::1%eth0", PORT, path("a", false)),
            ("c:x", "c", PORT, path("x", false)),
            ("unix:x", "unix", PORT, path("x", false)),
            ("unix:8000:x", "unix", 8000, path("x", false)),
        ] {
            let address =
                Remote::parse(text.as_bytes(), None).unwrap_or_else(|error| panic!("{text}: {error}"));
            let at = ServerPlace::Port(port);
            assert_eq!((address.host.as_str(), address.at, address.place), (host, at, place), "{text}");
        }
    }

    #[test]
    fn a_socket_is_a_server_too() {
        for (text, socket, place) in [
            ("unix:/run/s", "/run/s", path("", true)),
            ("unix:/run/s:", "/run/s", path("", true)),
            ("unix:/run/s:a/b", "/run/s", path("a/b", false)),
            ("unix:/run/s:a:b", "/run/s", path("a:b", false)),
            ("unix:/run/s:8000", "/run/s", path("8000", false)),
            ("unix:/run/s:dir/", "/run/s", path("dir", true)),
            ("unix:/run/s:@print", "/run/s", Destination::Named("print".into())),
        ] {
            let remote =
                Remote::parse(text.as_bytes(), None).unwrap_or_else(|error| panic!("{text}: {error}"));
            let at = ServerPlace::Socket(socket.into());
            assert_eq!(
                (remote.host, remote.at, remote.place),
                (format!("unix:{socket}"), at, place),
                "{text}"
            );
        }
        for (text, port, told) in [
            ("unix:/run/s:x", Some(8000), "leave out --port"),
            ("unix:/run/s:/etc/x", None, "is absolute"),
            ("unix:/run/s:~/x", None, "has no `~`; write unix:/run/s:x"),
            ("unix:/run/s:../x", None, "a component `.`, `..`"),
        ] {
            let error = Remote::parse(text.as_bytes(), port).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_sink_is_named_as_it_is_typed() {
        for (text, typed) in [
            ("host:@a", "host:@print"),
            ("host:7117:@a", "host:@print"),
            ("host:8000:@a", "host:8000:@print"),
            ("[::1]:@a", "[::1]:@print"),
            ("[::1]:8000:@a", "[::1]:8000:@print"),
            ("unix:/run/s:@a", "unix:/run/s:@print"),
        ] {
            let remote = Remote::parse(text.as_bytes(), None).unwrap();
            assert_eq!(remote.typed("print"), typed, "{text}");
            let again = Remote::parse(typed.as_bytes(), None).unwrap();
            assert_eq!((again.host, again.at), (remote.host, remote.at), "{text}");
        }
    }

    #[test]
    fn what_could_mean_something_else_is_refused_with_a_word() {
        for (text, told) in [
            ("host", "has no `:`; write HOST:PATH"),
            ("", "has no `:`"),
            (":a", "has no host"),
            ("[]:a", "has no host"),
            ("[::1:a", "no `]`"),
            ("[::1]", "a `:` has to follow"),
            ("[::1]a", "a `:` has to follow"),
            ("::1", "as [::1]:PATH"),
            ("::1:a", "as [::1]:PATH"),
            ("fe80::1:a", "as [fe80::1]:PATH"),
            ("host:/etc", "is absolute"),
            ("host:8000:/etc", "is absolute"),
            ("host:../x", "a component `.`, `..`"),
            ("host:~", "has no `~`; write host:, or host:./~ for that name"),
            ("host:~/a/b", "has no `~`; write host:a/b"),
            ("host:8000:~user/a", "has no `~`; write host:a"),
            ("host:0", "0 is no port"),
            ("host:65536", "65536 is no port, 1 to 65535; write host:./65536 for"),
            ("host:20240101", "write host:./20240101 for a file of that name"),
            ("host:99999:x", "99999 is no port"),
            ("host:8000/x", "write host:8000:x for a port, host:./8000/x for a directory"),
            ("host:8000/", "write host:8000: for a port"),
            ("user@host:x", "has no user; write host:PATH"),
            ("user@host:8000", "an address has no user"),
            ("[user@::1]:x", "an address has no user"),
            ("C:\\x", "a path with a drive"),
            ("linger://host/x", "is no URL; leave out `linger://`"),
            ("./host:x", "a host has no `/`"),
        ] {
            match Remote::parse(text.as_bytes(), None) {
                Err(Error::Usage(reason)) => assert!(reason.contains(told), "{text}: {reason}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_port_is_said_once() {
        for (text, option, port) in
            [("host:a", Some(9000), 9000), ("host:8000:a", Some(8000), 8000), ("host:8000", None, 8000)]
        {
            let at = Remote::parse(text.as_bytes(), option).unwrap().at;
            assert_eq!(at, ServerPlace::Port(port), "{text}");
        }
        let error = Remote::parse(b"host:8000:a", Some(9000)).unwrap_err();
        assert!(error.to_string().contains("its port is 8000, and --port says 9000"), "{error}");
    }
}
