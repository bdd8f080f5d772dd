//! Connections that had several fds. An epoll may have such a connection registered under an fd that was closed before
//! the last one: the kernel keeps that registration, and it cannot be removed by the number of the last fd.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use linger_custody::world::Cookie;

/// Most connections that are remembered. After more than these (killed processes leave some behind), every connection
/// counts as copied.
const MOST: usize = 65_536;

/// The connections that were copied, or sent in a message.
#[derive(Debug, Default)]
pub(super) struct Copied {
    cookies: HashSet<Cookie>,
    all: bool,
}

impl Copied {
    pub(super) fn insert(&mut self, cookie: Cookie) {
        self.all |= self.cookies.len() >= MOST;
        if self.all {
            self.cookies = HashSet::new();
        } else {
            self.cookies.insert(cookie);
        }
    }

    pub(super) fn remove(&mut self, cookie: Cookie) {
        self.cookies.remove(&cookie);
    }

    pub(super) fn contains(&self, cookie: Cookie) -> bool {
        self.all || self.cookies.contains(&cookie)
    }
}

/// The fds under which these epolls of the calling thread have the file of `copy`, or one with its inode. `None` if the kernel
/// does not say.
pub(super) fn registered(epolls: &[&OwnedFd], copy: &OwnedFd) -> Option<Vec<RawFd>> {
    let inode = rustix::fs::fstat(copy).ok()?.st_ino;
    let mut fds = Vec::new();
    for epoll in epolls {
        // This thread's table is its own: `/proc/self` shows another.
        let path = format!("/proc/thread-self/fdinfo/{}", epoll.as_raw_fd());
        fds.extend(targets(&std::fs::read_to_string(path).ok()?, inode)?);
    }
    Some(fds)
}

/// Those of the registered fds besides `fd` that are closed. Those that are open stay registered: the program still
/// expects their events.
pub(super) fn strays(registered: Vec<RawFd>, fd: RawFd, is_open: impl Fn(RawFd) -> bool) -> Vec<RawFd> {
    registered.into_iter().filter(|other| *other != fd && !is_open(*other)).collect()
}

/// The fds of this inode in an epoll's `fdinfo`; `None` if it has a line that cannot be read.
fn targets(told: &str, inode: u64) -> Option<Vec<RawFd>> {
    let mut fds = Vec::new();
    for line in told.lines().filter_map(|line| line.strip_prefix("tfd:")) {
        let (fd, rest) = line.trim_start().split_once(' ')?;
        let of = rest.split(' ').find_map(|word| word.strip_prefix("ino:"))?;
        if u64::from_str_radix(of, 16).ok()? == inode {
            fds.push(fd.parse().ok()?);
        }
    }
    Some(fds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fds_of_an_inode_are_found_among_others() {
        let told = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1f\n\
            tfd:        5 events:       19 data:         1f1f  pos:0 ino:1f sdev:8\n\
            tfd:       31 events:       19 data:             0  pos:0 ino:1f0 sdev:8\n\
            tfd:       17 events:       19 data:             0  pos:0 ino:1f sdev:8\n";
        assert_eq!(targets(told, 0x1f), Some(vec![5, 17]));
        assert_eq!(targets(told, 0x1f0), Some(vec![31]));
        assert_eq!(targets(told, 8), Some(vec![]));
        // An old kernel does not say whose it is: any may be.
        assert_eq!(targets("tfd:        5 events:       19 data:  1\n", 8), None);
    }

    #[test]
    fn what_is_open_goes_on_to_be_reported() {
        assert_eq!(strays(vec![5, 6, 7], 6, |fd| fd == 7), [5]);
    }

    #[test]
    fn what_is_over_is_forgotten_and_too_many_are_all_suspected() {
        let mut copied = Copied::default();
        copied.insert(Cookie(1));
        assert!(copied.contains(Cookie(1)) && !copied.contains(Cookie(2)));
        copied.remove(Cookie(1));
        assert!(!copied.contains(Cookie(1)));
        (0..MOST as u64).for_each(|cookie| copied.insert(Cookie(cookie)));
        assert!(!copied.contains(Cookie(MOST as u64)));
        copied.insert(Cookie(MOST as u64));
        assert!(copied.contains(Cookie(u64::MAX)));
    }
}
