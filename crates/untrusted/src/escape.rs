//! What is escaped, and how.

use std::fmt::{self, Display, Write};

/// See [`Untrusted::terminal`](crate::Untrusted::terminal).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Terminal<'a>(pub(crate) &'a [u8]);

/// See [`Untrusted::plain`](crate::Untrusted::plain).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EscapedLine<'a>(pub(crate) &'a [u8]);

/// See [`Untrusted::html`](crate::Untrusted::html).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Html<'a>(pub(crate) &'a [u8]);

impl Display for Terminal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        padded(f, |out| visible(self.0, out, |_| false))
    }
}

impl Display for EscapedLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        padded(f, |out| visible(self.0, out, char::is_whitespace))
    }
}

impl Display for Html<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = String::new();
        visible(self.0, &mut shown, |_| false)?;
        for c in shown.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Pads the text to the width that the format asks for: the columns of tables need that.
fn padded(f: &mut fmt::Formatter<'_>, write: impl FnOnce(&mut String) -> fmt::Result) -> fmt::Result {
    let mut text = String::new();
    write(&mut text)?;
    f.pad(&text)
}

fn visible(bytes: &[u8], out: &mut String, also: fn(char) -> bool) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                ' ' if also(c) => out.push_str("\\x20"),
                c if is_printable(c) && c != '\\' && !also(c) => out.push(c),
                c => out.extend(c.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// Escapes a message of several lines in which some part may come from a stranger: everything that is not printable is
/// escaped, except newlines and tabs. For errors of libraries that quote a peer. For a text that comes from a stranger as a
/// whole, use [`Untrusted::terminal`](crate::Untrusted::terminal), which lets no newline through.
pub fn message(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_printable(c) || matches!(c, '\n' | '\t') {
            shown.push(c)
        } else {
            shown.extend(c.escape_default())
        }
    }
    shown
}

/// Whether a character may be shown as it is. It must be no control character (C0, DEL, C1), no line or paragraph
/// separator, and none of the invisible format characters listed here, some of which reorder the text around them
/// (Unicode TR 36 section 3.3, TR 9 section 2).
pub(crate) fn is_printable(c: char) -> bool {
    let hidden = matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !(c.is_control() || hidden)
}
