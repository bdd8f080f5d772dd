//! The rights that `linger watch` gives up once it has begun.

use std::path::Path;

use linger_watch::{
    Opener, Watcher, confine, give_up_all_capabilities, give_up_capabilities, is_proc_hidden,
};

use crate::output::say;

/// Starts the process that keeps the capabilities; to be called before anything is opened. `None`: this one has to keep them.
pub(super) fn opener() -> Option<Opener> {
    if is_proc_hidden() {
        tracing::info!(
            "capabilities are kept: /proc hides other users' processes (hidepid), whose names take CAP_SYS_PTRACE"
        );
        return None;
    }
    let started = Opener::start();
    started
        .inspect_err(
            |error| tracing::info!(%error, "capabilities are kept: no process can be started for them"),
        )
        .ok()
}

/// Gives up the capabilities that only the start needed; all of them if the opener has taken over. Returns whether it has.
pub(super) fn give_up(watcher: &mut Watcher, opener: Option<Opener>) -> bool {
    let opener = opener.map(|opener| {
        let pid = opener.pid();
        watcher.delegate(opener).map(|()| pid)
    });
    let (is_delegated, given_up) = match opener {
        Some(Ok(pid)) => {
            tracing::info!(pid, "the process linger-opener keeps the capabilities that are needed later");
            (true, give_up_all_capabilities())
        }
        Some(Err(error)) => {
            tracing::info!(%error, "capabilities are kept: the process for them has ended");
            (false, give_up_capabilities())
        }
        None => (false, give_up_capabilities()),
    };
    if let Err(error) = given_up {
        say!("linger: watching with all capabilities, since they cannot be given up: {error}");
        return false;
    }
    is_delegated
}

/// Closes the rest of the file system, and system calls, to this process.
pub(super) fn close(directory: Option<&Path>) {
    let confinement = confine(directory);
    let is_on = |on: bool| if on { "on" } else { "not to be had from this kernel, and left out" };
    tracing::info!(
        landlock = is_on(confinement.files),
        seccomp = is_on(confinement.calls),
        "this process has no capability, and is confined"
    );
}
