//! Ctrl-C: the first asks the work to stop, the second ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use linger_lab::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Returns a [`Stop`] that SIGINT and SIGTERM request; a second signal ends the process at once.
pub(crate) fn stop() -> io::Result<Arc<Stop>> {
    let stop = Arc::new(Stop::new()?);
    let asked = stop.clone();
    on_first(move || asked.request())?;
    Ok(stop)
}

/// Calls `first` at the first SIGINT or SIGTERM; a second one ends the process at once.
pub(crate) fn on_first(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        if signals.forever().next().is_none() {
            return;
        }
        first();
        // Register only now: timeout(1) signals the process and its group, which must count as one request.
        for signal in [SIGINT, SIGTERM] {
            // 130 is a shell's status for SIGINT. If registering fails, a second signal has no effect.
            let _ = signal_hook::flag::register_conditional_shutdown(
                signal,
                130,
                Arc::new(AtomicBool::new(true)),
            );
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

/// Returns a flag that SIGINT and SIGTERM set, beside whatever else they do.
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
