//! The hooks with a supervisor, which is the test: what it is told, and what the program's connection does meanwhile.

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::*;
use crate::protocol::{Message, MessageKind, Nomination};
use crate::{channel, counts, ending, exit, releases, settings};

const TOKEN: [u8; 16] = [7; 16];

/// A command of `fcntl(2)` that copies nothing.
const F_GETFD: i32 = 1;

struct Supervisor {
    listener: OwnedFd,
    process: Option<OwnedFd>,
    _turn: MutexGuard<'static, ()>,
}

/// A message, and the fd that came with it.
struct Told(MessageKind, Message, Option<OwnedFd>);

impl Supervisor {
    /// `more` are settings of the library.
    fn new(more: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let turn = alone();
        // What other tests have left.
        TABLE.fds(0, i32::MAX).for_each(|fd| {
            let _ = TABLE.given_away(fd);
        });
        let name = format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        let token: String = TOKEN.iter().map(|byte| format!("{byte:02x}")).collect();
        settings::set_for_test(Some(&format!("name={name};token={token};{more}")));
        Self { listener, process: None, _turn: turn }
    }

    /// Everything that the library has sent since the last call. It has been sent when a hook returns.
    fn told(&mut self) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            while let Some(process) = &self.process
                && let Some(told) = receive(process)
            {
                all.push(told);
            }
            let Ok(process) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) else {
                return all;
            };
            let hello = receive(&process).unwrap();
            assert_eq!(hello.1, Message::hello(TOKEN));
            self.process = Some(process);
        }
    }

    /// One message, and no more.
    fn one(&mut self) -> Told {
        let [one] = self.told().try_into().unwrap_or_else(|all: Vec<Told>| {
            panic!("{:?}", all.iter().map(|told| told.1).collect::<Vec<_>>())
        });
        one
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        settings::set_for_test(None);
        channel::leave();
        counts::forget();
        releases::forget();
    }
}

fn receive(process: &OwnedFd) -> Option<Told> {
    let mut bytes = [0; Message::SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    match rustix::net::recvmsg(process, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(got) if got.bytes == Message::SIZE => {}
        Ok(_) | Err(Errno::AGAIN) => return None,
        Err(error) => panic!("{error}"),
    }
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let message = Message::from_bytes(&bytes);
    Some(Told(MessageKind::of(message.kind).unwrap(), message, fd))
}

/// A client, and the fd of a connection that the program has accepted through the hook.
fn accepted() -> (TcpStream, i32) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (none, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
    let fd = hooks::accept4(listener.as_raw_fd(), none, nothing, 0);
    assert!(fd >= 0);
    (client, fd)
}

/// The socket of an fd is the one with this cookie.
fn is_of(fd: &OwnedFd, cookie: u64) -> bool {
    sys::cookie(fd.as_raw_fd()) == Some(cookie)
}

#[test]
fn the_last_close_nominates_the_connection_with_where_it_was_accepted() {
    let mut supervisor = Supervisor::new("");
    let before_ms = sys::since_start_ms();
    let (mut client, fd) = accepted();
    let cookie = sys::cookie(fd).unwrap();
    client.write_all(b"unread").unwrap();
    await_bytes(fd);
    let copy = hooks::fcntl(fd, sys::F_DUPFD, 0);
    assert_eq!(hooks::close(fd), 0);
    assert!(supervisor.told().is_empty(), "the program still has it");
    assert_eq!(hooks::close(copy), 0);
    let Told(kind, message, passed) = supervisor.one();
    assert_eq!((kind, message.cookie, message.unread), (MessageKind::Close, cookie, 6));
    let Nomination { origin, process, fd, .. } = message.nomination();
    let (acceptor, accepted_ms) = origin.known().unwrap();
    assert_eq!((process, fd, acceptor), (sys::pid(), copy, sys::pid()));
    assert!((before_ms..=sys::since_start_ms()).contains(&accepted_ms));
    // The supervisor's fd is all that is left: nothing was reset, and no FIN sent.
    let passed = passed.unwrap();
    assert!(is_of(&passed, cookie) && sys::cookie(copy) != Some(cookie));
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// A call that is made by the C library's `syscall`.
fn call(number: i64, a: i32, b: i32, c: usize) -> i32 {
    hooks::syscall(number, a as usize, b as usize, c, 0, 0, 0) as i32
}

/// What copies nothing is the counter-example.
#[test]
fn copies_by_syscall_are_seen() {
    let mut supervisor = Supervisor::new("");
    let calls = [
        ("fcntl", sys::number::FCNTL, sys::F_DUPFD),
        ("fcntl, close-on-exec", sys::number::FCNTL, sys::F_DUPFD_CLOEXEC),
        ("dup", sys::number::DUP, 0),
        ("dup3", sys::number::DUP3, 310),
        #[cfg(target_arch = "x86_64")]
        ("dup2", sys::number::DUP2, 311),
    ];
    for (name, number, second) in calls {
        let (_client, fd) = accepted();
        let cookie = sys::cookie(fd).unwrap();
        assert_eq!(call(sys::number::FCNTL, fd, F_GETFD, 0), 0);
        assert_eq!(TABLE.entry(fd).unwrap().fds, 1, "{name}");
        let copy = call(number, fd, second, 0);
        assert!(copy >= 0 && copy != fd && TABLE.entry(fd).unwrap().fds == 2, "{name}");
        assert_eq!((call(sys::number::CLOSE, fd, 0, 0), supervisor.told().len()), (0, 0), "{name}");
        assert_eq!(call(sys::number::CLOSE_RANGE, copy, copy, 0), 0);
        let Told(kind, message, _) = supervisor.one();
        assert_eq!((kind, message.cookie), (MessageKind::Close, cookie), "{name}");
    }
}

/// One connection that is made, and one that is refused.
#[test]
fn outgoing_connections_by_syscall_are_seen() {
    let mut supervisor = Supervisor::new("outgoing=1");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = listener.local_addr().unwrap().port();
    for (port, is_made) in [(port, true), (refusing, false)] {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let [high, low] = port.to_be_bytes();
        // `struct sockaddr_in`.
        let address: [u8; 16] = [2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let (fd, at) = (socket.into_raw_fd(), address.as_ptr() as usize);
        let made = hooks::syscall(sys::number::CONNECT, fd as usize, at, address.len(), 0, 0, 0);
        assert_eq!((made == 0, state::is_tracked(fd)), (is_made, is_made));
        assert_eq!((hooks::close(fd), supervisor.told().len()), (0, is_made.into()));
    }
}

#[test]
fn a_plain_close_is_counted_and_carries_nothing() {
    let mut supervisor = Supervisor::new("");
    let (client, fd) = accepted();
    client.shutdown(Shutdown::Write).unwrap();
    await_fin(fd);
    assert_eq!(hooks::close(fd), 0);
    let Told(kind, message, passed) = supervisor.one();
    assert_eq!((kind, message.cookie, message.unread), (MessageKind::Counted, Count::Finished as u64, 1));
    assert!(passed.is_none());
}

#[test]
fn a_shutdown_of_both_sides_is_a_half_close_here_and_a_drain_there() {
    let mut supervisor = Supervisor::new("");
    let (mut client, fd) = accepted();
    let cookie = sys::cookie(fd).unwrap();
    assert_eq!(hooks::shutdown(fd, sys::SHUT_RDWR), 0);
    let Told(kind, message, passed) = supervisor.one();
    assert_eq!((kind, message.cookie), (MessageKind::Shutdown, cookie));
    assert!(is_of(&passed.unwrap(), cookie));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    client.write_all(b"late").unwrap();
    await_bytes(fd);
    // The same again, and the close: it is the supervisor's.
    assert_eq!((hooks::shutdown(fd, sys::SHUT_RDWR), hooks::close(fd)), (0, 0));
    assert!(supervisor.told().is_empty());
}

#[test]
fn a_shutdown_of_one_side_is_the_programs() {
    let mut supervisor = Supervisor::new("");
    let (mut client, fd) = accepted();
    assert_eq!(hooks::shutdown(fd, sys::SHUT_WR), 0);
    assert!(supervisor.told().is_empty());
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(hooks::close(fd), 0);
    assert_eq!(supervisor.one().0, MessageKind::Close);
}

#[test]
fn what_is_held_is_let_go_of_without_another_fd() {
    let mut supervisor = Supervisor::new("hold=1");
    let (client, fd) = accepted();
    let cookie = sys::cookie(fd).unwrap();
    let Told(kind, message, passed) = supervisor.one();
    assert_eq!((kind, message.cookie), (MessageKind::Hold, cookie));
    assert!(is_of(&passed.unwrap(), cookie));
    assert_eq!(hooks::close(fd), 0);
    let Told(kind, message, passed) = supervisor.one();
    assert_eq!((kind, message.cookie, passed.is_none()), (MessageKind::Close, cookie, true));
    drop(client);
    // One whose peer has finished: nothing is to be ended, and the copy must go.
    let (client, fd) = accepted();
    let cookie = sys::cookie(fd).unwrap();
    assert_eq!(supervisor.one().0, MessageKind::Hold);
    client.shutdown(Shutdown::Write).unwrap();
    await_fin(fd);
    assert_eq!(hooks::close(fd), 0);
    let told = supervisor.told();
    let kinds: Vec<_> = told.iter().map(|told| (told.0, told.1.cookie)).collect();
    assert_eq!(kinds, [(MessageKind::Release, cookie), (MessageKind::Counted, Count::Finished as u64)]);
    // One that is given away.
    let (_client, fd) = accepted();
    let cookie = sys::cookie(fd).unwrap();
    assert_eq!(supervisor.one().0, MessageKind::Hold);
    ending::given_away(fd);
    let Told(kind, message, _) = supervisor.one();
    assert_eq!((kind, message.cookie), (MessageKind::Release, cookie));
    assert_eq!(hooks::close(fd), 0);
}

/// The epoll has the first fd, so that the close of its copy cannot remove the registration: only the kernel can, with the file.
#[test]
fn what_an_epoll_has_under_a_closed_fd_is_closed_plainly() {
    let mut supervisor = Supervisor::new("");
    for removed in [false, true] {
        let (_client, fd) = accepted();
        let epoll = hooks::epoll_create1(0);
        let mut event = [4u32, 0, 0, 0];
        let mut watch = |operation| hooks::epoll_ctl(epoll, operation, fd, event.as_mut_ptr().cast());
        assert_eq!(watch(1), 0);
        let copy = hooks::dup(fd);
        assert!(!removed || watch(2) == 0);
        assert_eq!((hooks::close(fd), supervisor.told().len()), (0, 0));
        let cookie = sys::cookie(copy).unwrap();
        assert_eq!(hooks::close(copy), 0);
        let Told(kind, message, passed) = supervisor.one();
        let told = (kind, message.cookie, passed.is_some());
        let refused = (MessageKind::Counted, Count::Refused as u64, false);
        assert_eq!(told, if removed { (MessageKind::Close, cookie, true) } else { refused });
        sys::close(epoll);
    }
}

#[test]
fn what_the_exit_of_the_process_closes_is_announced() {
    let mut supervisor = Supervisor::new("");
    let ((_one, first), (_two, second)) = (accepted(), accepted());
    let copy = hooks::dup(second);
    let mut cookies = [first, second].map(|fd| sys::cookie(fd).unwrap());
    exit::exit();
    let told = supervisor.told();
    let mut announced: Vec<u64> = told.iter().map(|told| told.1.cookie).collect();
    announced.sort_unstable();
    cookies.sort_unstable();
    assert_eq!(announced, cookies, "each once");
    assert!(told.iter().all(|told| told.0 == MessageKind::Last && told.2.is_some()));
    [first, second, copy].into_iter().for_each(|fd| {
        sys::close(fd);
    });
}

/// The next program has what is not close-on-exec.
#[test]
fn an_exec_that_fails_takes_back_what_it_has_announced() {
    let mut supervisor = Supervisor::new("");
    let ((_one, stays), (_two, fd)) = (accepted(), accepted());
    let goes = hooks::fcntl(fd, sys::F_DUPFD_CLOEXEC, 0);
    assert_eq!(hooks::close(fd), 0);
    let cookie = sys::cookie(goes).unwrap();
    exit::before_exec();
    let Told(kind, message, passed) = supervisor.one();
    assert_eq!((kind, message.cookie), (MessageKind::Last, cookie));
    assert!(is_of(&passed.unwrap(), cookie));
    exit::after_exec();
    let Told(kind, message, _) = supervisor.one();
    assert_eq!((kind, message.cookie), (MessageKind::Release, cookie));
    // Both are the program's again.
    assert_eq!((hooks::close(goes), hooks::close(stays)), (0, 0));
    assert_eq!(supervisor.told().iter().map(|told| told.0).collect::<Vec<_>>(), [MessageKind::Close; 2]);
}

#[test]
fn a_count_that_an_exec_has_made_too_early_is_taken_back() {
    let mut supervisor = Supervisor::new("");
    let (client, fd) = accepted();
    let goes = hooks::fcntl(fd, sys::F_DUPFD_CLOEXEC, 0);
    assert_eq!(hooks::close(fd), 0);
    client.shutdown(Shutdown::Write).unwrap();
    await_fin(goes);
    exit::before_exec();
    exit::after_exec();
    let told: Vec<_> = supervisor.told().iter().map(|told| (told.0, told.1.cookie)).collect();
    let finished = Count::Finished as u64;
    assert_eq!(told, [(MessageKind::Counted, finished), (MessageKind::Uncounted, finished)]);
    assert_eq!(hooks::close(goes), 0);
}

/// Programs close fds that they do not know.
#[test]
fn the_channel_is_not_the_programs_to_close() {
    let mut supervisor = Supervisor::new("");
    let (_one, fd) = accepted();
    assert_eq!(hooks::close(fd), 0);
    assert_eq!(supervisor.told().len(), 1);
    let channel = channel::descriptor().unwrap();
    assert_eq!((hooks::close(channel), sys::errno()), (-1, sys::EBADF));
    assert_eq!(hooks::close_range(channel as u32, channel as u32, 0), 0);
    let (_two, fd) = accepted();
    assert_eq!(hooks::close(fd), 0);
    assert_eq!((supervisor.told().len(), channel::descriptor()), (1, Some(channel)));
    // It gives way to an fd that the program wants there, and is made anew.
    let (_three, fd) = accepted();
    let (peer, own) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(hooks::dup2(own.as_raw_fd(), channel), channel);
    assert_eq!(hooks::close(fd), 0);
    assert_eq!(supervisor.one().0, MessageKind::Close);
    assert_ne!(channel::descriptor(), Some(channel));
    drop((own, peer));
    assert_eq!(hooks::close(channel), 0);
}

#[test]
fn a_port_that_is_left_out_and_a_socket_that_came_from_elsewhere() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for (setting, told) in [(format!("exclude={port}"), 0), (format!("ports={port}"), 1)] {
        let mut supervisor = Supervisor::new(&setting);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (none, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
        let fd = hooks::accept(listener.as_raw_fd(), none, nothing);
        assert_eq!((hooks::close(fd), supervisor.told().len()), (0, told), "{setting}");
    }
    // Received in a message: nobody knows where it was accepted.
    let mut supervisor = Supervisor::new("");
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let fd = listener.accept().unwrap().0.into_raw_fd();
    ending::received(fd);
    ending::received(listener.as_raw_fd());
    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    ending::received(unix.as_raw_fd());
    assert!(!state::is_tracked(listener.as_raw_fd()) && !state::is_tracked(unix.as_raw_fd()));
    assert_eq!(hooks::close(fd), 0);
    assert_eq!(supervisor.one().1.nomination().origin, Origin::UNKNOWN);
    drop(client);
}

/// What could not be told is told with the next message that is taken.
#[test]
fn a_supervisor_that_hangs_up_leaves_closes_plain_and_counted() {
    let mut supervisor = Supervisor::new("");
    let (_one, fd) = accepted();
    assert_eq!(hooks::close(fd), 0);
    assert_eq!(supervisor.one().0, MessageKind::Close);
    supervisor.process = None;
    let (mut client, fd) = accepted();
    assert_eq!(count(|| assert_eq!(hooks::close(fd), 0)), only(&[(Count::Refused, 1)]));
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "a plain close");
}
