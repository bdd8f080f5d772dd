//! Standard output.

use std::fmt::Arguments;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use linger_untrusted::to_json;
use serde::Serialize;
use signal_hook::consts::SIGPIPE;

use crate::exit;

/// Standard output, without colours where it is no terminal that wants them.
pub(crate) struct Stdout {
    out: BufWriter<anstream::Stdout>,
}

/// Why standard output takes no more.
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

    /// Writes text, with its newlines; it is out with the next [`flush`](Self::flush).
    pub(crate) fn text(&mut self, text: Arguments<'_>) -> Result<(), Stopped> {
        Ok(self.out.write_fmt(text)?)
    }

    /// Writes one line of JSON, which is out with the next [`flush`](Self::flush).
    pub(crate) fn json(&mut self, line: &impl Serialize) -> Result<(), Stopped> {
        let line = to_json(line).map_err(io::Error::from)?;
        self.text(format_args!("{line}\n"))
    }

    /// Whoever reads has it, or the file.
    pub(crate) fn flush(&mut self) -> Result<(), Stopped> {
        Ok(self.out.flush()?)
    }
}

/// For what libraries write.
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
    /// Ends the program. `known` is the verdict, where there is one that nothing unread can change.
    pub(crate) fn end(self, known: Option<u8>) -> ExitCode {
        match (self, known) {
            (Self::Unread, Some(known)) => ExitCode::from(known),
            (Self::Unread, None) => {
                // Ends this process; only a SIGPIPE that is blocked lets it return.
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
