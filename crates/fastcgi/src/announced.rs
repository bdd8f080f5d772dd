//! Whether a response has as many bytes of body as its header block announces.

use crate::cgi::Head;

/// Counts a response's STDOUT against its own `Content-Length`.
#[derive(Debug)]
pub(crate) struct Announced {
    state: State,
    got: u64,
}

#[derive(Debug)]
enum State {
    /// The header block has not ended yet; these bytes of it have come.
    Head(Vec<u8>),
    /// This many bytes are to come.
    Length(u64),
    /// No length is announced.
    Unknown,
    /// No body comes, whatever is announced: a response to HEAD, 1xx, 204, 304 (RFC 9110 section 6.4.1).
    Empty,
}

impl Announced {
    /// `is_head` is whether the request's method is HEAD (RFC 9110 section 9.3.2).
    pub(crate) fn new(is_head: bool) -> Self {
        Self { state: if is_head { State::Empty } else { State::Head(Vec::new()) }, got: 0 }
    }

    /// For a response whose header block was read elsewhere.
    #[cfg(feature = "tower")]
    pub(crate) fn of(head: &Head, is_head: bool) -> Self {
        let state = if is_head { State::Empty } else { State::after(head) };
        Self { state, got: 0 }
    }

    /// Takes bytes of the body. Returns those that belong to the response: what is beyond its length would be read as another one.
    #[cfg(feature = "tower")]
    pub(crate) fn take_body<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let room = match self.state {
            State::Length(length) => usize::try_from(length.saturating_sub(self.got)).unwrap_or(usize::MAX),
            State::Empty => 0,
            State::Head(_) | State::Unknown => usize::MAX,
        };
        self.got += bytes.len() as u64;
        &bytes[..bytes.len().min(room)]
    }

    /// Takes bytes of STDOUT.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let State::Head(seen) = &mut self.state else {
            self.got += bytes.len() as u64;
            return;
        };
        seen.extend_from_slice(bytes);
        match Head::parse(seen) {
            Ok(Some((head, length))) => {
                self.got = (seen.len() - length) as u64;
                self.state = State::after(&head);
            }
            Ok(None) => {}
            // The reader of the header block reports what is wrong with it.
            Err(_) => self.state = State::Unknown,
        }
    }

    /// Whether all of the body has come, as its length says.
    #[cfg(feature = "tower")]
    pub(crate) fn is_full(&self) -> bool {
        match self.state {
            State::Length(length) => self.got >= length,
            State::Empty => true,
            State::Head(_) | State::Unknown => false,
        }
    }

    /// The body's bytes so far and how many were announced, if fewer came.
    pub(crate) fn missing(&self) -> Option<(u64, u64)> {
        match self.state {
            State::Length(length) if self.got < length => Some((self.got, length)),
            _ => None,
        }
    }
}

impl State {
    fn after(head: &Head) -> Self {
        match head.length() {
            // RFC 9110 sections 8.6 and 15.4.5.
            _ if matches!(head.status, 100..200 | 204 | 304) => Self::Empty,
            Ok(Some(length)) => Self::Length(length),
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(response: &str, is_head: bool) -> Option<(u64, u64)> {
        let at_any_split = (1..=response.len()).map(|size| {
            let mut announced = Announced::new(is_head);
            response.as_bytes().chunks(size).for_each(|piece| announced.take(piece));
            announced.missing()
        });
        let all: Vec<_> = at_any_split.collect();
        assert!(all.windows(2).all(|two| two[0] == two[1]), "{all:?}");
        all[0]
    }

    #[test]
    fn fewer_bytes_than_announced_are_missing_and_the_right_number_is_not() {
        assert_eq!(missing("Content-Length: 10\r\n\r\nonly5", false), Some((5, 10)));
        assert_eq!(missing("Content-Length: 5\r\n\r\nonly5", false), None);
        assert_eq!(missing("Content-Length: 4\r\n\r\nonly5", false), None, "more is the gateway's to cut");
        assert_eq!(missing("Content-Length: 10\r\n\r\n", false), Some((0, 10)));
    }

    #[test]
    fn what_has_no_body_misses_none() {
        assert_eq!(missing("Content-Length: 10\r\n\r\n", true), None, "HEAD");
        assert_eq!(missing("Status: 304 Not Modified\r\nContent-Length: 10\r\n\r\n", false), None);
        assert_eq!(missing("Status: 303 See Other\r\nContent-Length: 10\r\n\r\n", false), Some((0, 10)));
        assert_eq!(missing("Content-Type: text/plain\r\n\r\nhi", false), None);
        assert_eq!(missing("no header block at all", false), None);
    }
}
