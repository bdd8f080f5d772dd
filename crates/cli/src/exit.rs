//! What the program's exit status means, for every verb.

use std::process::ExitCode;

/// Nothing was lost; every expectation was met.
pub(crate) const NOTHING_LOST: u8 = 0;
/// A loss was found, or an expectation was not met.
pub(crate) const LOSS_FOUND: u8 = 1;
/// The arguments or the scenario are wrong.
pub(crate) const BAD_USAGE: u8 = 2;
/// No answer: refused, timed out, unreadable input.
pub(crate) const COULD_NOT_TELL: u8 = 3;
/// This machine or this user cannot do it.
pub(crate) const NOT_POSSIBLE_HERE: u8 = 4;

/// Says on stderr what happened, and ends with `code`.
pub(crate) fn fail(code: u8, error: impl std::fmt::Display) -> ExitCode {
    eprintln!("linger: {error}");
    ExitCode::from(code)
}
