//! Standard output.

use std::fmt::Arguments;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use linger_untrusted::to_json;
use serde::Serialize;
use signal_hook::consts::SIGPIPE;

use crate::exit;

/// Standard output. Colours are for terminals that support them.
pub(crate) struct Stdout {
    out: BufWriter<anstream::Stdout>,
}

/// Why standard output failed.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// Nobody reads it.
    Unread,
    /// The system refused.
    Failed(io::Error),
}

impl Stdout {
    pub(crate) fn new() -> Self {
        Self { out: BufWriter::new(anstream::stdout()) }
    }

    /// Buffers text, newlines included, until the next [`flush`](Self::flush).
    pub(crate) fn text(&mut self, text: Arguments<'_>) -> Result<(), Stopped> {
        Ok(self.out.write_fmt(text)?)
    }

    /// Buffers one line of JSON until the next [`flush`](Self::flush).
    pub(crate) fn json(&mut self, line: &impl Serialize) -> Result<(), Stopped> {
        let line = to_json(line).map_err(io::Error::from)?;
        self.text(format_args!("{line}\n"))
    }

    /// Writes the buffer to the pipe, terminal or file.
    pub(crate) fn flush(&mut self) -> Result<(), Stopped> {
        Ok(self.out.flush()?)
    }
}

/// Lets libraries write to standard output.
impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Unread } else { Self::Failed(error) }
    }
}

impl Stopped {
    /// Ends the program. `known` is the verdict, if no output that is missing could change it.
    pub(crate) fn end(self, known: Option<u8>) -> ExitCode {
        match (self, known) {
            (Self::Unread, Some(known)) => ExitCode::from(known),
            (Self::Unread, None) => {
                // Returns only if SIGPIPE is blocked.
                let _ = signal_hook::low_level::emulate_default_handler(SIGPIPE);
                ExitCode::from(exit::UNREAD)
            }
            (Self::Failed(error), _) => {
                let file = match std::fs::read_link("/proc/self/fd/1") {
                    Ok(path) => format!(" ({})", path.display()),
                    Err(_) => String::new(),
                };
                exit::file(format_args!("cannot write to standard output{file}"), &error)
            }
        }
    }
}
