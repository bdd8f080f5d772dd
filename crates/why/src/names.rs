//! The names that clients ask for: HTTP's Host, TLS's server name. They stand in the evidence, as a stranger's text.

use std::collections::HashMap;
use std::sync::Arc;

use crate::app::{field, lines};

/// Different names that are kept, the latest ones: at most about 1.5 MB. Connections hold the number of their name, so that a
/// name takes one place, however many connections ask for it.
const KEPT: usize = 8_192;
/// The longest name that is kept, in bytes. Longer ones are left out, though DNS allows 253.
const LONGEST: usize = 96;

/// Where a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

impl AskedName<Arc<str>> {
    pub(crate) fn as_str(&self) -> AskedName<&str> {
        match self {
            Self::Host(name) => AskedName::Host(name),
            Self::Tls(name) => AskedName::Tls(name),
        }
    }
}

/// The number of a connection's name. 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NameId(u32);

/// The latest names. A new one takes the place of the oldest, whose number then names nothing.
#[derive(Debug, Default)]
pub(crate) struct AskedNames {
    /// The name with number n is at n % KEPT.
    places: Vec<(NameId, AskedName<Arc<str>>)>,
    /// The numbers of names in a Host field, and of those in a ClientHello.
    index: [HashMap<Arc<str>, NameId>; 2],
    latest: u32,
}

impl AskedNames {
    /// The number of the name in the first bytes of a side, if there is one.
    pub(crate) fn note(&mut self, bytes: &[u8]) -> Option<NameId> {
        let text = name_in(bytes)?;
        let is_tls = bytes.first() == Some(&22);
        // Most clients ask for a name that is known: none is copied for them.
        if let Some(&known) = self.index[usize::from(is_tls)].get(text) {
            return Some(known);
        }
        let text: Arc<str> = text.into();
        let name = if is_tls { AskedName::Tls(text.clone()) } else { AskedName::Host(text.clone()) };
        self.latest = self.latest.checked_add(1).unwrap_or(1);
        let id = NameId(self.latest);
        let place = id.0 as usize % KEPT;
        if place < self.places.len() {
            match std::mem::replace(&mut self.places[place], (id, name)).1 {
                AskedName::Host(oldest) => self.index[0].remove(&oldest),
                AskedName::Tls(oldest) => self.index[1].remove(&oldest),
            };
        } else {
            // The first number is 1: place 0 waits for its turn.
            self.places.resize(place + 1, (id, name));
        }
        self.index[usize::from(is_tls)].insert(text, id);
        Some(id)
    }

    /// The name with this number, if it is still kept.
    pub(crate) fn of(&self, id: NameId) -> Option<&AskedName<Arc<str>>> {
        let (kept, name) = self.places.get(id.0 as usize % KEPT)?;
        (*kept == id && id != NameId::default()).then_some(name)
    }
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
    if !bytes.first()?.is_ascii_uppercase() || bytes.starts_with(b"HTTP/") {
        return None;
    }
    let head = lines(bytes).take_while(|line| !line.trim_ascii().is_empty());
    let mut fields = head.skip(1).filter_map(field);
    fields.find(|(name, _)| name.eq_ignore_ascii_case(b"host")).map(|(_, value)| value.trim_ascii())
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
    fn a_name_is_kept_until_as_many_others_have_come() {
        let mut names = AskedNames::default();
        let note = |names: &mut AskedNames, host: usize| {
            names.note(format!("GET / HTTP/1.1\r\nHost: h{host}\r\n\r\n").as_bytes()).unwrap()
        };
        let known = |names: &AskedNames, id| names.of(id).map(|name| name.as_str().service());
        assert_eq!(known(&names, NameId::default()), None);
        let first = note(&mut names, 0);
        assert_eq!(known(&names, NameId::default()), None);
        for _ in 0..2 * KEPT {
            assert_eq!(note(&mut names, 0), first, "the same name takes no place");
        }
        for other in 1..KEPT {
            note(&mut names, other);
        }
        assert_eq!(known(&names, first).as_deref(), Some("h0"));
        let last = note(&mut names, KEPT);
        assert_eq!((known(&names, first), known(&names, last)), (None, Some(format!("h{KEPT}"))));
        assert_ne!(note(&mut names, 0), first);
        let indexed = |names: &AskedNames| names.index.each_ref().map(HashMap::len);
        assert_eq!((names.places.len(), indexed(&names)), (KEPT, [KEPT, 0]));
        // The same name in a ClientHello is another one.
        assert_ne!(names.note(&hello(b"h0")), Some(note(&mut names, 0)));
        assert_eq!(indexed(&names), [KEPT - 1, 1], "it has the place of the oldest");
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
