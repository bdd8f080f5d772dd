//! `-v` and `-vv`: what the libraries decide, as it happens, on standard error.

use std::io::{self, Write};

use linger_untrusted::message;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::output::write_bytes;

/// How much is logged.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Verbosity {
    /// Tell on standard error what is decided, and why; with -vv every step
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    verbose: u8,
}

impl Verbosity {
    /// Installs the subscriber that prints events. `steps`: the verb has so few that one `-v` shows them.
    pub(crate) fn start(self, steps: bool) {
        let level = match self.verbose {
            0 => return,
            1 if !steps => LevelFilter::INFO,
            _ => LevelFilter::DEBUG,
        };
        let told = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_timer(tracing_subscriber::fmt::time::uptime())
            .with_writer(Stderr)
            .finish();
        // Fails only if a subscriber is set already; nothing else in this process sets one.
        let _ = tracing::subscriber::set_global_default(told);
    }
}

/// Writes each event with one call, control characters escaped.
struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Stderr {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        write_bytes(message(&String::from_utf8_lossy(event)).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
