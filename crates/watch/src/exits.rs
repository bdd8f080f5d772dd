//! Processes that end: who ended them, and one notice for all connections of one process.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use linger_why::Cause;

use crate::diagnose::ProcessEnding;
use crate::events::{ProcessChange, ProcessEvent};
use crate::live_reset::BoxedReset;
use crate::process::{NamedProcess, Processes};

/// A signal longer ago than this is not said to have ended a process (nanoseconds).
const SIGNAL_BEFORE: u64 = 60_000_000_000;
/// Number of ends and of signals remembered. If there are more, all are forgotten.
const MAX: usize = 4_096;
/// A process that is not seen dead after this time is reported as it stands. A blocking close (`SO_LINGER`) may take longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What ended a process, beside itself.
#[derive(Debug)]
enum Killed {
    By { number: i32, sender: Option<NamedProcess>, time_ns: u64 },
    OutOfMemory,
}

/// The latest ends of threads, and the latest signals that end processes.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    threads: HashMap<u32, NamedProcess>,
    signals: HashMap<u32, Killed>,
}

impl Exits {
    pub(crate) fn take(&mut self, event: ProcessEvent, processes: &mut Processes) {
        let ProcessEvent { time_ns, pid, thread, what } = event;
        match what {
            ProcessChange::Exit { name } => {
                // The name of a thread is not always that of its process, which may be gone from /proc.
                if pid == thread {
                    processes.named(pid, &name);
                }
                if let Some(process) = processes.of(pid) {
                    keep(&mut self.threads, thread, process);
                }
            }
            ProcessChange::Signal { number, to } => {
                // An out-of-memory kill sends a signal, too; its own event says more.
                if !matches!(self.signals.get(&to), Some(Killed::OutOfMemory)) {
                    let sender = processes.of(pid);
                    keep(&mut self.signals, to, Killed::By { number, sender, time_ns });
                }
            }
            ProcessChange::OutOfMemory { pid } => keep(&mut self.signals, pid, Killed::OutOfMemory),
        }
    }

    /// The process of a thread that had begun to end, and how it ended.
    pub(crate) fn of(&self, pid: u32, thread: u32, time_ns: u64) -> Option<(NamedProcess, ProcessEnding)> {
        let process = self.threads.get(&thread).filter(|process| process.pid == pid)?;
        let how = match self.signals.get(&pid).or_else(|| self.signals.get(&thread)) {
            Some(Killed::OutOfMemory) => " ended: the kernel killed it for lack of memory".to_owned(),
            Some(Killed::By { number, sender, time_ns: sent })
                if time_ns.saturating_sub(*sent) < SIGNAL_BEFORE =>
            {
                let name = if *number == libc::SIGKILL { "SIGKILL" } else { "SIGTERM" };
                let sender = sender.as_ref().map_or(String::new(), |by| format!(" of {}", by.plain()));
                format!(" ended after a {name}{sender}")
            }
            _ => " ended".to_owned(),
        };
        Some((process.clone(), ProcessEnding { says: format!("the process {}{how}", process.plain()) }))
    }
}

fn keep<K: Eq + Hash, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() >= MAX {
        map.clear();
    }
    map.insert(key, value);
}

/// Resets of processes that ended, collected until the process is dead, so that each process is reported once.
#[derive(Debug, Default)]
pub(crate) struct EndedProcesses {
    collected: HashMap<u32, (Instant, BoxedReset)>,
}

impl EndedProcesses {
    pub(crate) fn is_empty(&self) -> bool {
        self.collected.is_empty()
    }

    /// Adds a reset that the end of the process `pid` made.
    pub(crate) fn add(&mut self, pid: u32, reset: BoxedReset) {
        debug_assert_eq!(reset.cause, Cause::ProcessGone);
        match self.collected.get_mut(&pid) {
            None => {
                self.collected.insert(pid, (Instant::now(), reset));
            }
            Some((_, whole)) => {
                whole.connections += reset.connections;
                whole.others.push((reset.ends(), reset.time_ns()));
                whole.further_resets += reset.further_resets;
                whole.bytes.add(&reset.bytes);
            }
        }
    }

    /// The collected processes that have closed all of their files by now, or were waited for long enough ([`PATIENCE`]). Ask
    /// before the events are read: then no reset of theirs comes later.
    pub(crate) fn dead(&self) -> Vec<u32> {
        let now = Instant::now();
        let over = |(pid, (since, _)): (&u32, &(Instant, BoxedReset))| {
            (is_dead(*pid) || now - *since > PATIENCE).then_some(*pid)
        };
        self.collected.iter().filter_map(over).collect()
    }

    /// Takes the one notice of a process.
    pub(crate) fn take(&mut self, pid: u32) -> Option<BoxedReset> {
        let (_, mut reset) = self.collected.remove(&pid)?;
        if reset.connections > 1 {
            let says = format!(
                "it had {} connections, which were reset with it; this is the first",
                reset.connections
            );
            reset.evidence.push(says);
        }
        Some(reset)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.collected.keys().copied().collect()
    }
}

/// Whether a process has ended, so that its files are closed. Those of a zombie are (`do_exit`: `exit_files` before
/// `exit_notify`).
fn is_dead(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The name in parentheses may contain anything.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(pid: u32, thread: u32, time_ns: u64, what: ProcessChange) -> ProcessEvent {
        ProcessEvent { time_ns, pid, thread, what }
    }

    #[test]
    fn an_end_is_one_of_the_thread_that_closes() {
        let (mut exits, mut processes) = (Exits::default(), Processes::default());
        exits.take(event(7, 7, 5, ProcessChange::Exit { name: b"worker".into() }), &mut processes);
        let (process, ending) = exits.of(7, 7, 6).unwrap();
        assert_eq!(
            (process.pid, &process.name, ending.says.as_str()),
            (7, &"worker".into(), "the process worker[7] ended")
        );
        assert_eq!(exits.of(7, 8, 6), None, "another thread of the process closes: no end made it");
        assert_eq!(exits.of(8, 7, 6), None);
    }

    #[test]
    fn a_signal_is_named_if_it_is_young() {
        let (mut exits, mut processes) = (Exits::default(), Processes::default());
        processes.named(3, b"bash");
        exits.take(event(3, 3, 5, ProcessChange::Signal { number: libc::SIGKILL, to: 7 }), &mut processes);
        exits.take(event(7, 7, 6, ProcessChange::Exit { name: b"worker".into() }), &mut processes);
        let says = |time_ns| exits.of(7, 7, time_ns).unwrap().1.says;
        assert_eq!(says(6), "the process worker[7] ended after a SIGKILL of bash[3]");
        assert_eq!(says(5 + SIGNAL_BEFORE), "the process worker[7] ended");
    }

    #[test]
    fn a_lack_of_memory_is_said_whichever_event_comes_first() {
        for first in [true, false] {
            let (mut exits, mut processes) = (Exits::default(), Processes::default());
            let signal = event(3, 3, 5, ProcessChange::Signal { number: libc::SIGKILL, to: 7 });
            let victim = event(3, 3, 5, ProcessChange::OutOfMemory { pid: 7 });
            for event in if first { [signal, victim] } else { [victim, signal] } {
                exits.take(event, &mut processes);
            }
            exits.take(event(7, 7, 6, ProcessChange::Exit { name: b"worker".into() }), &mut processes);
            assert!(exits.of(7, 7, 6).unwrap().1.says.ends_with("for lack of memory"));
        }
    }

    #[test]
    fn this_process_lives_and_a_pid_that_nobody_has_does_not() {
        assert!(!is_dead(std::process::id()));
        assert!(is_dead(u32::MAX - 1));
    }
}
