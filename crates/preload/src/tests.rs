//! The hooks on real sockets, called by name: in this process they replace nothing, and there is no supervisor, so that
//! what would be handed over is refused.

mod supervised;

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use linger_custody::{Count, Origin};

use crate::counts::untold;
use crate::state::TABLE;
use crate::{hooks, state, sys};

/// The counts and the table are the process's, so its tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let turn = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    state::prepare();
    turn
}

/// A client, and the fd of a connection that the table knows.
fn connection() -> (TcpStream, i32) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let fd = listener.accept().unwrap().0.into_raw_fd();
    let cookie = sys::cookie(fd).unwrap();
    assert_eq!(TABLE.accepted(fd, cookie, Origin::UNKNOWN, false), None);
    (client, fd)
}

/// What is counted while `body` runs.
fn count(body: impl FnOnce()) -> [u64; Count::ALL] {
    let before = Count::EACH.map(untold);
    body();
    std::array::from_fn(|at| untold(Count::EACH[at]) - before[at])
}

fn only(counts: &[(Count, u64)]) -> [u64; Count::ALL] {
    let mut all = [0; Count::ALL];
    counts.iter().for_each(|(count, number)| all[*count as usize] = *number);
    all
}

fn await_fin(fd: i32) {
    assert_ne!(sys::poll(fd, sys::POLLRDHUP, 10_000_000) & sys::POLLRDHUP, 0);
}

fn await_bytes(fd: i32) {
    assert_ne!(sys::poll(fd, sys::POLLIN, 10_000_000) & sys::POLLIN, 0);
}

#[test]
fn the_last_of_two_fds_ends_the_connection() {
    let _alone = alone();
    let (_client, fd) = connection();
    let copy = hooks::dup(fd);
    assert_eq!(count(|| assert_eq!(hooks::close(fd), 0)), only(&[]));
    let refused = only(&[(Count::Refused, 1)]);
    assert_eq!(count(|| assert_eq!(hooks::close(copy), 0)), refused);
    assert_eq!(hooks::close(copy), -1);
}

#[test]
fn a_peer_that_has_finished_loses_nothing() {
    let _alone = alone();
    let (mut client, fd) = connection();
    client.shutdown(Shutdown::Write).unwrap();
    await_fin(fd);
    assert_eq!(count(|| assert_eq!(hooks::close(fd), 0)), only(&[(Count::Finished, 1)]));
    // The FIN, and no reset.
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

/// What is unread may be a child's to read, also when the peer has finished: nothing is read here.
#[test]
fn what_is_unread_stays_so() {
    use std::io::Write;
    let _alone = alone();
    let (mut client, fd) = connection();
    client.write_all(b"unread").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    await_bytes(fd);
    await_fin(fd);
    let child = sys::fcntl(fd, sys::F_DUPFD, 0).unwrap();
    let refused = only(&[(Count::Refused, 1), (Count::Unread, 1)]);
    assert_eq!(count(|| assert_eq!(hooks::close(fd), 0)), refused);
    assert_eq!(sys::unread(child), 6);
    sys::close(child);
}

/// Such bytes need not make a connection readable (`tcp_epollin_ready`).
#[test]
fn what_is_below_the_programs_low_water_mark_is_unread() {
    use std::io::Write;
    let _alone = alone();
    let (mut client, fd) = connection();
    let mark = 100i32;
    let size = size_of_val(&mark) as u32;
    assert_eq!(hooks::setsockopt(fd, sys::SOL_SOCKET, sys::SO_RCVLOWAT, (&raw const mark).cast(), size), 0);
    client.write_all(b"unread").unwrap();
    while sys::unread(fd) < 6 {
        std::thread::yield_now();
    }
    let refused = only(&[(Count::Refused, 1), (Count::Unread, 1)]);
    assert_eq!(count(|| assert_eq!(hooks::close(fd), 0)), refused);
}

#[test]
fn a_reset_that_the_program_asks_for_is_one() {
    let _alone = alone();
    let (mut client, fd) = connection();
    let linger = [1i32, 0];
    let size = size_of_val(&linger) as u32;
    assert_eq!(hooks::setsockopt(fd, sys::SOL_SOCKET, sys::SO_LINGER, linger.as_ptr().cast(), size), 0);
    let aborted = only(&[(Count::Aborted, 1)]);
    assert_eq!(count(|| assert_eq!(hooks::close(fd), 0)), aborted);
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn another_socket_under_the_number_is_left_alone() {
    let _alone = alone();
    let (client, fd) = connection();
    let (mut peer, other) = std::os::unix::net::UnixStream::pair().unwrap();
    // A bare call closes it, and puts another socket in its place.
    assert_eq!(sys::dup2(other.as_raw_fd(), fd), fd);
    drop(other);
    assert_eq!(count(|| assert_eq!(hooks::close(fd), 0)), only(&[]));
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    drop(client);
}

#[test]
fn what_is_replaced_is_closed_first() {
    let _alone = alone();
    let (_client, fd) = connection();
    let (_other, over) = connection();
    let refused = only(&[(Count::Refused, 1)]);
    assert_eq!(count(|| assert_eq!(hooks::dup2(fd, over), over)), refused);
    // A bad fd replaces nothing.
    assert_eq!(count(|| assert_eq!(hooks::dup2(99_999, over), -1)), only(&[]));
    assert_eq!(count(|| assert_eq!(hooks::close(fd), 0)), only(&[]));
    assert_eq!(count(|| assert_eq!(hooks::close(over), 0)), refused);
}

#[test]
fn an_epoll_is_told_of_no_connection_that_was_handed_over() {
    let _alone = alone();
    let (_client, fd) = connection();
    let epoll = hooks::epoll_create1(0);
    // An event of 12 bytes where it is packed, and of 16 elsewhere.
    let mut event = [4u32, 0, 0, 0];
    assert_eq!(hooks::epoll_ctl(epoll, 1, fd, event.as_mut_ptr().cast()), 0);
    let copy = sys::fcntl(fd, sys::F_DUPFD, 0).unwrap();
    assert_eq!(hooks::close(fd), 0);
    // The file lives on in a copy that the table does not know, as it would with the supervisor.
    assert_eq!(sys::poll(epoll, sys::POLLIN, 0), 0);
    sys::close(copy);
    sys::close(epoll);
}
