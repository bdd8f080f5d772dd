//! JSON that is safe to print.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

use crate::escape::is_printable;

/// One line of JSON in which every character that is not printable is escaped, as `\uXXXX` or in JSON's short form
/// (`\n`).
///
/// Of the characters that are not printable, RFC 8259 section 7 requires escapes only below U+0020, and serde_json
/// escapes no others. But a terminal also obeys the C1 controls, and the characters that reorder text.
///
/// # Errors
/// Returns the errors of the value's own serialisation.
pub fn to_json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut line = Vec::with_capacity(256);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut line, Printable))?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.is_ascii() && !fragment.contains('\x7f') {
            // serde_json has escaped all other controls of ASCII.
            return writer.write_all(fragment.as_bytes());
        }
        let mut buffer = [0; 4];
        for c in fragment.chars() {
            if is_printable(c) {
                writer.write_all(c.encode_utf8(&mut buffer).as_bytes())?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}
