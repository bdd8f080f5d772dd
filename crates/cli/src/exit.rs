//! What the program's exit status means, for every verb.

use std::fmt::Display;
use std::io;
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
pub(crate) fn fail(code: u8, error: impl Display) -> ExitCode {
    eprintln!("linger: {error}");
    ExitCode::from(code)
}

/// Says on stderr what the operating system refused, and what to do where that is known.
pub(crate) fn io(what: impl Display, error: &io::Error) -> ExitCode {
    let (code, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => (COULD_NOT_TELL, "; another program has the port (`ss -ltnp` names it)"),
        io::ErrorKind::AddrNotAvailable => {
            (COULD_NOT_TELL, "; `ip address` lists the addresses of this host")
        }
        io::ErrorKind::PermissionDenied => {
            (NOT_POSSIBLE_HERE, "; ports below 1024 need root, choose another")
        }
        _ => (COULD_NOT_TELL, ""),
    };
    fail(code, format_args!("{what}: {error}{hint}"))
}
