//! Everything that the program writes: standard output, standard error, and files that an option names.
//!
//! # Standard output that nobody reads
//! `linger why ... | head -1` closes the pipe after a line. By convention a program then ends by SIGPIPE, which a shell
//! reports as 141. If the verb has no verdict yet, this program does the same. If it has one, the program ends with the
//! status of that verdict: a status is never 0 only because nobody wanted to read. A verb that reports ends at the failed
//! write. A verb that acts (`put`, `get`, `run`) finishes its work, and its status says how the work went.
//!
//! # Standard output that is read late, or never
//! A verb that watches must not wait for a pipe whose reader has stopped: it would see no more events, serve old numbers and not end
//! when it is asked to. A thread writes for it ([`Stdout::queued`], [`queue_stderr`], [`ViewTerminal`]); lines that find no room are left out, counted
//! and said. All other verbs wait, as programs do.
//!
//! # Other failures
//! A full disk, or any other error of standard output, is status 3 and names the file. Standard error has nobody to
//! complain to: what cannot be written there is dropped. Nothing here panics, which `println!` and `eprintln!` do.

mod file;
mod files;
mod place;
mod queue;
mod stderr;
mod stdout;
mod terminal;

pub(crate) use file::{Content, NewFile, Refused};
pub(crate) use files::begin;
pub(crate) use stderr::{queue_stderr, say_json, say_line, settle_stderr, write_bytes};
pub(crate) use stdout::{Stdout, Stopped};
pub(crate) use terminal::ViewTerminal;

/// Says a line on standard error.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::say_line(format_args!($($text)*)) };
}
pub(crate) use say;
