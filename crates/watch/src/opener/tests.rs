//! What a thread without capabilities gets from an opener, which is a thread here.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::process::{Child, Command};

use linger_testing::{Namespace, net, skip};

use super::*;
use crate::kernel::perf::{Perf, processors};
use crate::kernel::tracepoint::{Format, tracefs};

/// Runs `task` without capabilities, with an opener that has those of this process.
fn with_opener<R: Send + 'static>(task: impl FnOnce(&mut Opener) -> R + Send + 'static) -> R {
    let (socket, other) = UnixStream::pair().unwrap();
    let serving = std::thread::spawn(move || serve::serve(&other));
    let asking = std::thread::spawn(move || {
        crate::privilege::give_up_all_capabilities().unwrap();
        let mut opener = Opener::of(socket, None, PATIENCE).unwrap();
        task(&mut opener)
    });
    let result = asking.join().unwrap();
    serving.join().unwrap();
    result
}

/// A process that ends with the test.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The inode of a socket.
fn inode(listener: &TcpListener) -> u32 {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
    let link = link.to_str().unwrap();
    link.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap()
}

#[test]
fn namespaces_and_holders_are_opened_for_who_may_not() {
    if !rustix::process::geteuid().is_root() {
        return skip("root", "there is nothing to give up");
    }
    let namespace = Namespace::new().unwrap();
    let inside = || {
        net::up("lo").unwrap();
        let holder = Command::new("sleep").arg("1000").spawn().unwrap();
        (TcpListener::bind("127.0.0.1:0").unwrap(), Holder(holder))
    };
    let (listener, holder) = namespace.run(inside).unwrap();
    let pid = holder.0.id();
    let id = std::fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().st_ino();
    let (local, socket) = (listener.local_addr().unwrap(), inode(&listener));
    with_opener(move |opener| {
        // Nobody has looked yet.
        let id = NamespaceId::from_inode(id);
        assert_eq!(opener.survey(id).unwrap_err().kind(), io::ErrorKind::NotFound);
        let found = opener.namespaces().unwrap();
        assert!(!found.refused);
        let of_holder = found.found.iter().find(|found| found.inode == id.inode()).unwrap();
        assert_eq!(of_holder.pid, Some(pid));
        let survey = crate::namespaces::survey(opener.survey(id).unwrap(), true);
        let listeners: Vec<_> = survey.listeners.unwrap().iter().map(|socket| socket.local).collect();
        assert_eq!(listeners, [local]);
        assert!(survey.counters.is_some() && survey.addresses.contains(&local.ip()));
        assert_eq!(opener.leftovers(id).unwrap().namespace(), Some(id));
        assert_eq!(opener.owners(&[socket]).unwrap(), [(socket, std::process::id())]);
        assert_eq!(opener.owners(&[]).unwrap(), []);
        let none = NamespaceId::from_inode(1);
        assert_eq!(opener.leftovers(none).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!opener.has_ended());
        // Without the opener this thread may do none of it.
        assert!(is_refused(pid));
        opener.socket.shutdown(std::net::Shutdown::Both).unwrap();
        opener.namespaces().unwrap_err();
        assert!(opener.has_ended());
    });
    drop(holder);
}

#[test]
fn an_opener_that_does_not_answer_is_asked_once() {
    let (socket, other) = UnixStream::pair().unwrap();
    let mut opener = Opener::of(socket, None, Duration::from_millis(10)).unwrap();
    opener.namespaces().unwrap_err();
    assert!(opener.has_ended(), "as good as");
    // A late answer would be that of another request.
    opener.owners(&[1]).unwrap_err();
    drop(opener);
    messages::receive::<OpenerRequest>(&other).unwrap();
    let end = messages::receive::<OpenerRequest>(&other).unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn who_asks_for_too_much_does_not_lose_the_opener() {
    if !rustix::process::geteuid().is_root() {
        return skip("root", "there is nothing to give up");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = inode(&listener);
    with_opener(move |opener| {
        // As many connections as peers care to leave half closed.
        let mut inodes = vec![u32::MAX; 1_000_000];
        inodes[0] = socket;
        assert_eq!(opener.owners(&inodes).unwrap(), [(socket, std::process::id())]);
        assert!(!opener.has_ended());
    });
}

/// Whether the calling thread may not see the namespace of a process.
fn is_refused(pid: u32) -> bool {
    let seen = std::fs::metadata(format!("/proc/{pid}/ns/net"));
    seen.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[test]
fn a_processors_events_are_opened_once_they_are_named_and_they_are_named_once() {
    let format = tracefs().and_then(|tracefs| Format::read(&tracefs, "sock", "inet_sock_set_state"));
    let sources = format.map(|format| vec![Subscription { id: format.id, filter: None }; 2]);
    let can_watch = sources.as_ref().is_ok_and(|sources| Perf::open(sources.clone()).is_ok());
    let Some(sources) = sources.ok().filter(|_| can_watch) else {
        return skip("live tracepoints", "perf events are refused");
    };
    let cpu = processors().unwrap()[0];
    let refused = |result| match result {
        Err(RingError::Other(error)) => io::Error::raw_os_error(&error),
        other => panic!("{other:?}"),
    };
    with_opener(move |opener| {
        assert!(opener.processor(cpu, 64 << 10).is_ok_and(|ring| ring.events.is_empty()), "none is named");
        opener.begin(&sources).unwrap();
        let again = opener.begin(&sources[..1]).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EPERM));
        let ring = opener.processor(cpu, 64 << 10).unwrap();
        assert_eq!((ring.events.len(), ring.cpu, ring.size), (2, cpu, 64 << 10));
        // The opener's own mapping is gone with the next request, and this one stays.
        opener.namespaces().unwrap();
        assert_eq!(ring.counted_lost(), 0);
        assert!(matches!(opener.processor(i32::MAX, 64 << 10), Err(RingError::Other(_))));
        // Rings are memory of the kernel's, which no limit of this process bounds.
        for size in [0, 1, 3 << 20, 4 << 20, 1 << 40, usize::MAX] {
            assert_eq!(refused(opener.processor(cpu, size)), Some(libc::EINVAL), "{size}");
        }
        for at in 1..serve::RINGS.0 {
            assert!(opener.processor(cpu, 64 << 10).is_ok(), "{at}");
        }
        assert_eq!(refused(opener.processor(cpu, 64 << 10)), Some(libc::EDQUOT));
    });
}
