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
    // Before the others, or a signal that comes meanwhile would count as the first and ask nobody.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let second = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // 130 is what a shell reports for SIGINT. The order matters: the first signal only arms it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, second.clone())?;
        signal_hook::flag::register(signal, second.clone())?;
    }
    let wait = move || {
        if signals.forever().next().is_some() {
            first();
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
