//! What the kernel tells of an io_uring in `/proc/PID/fdinfo/FD`: its own files, and the operations that wait for an event.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::RawFd;

/// How often it is asked. While the ring is busy the kernel leaves all of that out (`mutex_trylock` in `io_uring_show_fdinfo`).
const ASKED: usize = 4;

/// `IORING_OP_ACCEPT`.
const ACCEPT: u32 = 13;

/// The sockets among the files that are registered with a ring, by inode: it holds them also when the process has closed its
/// fds. `None` where the kernel does not tell.
pub(crate) fn registered(process: u32, ring: RawFd) -> Option<Vec<u64>> {
    ask(process, ring, Vec::new(), registered_in)
}

/// Whether a ring waits for a connection.
pub(crate) fn accepts(process: u32, ring: RawFd) -> bool {
    ask(process, ring, false, accepts_in).unwrap_or(false)
}

fn ask<T>(process: u32, ring: RawFd, closed: T, find: impl Fn(&str) -> Option<T>) -> Option<T> {
    for _ in 0..ASKED {
        match fs::read_to_string(format!("/proc/{process}/fdinfo/{ring}")) {
            Ok(text) => match find(&text) {
                None => std::thread::yield_now(),
                known => return known,
            },
            // The ring is closed by now, or its process has ended.
            Err(error) => return (error.kind() == ErrorKind::NotFound).then_some(closed),
        }
    }
    None
}

/// A line for each file, as `    7: socket:[77]`.
fn registered_in(text: &str) -> Option<Vec<u64>> {
    let files =
        part(text, "UserFiles:")?.map_while(|line| line.strip_prefix(' ')?.trim_start().split_once(": "));
    Some(files.filter_map(|(_, name)| socket(name)).collect())
}

/// A line for each operation, as `  op=13, task_works=0`.
fn accepts_in(text: &str) -> Option<bool> {
    let mut waiting = part(text, "PollList:")?.map_while(|line| line.strip_prefix("  op="));
    Some(waiting.any(|line| line.split(',').next() == Some(&ACCEPT.to_string())))
}

/// The lines behind a heading.
fn part<'text>(text: &'text str, heading: &str) -> Option<impl Iterator<Item = &'text str>> {
    let mut lines = text.lines().skip_while(move |line| !line.starts_with(heading));
    lines.next().map(|_| lines)
}

/// The inode of a socket, by the name that `/proc` has for it.
pub(crate) fn socket(name: &str) -> Option<u64> {
    name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "pos:\t0\nflags:\t02000002\nSqThread:\t-1\n";
    const FILES: &str = "UserFiles:\t3\n    0: socket:[77]\n    1: /tmp/a: b\n   12: socket:[9]\n";
    const REST: &str = "UserBufs:\t1\n    0: 0x7f00/4096\nPollList:\n  op=27, task_works=0\n";

    #[test]
    fn the_sockets_of_a_ring_are_those_of_its_own_files() {
        assert_eq!(registered_in(&format!("{HEAD}{FILES}{REST}")), Some(vec![77, 9]));
        assert_eq!(registered_in(&format!("{HEAD}UserFiles:\t0\n{REST}")), Some(Vec::new()));
        assert_eq!(registered_in(HEAD), None, "the ring was busy");
        assert_eq!(registered(u32::MAX, 3), Some(Vec::new()), "nobody is there");
    }

    #[test]
    fn a_ring_that_waits_for_a_connection_is_told_from_one_that_waits_for_data() {
        let accepts = "  op=13, task_works=0\nCqOverflowList:\n";
        assert_eq!(accepts_in(&format!("{HEAD}{FILES}{REST}{accepts}")), Some(true));
        assert_eq!(accepts_in(&format!("{HEAD}{FILES}{REST}CqOverflowList:\n  op=13\n")), Some(false));
        assert_eq!((accepts_in(HEAD), super::accepts(u32::MAX, 3)), (None, false));
    }
}
