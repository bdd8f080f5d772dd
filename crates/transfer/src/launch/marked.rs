//! Finds and kills the processes that carry a mark in their environment.
//!
//! `/proc/PID/environ` is empty, or ends early, while a process executes another program: the kernel has given it its new memory
//! and has not placed the environment there yet (`exec_mmap`, then `create_elf_tables`; `environ_read`). What is read then says
//! nothing. So an environment without the mark counts only if the process had the same program in memory, completely set up,
//! before and after the environment was read.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal};

/// `PF_KTHREAD` and `PF_EXITING` (`include/linux/sched.h`).
const NO_PROGRAM: u64 = 0x0020_0000 | 0x4;

/// The processes that were started with a variable in their environment.
#[derive(Debug)]
pub(super) struct Marked {
    /// `NAME=value`.
    variable: Vec<u8>,
    /// When the first of them was started. An older process is none of them.
    since: u64,
}

/// What is known of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    Marked,
    Other,
    /// It executes another program, or has done so meanwhile.
    Unknown,
}

/// What `/proc/PID/stat` says of a process that has a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessStat {
    /// In ticks since the system was started.
    started: u64,
    /// Where its code ends; 0 until the program is set up.
    code: u64,
    environment: [u64; 2],
}

impl Marked {
    /// `first` is the process that was started with the variable and not reaped yet.
    pub(super) fn new(variable: Vec<u8>, first: Pid) -> Self {
        let since = ProcessStat::of(first).map_or(0, |first| first.started);
        Self { variable, since }
    }

    /// Kills them. Returns whether it is of use to look again: some were found, or of some it is not known.
    pub(super) fn kill(&self) -> bool {
        let Ok(processes) = fs::read_dir("/proc") else { return false };
        let mut again = false;
        for process in processes.flatten() {
            let name = process.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
                continue;
            };
            let found = self.look(pid);
            again |= match found {
                Membership::Other => false,
                Membership::Unknown => true,
                // One that cannot be killed is not waited for.
                Membership::Marked => self.kill_one(pid).is_ok(),
            };
        }
        again
    }

    fn kill_one(&self, pid: Pid) -> rustix::io::Result<()> {
        // The number may be another process's by now: the fd stands for one process, which is looked at again.
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        if self.look(pid) == Membership::Marked {
            rustix::process::pidfd_send_signal(&fd, Signal::KILL)?;
        }
        Ok(())
    }

    fn look(&self, pid: Pid) -> Membership {
        let Some(before) = ProcessStat::of(pid) else { return Membership::Other };
        if before.started < self.since {
            return Membership::Other;
        }
        // Another user's cannot be read.
        let Ok(environment) = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())) else {
            return Membership::Other;
        };
        if environment.split(|byte| *byte == 0).any(|variable| variable == self.variable) {
            return Membership::Marked;
        }
        match ProcessStat::of(pid) {
            Some(after) if before == after && after.has_all(&environment) => Membership::Other,
            Some(_) => Membership::Unknown,
            None => Membership::Other,
        }
    }
}

impl ProcessStat {
    /// `None` for a process without a program: one that has ended or is ending, and a thread of the kernel.
    fn of(pid: Pid) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // proc_pid_stat(5) counts from 1, and the second field is a name, which may contain anything.
        let (_, behind) = text.rsplit_once(')')?;
        let fields: Vec<&str> = behind.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse().ok();
        let is_over = matches!(*fields.first()?, "Z" | "X");
        if is_over || number(9)? & NO_PROGRAM != 0 {
            return None;
        }
        Some(Self { started: number(22)?, code: number(27)?, environment: [number(50)?, number(51)?] })
    }

    /// Whether the program is set up and this is all of its environment.
    fn has_all(&self, environment: &[u8]) -> bool {
        let [start, end] = self.environment;
        self.code != 0 && end.checked_sub(start) == Some(environment.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(flags: u64, code: u64, environment: [u64; 2]) -> String {
        let mut fields = vec!["0".to_owned(); 52];
        (fields[0], fields[1], fields[2]) = ("7".into(), "(a) Z 1 (b)".into(), "S".into());
        for (field, value) in [(9, flags), (22, 500), (27, code), (50, environment[0]), (51, environment[1])]
        {
            fields[field - 1] = value.to_string();
        }
        fields.join(" ")
    }

    #[test]
    fn an_environment_counts_only_when_all_of_it_is_there() {
        let of = |code, environment| ProcessStat::parse(&stat(0, code, environment)).unwrap();
        assert!(of(9, [1000, 1005]).has_all(b"A=bc\0") && of(9, [1000, 1000]).has_all(b""));
        // Cut short; none while the program is set up, before and after its strings are placed; not to be seen.
        assert!(!of(9, [1000, 1005]).has_all(b"A=b") && !of(9, [1000, 1005]).has_all(b""));
        assert!(!of(0, [0, 0]).has_all(b"") && !of(0, [1000, 1005]).has_all(b"A=bc\0"));
        assert!(!of(9, [1005, 1000]).has_all(b""));
        assert_eq!(of(9, [1, 2]), ProcessStat { started: 500, code: 9, environment: [1, 2] });
    }

    #[test]
    fn what_has_no_program_is_none_of_them() {
        let of = |text: &str| ProcessStat::parse(text);
        let living = stat(0x0040_0000, 0, [0, 0]);
        assert!(of(&living).is_some());
        assert!(
            of(&living.replace(") S ", ") Z ")).is_none() && of(&living.replace(") S ", ") X ")).is_none()
        );
        assert!(of(&stat(0x0020_0000, 0, [0, 0])).is_none(), "a thread of the kernel");
        assert!(of(&stat(0x4, 0, [0, 0])).is_none(), "it is ending");
        assert!(of("").is_none() && of("7 (a) S 1 2 3").is_none());
    }
}
