//! What a person types for a place on another machine.

use crate::error::Error;
use crate::path::{BadPath, RelPath};

/// The port that is used if none is named.
pub const PORT: u16 = 7117;

/// A host, and what is meant there: `HOST:PATH`, `[ADDRESS]:PATH`, `HOST:@SINK`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remote {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What there.
    pub place: Destination,
}

/// What is meant at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination {
    /// A path below the shared directory.
    Path {
        /// The path.
        path: RelPath,
        /// It was typed with a final `/`, or is empty: inside this directory.
        into: bool,
    },
    /// A sink or source by name.
    Port(String),
}

impl Remote {
    /// Reads `HOST:PATH`; `port` is used for it.
    ///
    /// # Errors
    /// [`Error::Usage`] with what is missing.
    pub fn parse(text: &[u8], port: u16) -> Result<Self, Error> {
        let usage = |why: String| Error::Usage(format!("{}: {why}", crate::path::printable(text)).into());
        let (host, path) = if let Some(rest) = text.strip_prefix(b"[") {
            let end = rest
                .iter()
                .position(|byte| *byte == b']')
                .ok_or_else(|| usage("no `]` after the address".into()))?;
            let path = rest[end + 1..].strip_prefix(b":");
            (&rest[..end], path.ok_or_else(|| usage("a `:` has to follow the address".into()))?)
        } else {
            let bare = text.iter().rposition(|byte| *byte == b':').map(|last| &text[..last]);
            let bare = bare.and_then(|bare| std::str::from_utf8(bare).ok());
            if let Some(address) = bare.filter(|bare| bare.parse::<std::net::Ipv6Addr>().is_ok()) {
                return Err(usage(format!("an IPv6 address goes in brackets, as [{address}]:PATH")));
            }
            let colon = text.iter().position(|byte| *byte == b':');
            let colon = colon.ok_or_else(|| usage("has no `:`; write HOST:PATH".into()))?;
            (&text[..colon], &text[colon + 1..])
        };
        let host = std::str::from_utf8(host).ok().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| usage("has no host before the `:`".into()))?.to_owned();
        let place = match path {
            [b'@', name @ ..] => Destination::Port(String::from_utf8_lossy(name).into_owned()),
            path => Destination::Path {
                into: path.is_empty() || path.ends_with(b"/") || path == b".",
                path: RelPath::typed(path).map_err(|why: BadPath| usage(why.to_string()))?,
            },
        };
        Ok(Self { host, port, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_read_as_typed() {
        let path =
            |path: &str, into| Destination::Path { path: RelPath::typed(path.as_bytes()).unwrap(), into };
        for (text, host, place) in [
            ("host:", "host", path("", true)),
            ("host:a/b", "host", path("a/b", false)),
            ("host:a/", "host", path("a", true)),
            ("host:.", "host", path("", true)),
            ("[::1]:a", "::1", path("a", false)),
            ("host:@print", "host", Destination::Port("print".into())),
            ("host:./@print", "host", path("@print", false)),
            ("host:a:b", "host", path("a:b", false)),
        ] {
            let remote = Remote::parse(text.as_bytes(), 1).unwrap();
            assert_eq!((remote.host.as_str(), &remote.place), (host, &place), "{text}");
        }
        for text in ["host", ":a", "[::1:a", "[::1]a", "host:/etc", "host:../x", "fe80::1:a"] {
            assert!(matches!(Remote::parse(text.as_bytes(), 1), Err(Error::Usage(_))), "{text}");
        }
    }
}
