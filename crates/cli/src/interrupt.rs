//! Ctrl-C: the first asks the work to stop, the second ends the process. A terminal that is closed (SIGHUP) asks too,
//! unless the program was started by nohup(1).

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use linger_lab::Stop;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Returns a [`Stop`] that SIGINT, SIGTERM and SIGHUP request; a second signal ends the process at once.
pub(crate) fn stop() -> io::Result<Arc<Stop>> {
    let stop = Arc::new(Stop::new()?);
    let asked = stop.clone();
    on_first(move || asked.request())?;
    Ok(stop)
}

/// Calls `first` at the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.
pub(crate) fn on_first(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    take(first, || {}).map(drop)
}

/// How long the program may take to end in order after a signal. To a user, whatever takes less than a second happens at once.
const ORDER: Duration = Duration::from_millis(600);

/// Does what [`on_first`] does, and calls `overdue` if the program has not ended [`ORDER`] later.
///
/// Blocks the signals for this thread and those that it starts from now on: the kernel wakes one thread for a signal
/// (`complete_signal`), which may be one that waits for a disk and does not come back to take it. `Command` unblocks them
/// for what it starts.
pub(crate) fn on_first_and_overdue(
    first: impl FnOnce() + Send + 'static,
    overdue: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let taken = take(first, overdue)?;
    set_of(taken)?.thread_block().map_err(Into::into)
}

fn set_of(signals: &[i32]) -> io::Result<SigSet> {
    signals.iter().map(|&signal| Ok(Signal::try_from(signal)?)).collect()
}

/// Starts the thread that takes the signals. Returns which these are.
fn take(
    first: impl FnOnce() + Send + 'static,
    overdue: impl FnOnce() + Send + 'static,
) -> io::Result<&'static [i32]> {
    let signals: &'static [i32] =
        if outlives_terminal() { &[SIGINT, SIGTERM] } else { &[SIGINT, SIGTERM, SIGHUP] };
    // A signal between the installation of the handler and its registration would be lost: it stays pending meanwhile.
    let before = set_of(signals)?.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let taken = Signals::new(signals);
    before.thread_set_mask()?;
    let mut taken = taken?;
    let wait = move || {
        if taken.forever().next().is_none() {
            return;
        }
        first();
        // Register only now: timeout(1) signals the process and its group, which must count as one request.
        for &signal in signals {
            // 130 is a shell's status for SIGINT. If registering fails, a second signal has no effect.
            let _ = signal_hook::flag::register_conditional_shutdown(
                signal,
                130,
                Arc::new(AtomicBool::new(true)),
            );
        }
        // Normally the program ends meanwhile, and this thread with it.
        thread::sleep(ORDER);
        overdue();
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(|_| signals)
}

/// Whether SIGHUP was ignored when the program started (`SigIgn` of proc_pid_status(5)). True also if `/proc` does not
/// tell.
fn outlives_terminal() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return true };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask, 16).ok());
    ignored.is_none_or(|mask| mask & 1 << (SIGHUP - 1) != 0)
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
