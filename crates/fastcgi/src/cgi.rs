//! The CGI header block that begins a response: what a handler writes, and what a gateway reads.
//!
//! RFC 3875 section 6: header lines, `Status:` among them, an empty line, the body.

use std::io::{self, Write};

/// Most bytes of a header block; nginx takes 4 or 8 KB, httpd lines of 8 KB.
pub const MOST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 256;

/// Begins a response: writes the header block.
///
/// # Errors
/// Returns `InvalidInput` if a header would be read as another (a line break in it, or a colon in its name);
/// otherwise the errors of `to`.
pub fn head<'a>(
    mut to: impl Write,
    status: u16,
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> io::Result<()> {
    let mut block = format!("Status: {status}\r\n");
    for (name, value) in headers {
        if [name, value].iter().any(|text| text.contains(['\r', '\n'])) || name.contains(':') {
            let message = format!("the header `{}` does not fit on a line", name.escape_debug());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        block.push_str(&format!("{name}: {value}\r\n"));
    }
    block.push_str("\r\n");
    to.write_all(block.as_bytes())
}

/// A response's header block.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// The value of `Status:`. If there is no such line, 302 if there is a `Location:`, otherwise 200.
    pub status: u16,
    /// Every header but `Status:`, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// The header block cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHead {
    /// The block does not end within the longest length that is read.
    #[error("the response's header block does not end within {MOST_HEAD} bytes")]
    TooLong,
    /// The block does not consist of `Name: value` lines.
    #[error("the response does not begin with CGI headers: {0}")]
    Syntax(httparse::Error),
    /// `Status:` is not followed by three digits.
    #[error("the Status header is not a number from 100 to 999")]
    Status,
    /// `Status:` is a number below 200: no response follows it. Used by the `tower` gateway only.
    #[error("the Status header is {0}, which is no status of a response")]
    Interim(u16),
    /// The response has ended within its header block, or before it.
    #[error("the response ends before its header block does")]
    Missing,
    /// `Content-Length:` is no number, or there are two that differ (RFC 9110 section 8.6).
    #[error("the response's Content-Length is not one number")]
    Length,
}

impl Head {
    /// Reads a header block from the front of `bytes`. Returns the block and its length in bytes, or `None` if the block is
    /// not complete yet.
    ///
    /// # Errors
    /// Returns an error if the block is malformed or too long.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, InvalidHead> {
        // A response without headers begins with the empty line.
        let mut slots = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let (length, lines) = match httparse::parse_headers(bytes, &mut slots) {
            Ok(httparse::Status::Complete(done)) => done,
            Ok(httparse::Status::Partial) if bytes.len() > MOST_HEAD => return Err(InvalidHead::TooLong),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(InvalidHead::Syntax(error)),
        };
        let mut head = Self { status: 0, headers: Vec::with_capacity(lines.len()) };
        for line in lines {
            if line.name.eq_ignore_ascii_case("status") {
                let digits = line.value.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
                let status = digits.and_then(|digits| digits.parse().ok());
                head.status =
                    status.filter(|status| (100..1000).contains(status)).ok_or(InvalidHead::Status)?;
            } else {
                head.headers.push((line.name.to_owned(), line.value.to_vec()));
            }
        }
        head.length()?;
        if head.status == 0 {
            head.status = if head.get("location").is_some() { 302 } else { 200 };
        }
        Ok(Some((head, length)))
    }

    /// The length of the body, as `Content-Length` announces it.
    ///
    /// # Errors
    /// Returns [`InvalidHead::Length`].
    pub fn length(&self) -> Result<Option<u64>, InvalidHead> {
        let mut length = None;
        for (_, value) in self.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            let value = value.trim_ascii();
            let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let number =
                std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
            let number: u64 = number.ok_or(InvalidHead::Length)?;
            if length.is_some_and(|other| other != number) {
                return Err(InvalidHead::Length);
            }
            length = Some(number);
        }
        Ok(length)
    }

    /// The first header of that name; case does not matter.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(this, _)| this.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_one_number() {
        let length = |block: &str| {
            let parsed = Head::parse(format!("{block}\r\n").as_bytes());
            parsed.map(|head| head.unwrap().0.length().unwrap())
        };
        assert_eq!(length("A: b\r\n"), Ok(None));
        assert_eq!(length("Content-Length: 5 \r\ncontent-length: 05\r\n"), Ok(Some(5)));
        for wrong in ["5\r\nContent-Length: 6", "", "5, 5", "-5", "+5", "0x5", "5 5", "99999999999999999999"]
        {
            let block = format!("Content-Length: {wrong}\r\n");
            assert_eq!(length(&block), Err(InvalidHead::Length), "{wrong}");
        }
    }
}
