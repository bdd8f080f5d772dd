//! Standard error: sentences for people.

use std::fmt::Arguments;
use std::io::Write as _;

use linger_untrusted::{message, to_json};
use serde::Serialize;

/// Writes a line, in one piece, and nothing in it that a terminal would obey.
pub(crate) fn say_line(text: Arguments<'_>) {
    write(message(&text.to_string()));
}

/// Writes a line of JSON where standard output is somebody else's.
pub(crate) fn say_json(line: &impl Serialize) {
    if let Ok(line) = to_json(line) {
        write(line);
    }
}

fn write(mut line: String) {
    line.push('\n');
    // Nobody is left to be told.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
