//! A thread that works in batches.

use super::trial::{CHOOSE_CLASS, forbidden};

/// Makes the calling thread, and those that it starts from now on, wait for their turn instead of interrupting whoever wakes
/// them (`SCHED_BATCH`, sched(7)). False if that is not to be had.
///
/// A thread that is woken by each message of a busy server interrupts it each time, for two changes of context a message. In this
/// class it runs when the server waits for its next event, on an idle processor at once, and otherwise in its turn: by then several
/// messages are there. So the kernel makes the batches, and no message waits for a timer.
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
