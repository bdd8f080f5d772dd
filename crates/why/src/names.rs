//! The names that clients ask for: HTTP's Host, TLS's server name. They stand in the evidence, as a stranger's text.

use crate::connection::ObservedConnection;
use crate::key::{Dir, FlowKey};

/// Connections whose name is kept, the latest ones: about 600 KB.
const KEPT: usize = 4_096;
/// A name is at most as long as a label and a half of DNS; longer ones are left out.
const LONGEST: usize = 96;

#[derive(Debug)]
struct KeptName {
    key: FlowKey,
    frame: u64,
    name: AskedName<Box<str>>,
}

/// Where a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedName<T> {
    /// In the Host field of a request.
    Host(T),
    /// In a ClientHello.
    Tls(T),
}

impl AskedName<&str> {
    /// The name without a port.
    pub(crate) fn service(self) -> String {
        let (Self::Host(name) | Self::Tls(name)) = self;
        match name.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host.to_owned(),
            _ => name.to_owned(),
        }
    }
}

/// The names of the latest connections. A name takes the place of an older one whose key falls on the same place.
#[derive(Debug, Default)]
pub(crate) struct AskedNames {
    places: Vec<Option<KeptName>>,
}

impl AskedNames {
    /// Keeps the name in the first bytes of a client, if there is one.
    pub(crate) fn note(&mut self, key: FlowKey, frame: u64, bytes: &[u8]) {
        let Some(name) = name_in(bytes) else { return };
        let name = if bytes.first() == Some(&22) {
            AskedName::Tls(name.into())
        } else {
            AskedName::Host(name.into())
        };
        if self.places.is_empty() {
            self.places.resize_with(KEPT, || None);
        }
        self.places[place(&key)] = Some(KeptName { key, frame, name });
    }

    /// The name that the client of this connection has asked for.
    pub(crate) fn of(&self, connection: &ObservedConnection) -> Option<AskedName<&str>> {
        let kept = self.places.get(place(&connection.key))?.as_ref()?;
        let own = kept.key == connection.key && kept.frame >= connection.first_frame;
        own.then_some(match &kept.name {
            AskedName::Host(name) => AskedName::Host(&**name),
            AskedName::Tls(name) => AskedName::Tls(&**name),
        })
    }

    /// Whether these are the first bytes of a side that has sent no others.
    #[inline]
    pub(crate) fn begins(connection: &ObservedConnection, dir: Dir, bytes: u32) -> bool {
        bytes > 0 && connection.sides[dir].payload == u64::from(bytes)
    }
}

fn place(key: &FlowKey) -> usize {
    key.blend() as usize % KEPT
}

/// The name in the beginning of a client's stream, if it is one that can be printed as it is.
fn name_in(bytes: &[u8]) -> Option<&str> {
    let name = if bytes.first() == Some(&22) { server_name(bytes) } else { host(bytes) }?;
    let text = std::str::from_utf8(name).ok()?;
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    (!text.is_empty() && text.len() <= LONGEST && printable).then_some(text)
}

/// The Host field of a request.
fn host(bytes: &[u8]) -> Option<&[u8]> {
    let head = bytes.split(|&byte| byte == b'\n').take_while(|line| line.trim_ascii() != b"");
    let mut fields = head.skip(1).filter_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    });
    if !bytes.first()?.is_ascii_uppercase() || bytes.starts_with(b"HTTP/") {
        return None;
    }
    fields.find(|(name, _)| name.eq_ignore_ascii_case(b"host")).map(|(_, value)| value)
}

/// The server name of a ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3), as far as it is in the first record.
fn server_name(bytes: &[u8]) -> Option<&[u8]> {
    // Record, handshake header, version and random.
    if bytes.get(5) != Some(&1) {
        return None;
    }
    let mut rest = bytes.get(5 + 4 + 2 + 32..)?;
    // Session, cipher suites, compression methods.
    for size in [1, 2, 1] {
        let (length, after) = rest.split_at_checked(size)?;
        rest = after.get(number(length)..)?;
    }
    let mut extensions = rest.get(2..)?;
    loop {
        let (kind, after) = extensions.split_at_checked(2)?;
        let (length, after) = after.split_at_checked(2)?;
        if number(kind) == 0 {
            // A list of one entry of type 0.
            let (length, name) = after.get(3..)?.split_at_checked(2)?;
            return name.get(..number(length));
        }
        extensions = after.get(number(length)..)?;
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &[u8]) -> Vec<u8> {
        let length = |bytes: usize| (bytes as u16).to_be_bytes();
        let mut list = vec![0];
        list.extend(length(name.len()));
        list.extend(name);
        let mut extensions = vec![0, 43, 0, 3, 2, 3, 4, 0, 0];
        extensions.extend(length(list.len() + 2));
        extensions.extend(length(list.len()));
        extensions.extend(list);
        let mut hello = vec![22, 3, 1, 0, 0, 1, 0, 0, 0, 3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
        hello.extend(length(extensions.len()));
        hello.extend(extensions);
        hello
    }

    #[test]
    fn a_name_is_found_where_it_stands() {
        let bytes = hello(b"shop.example");
        assert_eq!(name_in(&bytes), Some("shop.example"));
        for end in 0..bytes.len() {
            assert_eq!(name_in(&bytes[..end]), None, "cut at {end}");
        }
        // A ServerHello, and a name that would be more than a name in a report.
        assert_eq!(
            name_in(&{
                let mut other = bytes;
                other[5] = 2;
                other
            }),
            None
        );
        assert_eq!(name_in(&hello(b"shop\n1. aborted")), None);
        assert_eq!(
            name_in(b"GET / HTTP/1.1\r\nhost:  shop.example:8080\r\n\r\nHost: no"),
            Some("shop.example:8080")
        );
        assert_eq!(name_in(b"GET / HTTP/1.1\r\nAccept: x\r\n\r\nHost: no\r\n"), None);
        assert_eq!(name_in(b"HTTP/1.1 200 OK\r\nHost: shop.example\r\n\r\n"), None);
        assert_eq!(name_in(&[b"GET / HTTP/1.1\r\nHost: ", &[b'a'; 97][..], b"\r\n\r\n"].concat()), None);
        assert_eq!(name_in(b""), None);
    }
}
