//! Seccomp filters that the program installs: in a process that has installed one, this library makes only the calls that the
//! program asks for.
//!
//! Such a filter permits what the program does. A call that it does not permit may end the process. So the program's connections
//! are closed as without this library, the fd of the connection to the supervisor is no longer protected from the program's own
//! `close` and `dup2`, and the supervisor says that the process is not covered.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::sys;

static ENTERED: AtomicBool = AtomicBool::new(false);

/// Whether the process has installed a filter. From then on nothing is done for its connections.
#[inline]
pub(crate) fn is_entered() -> bool {
    ENTERED.load(Relaxed)
}

/// Whether an operation of `seccomp(2)` restricts the process: `SECCOMP_SET_MODE_STRICT`, `SECCOMP_SET_MODE_FILTER`.
pub(crate) fn is_filter(operation: usize) -> bool {
    operation as u32 <= 1
}

/// Notes that the process is restricted.
pub(crate) fn enter() {
    ENTERED.store(true, Relaxed);
}

/// Whether this process has more than `most` seccomp filters, the number that `linger run` had. If so, a filter was installed
/// before an `execve`, and this library stays inactive. Reads a file, with the calls that the loader has just made: a filter that
/// lets a program start permits them.
pub(crate) fn has_more_filters_than(most: u32) -> bool {
    let _errno = sys::Errno::keep();
    let mut status = [0; 8_192];
    let status = if most == u32::MAX { None } else { sys::read_file(c"/proc/self/status", &mut status) };
    status.is_some_and(|status| filters(status) > most)
}

/// The number of filters by the text of `/proc/PID/status` (`Seccomp_filters`, since Linux 5.9); 0 if it is not there.
fn filters(status: &[u8]) -> u32 {
    let mut lines = status.split(|byte| *byte == b'\n');
    let text = lines.find_map(|line| line.strip_prefix(b"Seccomp_filters:\t")).unwrap_or_default();
    text.iter()
        .fold(0, |number: u32, digit| number.saturating_mul(10).saturating_add(u32::from(*digit & 0xf)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_of_a_process_are_counted() {
        let status = b"Name:\tSeccomp_filters:\t9\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t12\nSpeculation:\tx\n";
        assert_eq!(filters(status), 12);
        assert_eq!(filters(b"Name:\tsh\nSeccomp:\t2\n"), 0);
    }

    #[test]
    fn only_modes_that_restrict_are_filters() {
        // SECCOMP_GET_ACTION_AVAIL, SECCOMP_GET_NOTIF_SIZES
        assert_eq!([0, 1, 2, 3].map(is_filter), [true, true, false, false]);
    }
}
