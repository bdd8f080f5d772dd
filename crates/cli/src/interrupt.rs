//! Ctrl-C: the first one asks, the second one ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use linger_lab::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Gives a stop that SIGINT and SIGTERM request; a second one ends the program at once.
pub(crate) fn stop() -> io::Result<Arc<Stop>> {
    let stop = Arc::new(Stop::new()?);
    let asked = stop.clone();
    on_first(move || asked.request())?;
    Ok(stop)
}

/// Does something at the first SIGINT or SIGTERM; a second one ends the program at once.
pub(crate) fn on_first(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        if signals.forever().next().is_none() {
            return;
        }
        first();
        // Not before: timeout(1) sends its signal to the process and to its group, and that is one request.
        for signal in [SIGINT, SIGTERM] {
            // 130 is what a shell reports for SIGINT. Without it the second signal is one more that asks.
            let _ = signal_hook::flag::register_conditional_shutdown(
                signal,
                130,
                Arc::new(AtomicBool::new(true)),
            );
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

/// Becomes true with SIGINT or SIGTERM, for whoever looks; what they do otherwise stays as it is.
pub(crate) fn seen() -> io::Result<Arc<AtomicBool>> {
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, seen.clone())?;
    }
    Ok(seen)
}

/// Lets a write beyond `RLIMIT_FSIZE` fail instead of ending the program (`setrlimit(2)`).
pub(crate) fn outlive_file_limit() -> io::Result<()> {
    let ignored = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, ignored).map(drop)
}
