//! A thread that works in batches.

use super::trial::{CHOOSE_CLASS, forbidden};

/// Gives the calling thread, and those that it starts from now on, the scheduling class `SCHED_BATCH` (sched(7)): when
/// they are woken they wait for their turn, and do not interrupt the thread that wakes them. Returns false if the class
/// cannot be set.
///
/// In the usual class, each message of a busy server wakes the thread, which interrupts the server: two context
/// switches for each message. In this class the thread runs at once on an idle processor, and otherwise in its turn,
/// mostly when the server waits for its next event. By then several messages have arrived. So the kernel makes the
/// batches, and no message waits for a timer.
///
/// A thread that has another class already keeps it: real-time threads do not interrupt their equals.
pub(crate) fn work_in_batches() -> bool {
    forbidden(&[CHOOSE_CLASS]).is_empty() && ask()
}

fn ask() -> bool {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: takes a number; 0 is the calling thread.
    let class = unsafe { libc::sched_getscheduler(0) };
    if class != libc::SCHED_OTHER {
        return class >= 0;
    }
    // SAFETY: reads a live structure.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) == 0 }
}

#[cfg(test)]
mod tests {
    use super::super::trial::is_filtered;
    use super::*;

    #[test]
    fn a_thread_works_in_batches_and_its_maker_does_not() {
        let class = || {
            // SAFETY: takes a number.
            unsafe { libc::sched_getscheduler(0) }
        };
        let before = class();
        let (got, inner) = std::thread::spawn(move || {
            let got = work_in_batches();
            (got, std::thread::spawn(class).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(class(), before);
        assert!(!got || before != libc::SCHED_OTHER || inner == libc::SCHED_BATCH);
        assert!(got || is_filtered());
    }
}
