//! Standard error: sentences for people.

use std::fmt::Arguments;
use std::io::Write as _;

use linger_untrusted::{message, to_json};
use serde::Serialize;

/// Writes a line with one call, control characters escaped.
pub(crate) fn say_line(text: Arguments<'_>) {
    write(message(&text.to_string()));
}

/// Writes a line of JSON, for verbs whose stdout belongs to another program.
pub(crate) fn say_json(line: &impl Serialize) {
    if let Ok(line) = to_json(line) {
        write(line);
    }
}

fn write(mut line: String) {
    line.push('\n');
    // If stderr is closed there is nowhere to report it.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
