//! Gives the supervisor's scheduling group the weight of the program's.
//!
//! With `kernel.sched_autogroup_enabled` each session is a scheduling group, whose weight `/proc/PID/autogroup` sets (sched(7)).
//! The supervisor has a session of its own. If the program's group has more weight, the supervisor waits for a
//! processor while the program runs, and clients wait for their FIN.

use std::fs;

/// A scheduling group, and its nice value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Autogroup {
    name: String,
    nice: i32,
}

impl Autogroup {
    /// The group of a process, which is given as in `/proc` (a pid, or `self`); `None` if the kernel has no such
    /// groups.
    fn of(process: &str) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/autogroup")).ok()?)
    }

    /// `/autogroup-25 nice -5`
    fn parse(line: &str) -> Option<Self> {
        let (name, nice) = line.trim_end().split_once(" nice ")?;
        Some(Self { name: name.to_owned(), nice: nice.parse().ok()? })
    }
}

/// Gives this process's group the nice value of another process's.
///
/// A value below 0 needs the same right as with `nice(2)`. Without it the group keeps its value: this is best effort.
pub(crate) fn follow(process: u32) {
    if let (Some(other), Some(own)) = (Autogroup::of(&process.to_string()), Autogroup::of("self"))
        && other.name != own.name
        && other.nice != own.nice
    {
        let written = fs::write("/proc/self/autogroup", other.nice.to_string());
        tracing::debug!(?own, ?other, ?written, "the program's scheduling group has another weight");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_is_read() {
        let group = |name: &str, nice| Some(Autogroup { name: name.to_owned(), nice });
        assert_eq!(Autogroup::parse("/autogroup-25 nice -5\n"), group("/autogroup-25", -5));
        assert_eq!(Autogroup::parse("/autogroup-0 nice 19"), group("/autogroup-0", 19));
        assert_eq!(Autogroup::parse("/autogroup-25 nice x"), None);
        assert_eq!(Autogroup::parse(""), None);
        assert_eq!(Autogroup::of("nobody"), None);
    }
}
