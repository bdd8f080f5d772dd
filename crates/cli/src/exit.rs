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
/// No answer: refused, timed out, input that cannot be read, an output or address that cannot be used.
pub(crate) const COULD_NOT_TELL: u8 = 3;
/// This machine or this user cannot do it.
pub(crate) const NOT_POSSIBLE_HERE: u8 = 4;

/// Says on stderr what happened, and ends with `code`.
pub(crate) fn fail(code: u8, error: impl Display) -> ExitCode {
    eprintln!("linger: {error}");
    ExitCode::from(code)
}

/// Says on stderr what the operating system refused.
pub(crate) fn io(what: impl Display, error: &io::Error) -> ExitCode {
    fail(code(error), format_args!("{what}: {error}"))
}

/// Says on stderr that an address cannot be listened on, and what to do.
pub(crate) fn listening(address: impl Display, error: &io::Error) -> ExitCode {
    fail(code(error), format_args!("cannot listen on {address}: {error}{}", address_hint(error)))
}

/// Says on stderr that a file cannot be read or written, and what to do.
pub(crate) fn file(what: impl Display, error: &io::Error) -> ExitCode {
    fail(COULD_NOT_TELL, format_args!("{what}: {error}{}", file_hint(error)))
}

fn code(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::PermissionDenied { NOT_POSSIBLE_HERE } else { COULD_NOT_TELL }
}

/// What to do about an address that cannot be used.
pub(crate) fn address_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program has it (`ss -lxtnp` names it)",
        io::ErrorKind::AddrNotAvailable => "; `ip address` lists the addresses of this host",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need root, and a unix socket a directory of yours"
        }
        io::ErrorKind::NotFound => "; the socket's directory must exist",
        _ => "",
    }
}

/// What to do about a file or directory that cannot be used.
pub(crate) fn file_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; is the path right?",
        io::ErrorKind::IsADirectory => "; name a file",
        io::ErrorKind::NotADirectory => "; name a directory that exists",
        io::ErrorKind::PermissionDenied => "; `namei -l` of the path says who may",
        io::ErrorKind::InvalidData => "; name a text file",
        _ => "",
    }
}
