//! Gives up what watching does not need once it has begun.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// What is needed later: perf events and their memory on processors that come online, other network namespaces, the bytes
/// of their connections, and the names of other users' processes.
const KEPT: CapabilitySet = CapabilitySet::PERFMON
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::NET_BROADCAST)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Gives up all capabilities that an open [`Watcher`](crate::Watcher) does not use, for the calling thread and the threads that it
/// starts from then on; and no program that they execute gains any.
///
/// # Errors
/// Returns the errors of `capset(2)` and `prctl(2)`.
pub fn give_up_capabilities() -> io::Result<()> {
    let had = capabilities(None)?;
    let kept = CapabilitySets {
        effective: had.effective & KEPT,
        permitted: had.permitted & KEPT,
        inheritable: had.inheritable & KEPT,
    };
    set_capabilities(None, kept)?;
    Ok(set_no_new_privs(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_is_left() {
        // Capabilities belong to a thread: the test's own stay.
        let left = std::thread::spawn(|| {
            let had = capabilities(None).unwrap();
            give_up_capabilities().unwrap();
            (had, capabilities(None).unwrap())
        });
        let (had, left) = left.join().unwrap();
        assert_eq!((left.effective, left.permitted), (had.effective & KEPT, had.permitted & KEPT));
        assert!(!left.permitted.intersects(CapabilitySet::DAC_OVERRIDE | CapabilitySet::SYS_MODULE));
        assert!(!left.permitted.intersects(CapabilitySet::NET_ADMIN | CapabilitySet::SETUID));
    }
}
