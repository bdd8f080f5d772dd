//! What the program's exit status means, for every verb.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use rustix::io::Errno;

use crate::output::say;

/// Nothing was lost; every expectation was met.
pub(crate) const NOTHING_LOST: u8 = 0;
/// A loss was found, or an expectation was not met.
pub(crate) const LOSS_FOUND: u8 = 1;
/// The arguments or the scenario are wrong.
pub(crate) const BAD_USAGE: u8 = 2;
/// No answer: refused, timed out, input that cannot be read, an output or address that cannot be used.
pub(crate) const COULD_NOT_TELL: u8 = 3;
/// This machine cannot do what was asked for, or this user may not.
pub(crate) const NOT_POSSIBLE_HERE: u8 = 4;
/// The status that a shell reports for a program that SIGPIPE ended. Here: nobody read the program's output.
pub(crate) const UNREAD: u8 = 141;

/// Says on stderr what happened, and ends with `code`.
pub(crate) fn fail(code: u8, error: impl Display) -> ExitCode {
    say!("linger: {error}");
    ExitCode::from(code)
}

/// Says on stderr what the operating system refused.
pub(crate) fn io(what: impl Display, error: &io::Error) -> ExitCode {
    fail(code(error), format_args!("{what}: {error}{}", machine_hint(error)))
}

/// Says on stderr that an address cannot be listened on, and what to do.
pub(crate) fn listening(address: impl Display, error: &io::Error) -> ExitCode {
    let hint = address_hint(error);
    let hint = if hint.is_empty() { machine_hint(error) } else { hint };
    fail(code(error), format_args!("cannot listen on {address}: {error}{hint}"))
}

/// Says on stderr that a file cannot be read or written, and what to do.
pub(crate) fn file(what: impl Display, error: &io::Error) -> ExitCode {
    let hint = match file_hint(error) {
        // Of a descriptor, and not of clone(2).
        "" if error.kind() == io::ErrorKind::WouldBlock => {
            "; it is non-blocking, and nobody has read it in time"
        }
        "" => machine_hint(error),
        hint => hint,
    };
    fail(COULD_NOT_TELL, format_args!("{what}: {error}{hint}"))
}

fn code(error: &io::Error) -> u8 {
    let is_poor = error.kind() == io::ErrorKind::PermissionDenied || !machine_hint(error).is_empty();
    if is_poor { NOT_POSSIBLE_HERE } else { COULD_NOT_TELL }
}

/// What the user can do if a limit of the machine or of the user is exhausted; empty for other errors.
pub(crate) fn machine_hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::OutOfMemory {
        return TOO_LITTLE_MEMORY;
    }
    match Errno::from_io_error(error) {
        // clone(2) and fork(2).
        Some(Errno::AGAIN) => "; no more threads can be had: see `ulimit -u` and the cgroup's pids.max",
        Some(Errno::MFILE) => "; `ulimit -n` raises the number of open files",
        Some(Errno::NFILE) => "; this machine has no more open files: see sysctl fs.file-max",
        Some(Errno::NOMEM) => TOO_LITTLE_MEMORY,
        Some(Errno::NOENT) if !Path::new("/proc/self").exists() => "; is /proc mounted?",
        _ => "",
    }
}

const TOO_LITTLE_MEMORY: &str = "; there is too little memory: see `ulimit -v` and the cgroup's memory.max";

/// What the user can do about an address that cannot be used.
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

/// What the user can do about a file or directory that cannot be used.
pub(crate) fn file_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        // open(2) of a FIFO for writing.
        _ if Errno::from_io_error(error) == Some(Errno::NXIO) => "; nobody reads it: start its reader first",
        io::ErrorKind::NotFound => "; is the path right?",
        io::ErrorKind::IsADirectory => "; name a file",
        io::ErrorKind::NotADirectory => "; name a directory that exists",
        io::ErrorKind::PermissionDenied => "; `namei -l` of the path says who may",
        io::ErrorKind::InvalidData => "; name a text file",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; `df` says where there is room",
        _ => "",
    }
}
