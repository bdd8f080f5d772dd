//! `-v` and `-vv`: what the libraries decide, as it happens, on standard error.

use std::io::{self, Write};

use linger_untrusted::message;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How much is told.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Verbosity {
    /// Tell on standard error what is decided, and why; twice for every step.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    verbose: u8,
}

impl Verbosity {
    /// Lets events be told from now on.
    pub(crate) fn start(self) {
        let level = match self.verbose {
            0 => return,
            1 => LevelFilter::INFO,
            _ => LevelFilter::DEBUG,
        };
        let told = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_timer(tracing_subscriber::fmt::time::uptime())
            .with_writer(Stderr)
            .finish();
        // The only one in this process, so that none is there yet.
        let _ = tracing::subscriber::set_global_default(told);
    }
}

/// Writes each event in one piece, and nothing in it that a terminal would obey.
struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Stderr {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // Nobody is left to be told.
        let _ = io::stderr().write_all(message(&String::from_utf8_lossy(event)).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
