//! What the messages of a process do. Its connections are real; its pid is one that no process has.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use linger::{Budget, Closer, Policy};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::*;
use crate::tally::Tally;

/// No process has this pid (`PID_MAX_LIMIT` is 2^22).
const PID: u32 = 1 << 23;
const BY: Sender = Sender { pid: PID, user: 7 };

/// A process that is connected, and what it makes the supervisor do.
struct Trial {
    process: ConnectedProcess,
    shares: Shares,
    ender: Ender,
    closer: Closer,
    tally: Arc<Tally>,
    nominated: Vec<Nominee>,
    other: UnixStream,
    _turn: std::sync::RwLockReadGuard<'static, ()>,
}

/// A connection: the peer's end, the program's, and its cookie.
struct Connection {
    peer: TcpStream,
    own: TcpStream,
    cookie: u64,
}

impl Connection {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let own = listener.accept().unwrap().0;
        let cookie = socket_cookie(&own).unwrap();
        Self { peer, own, cookie }
    }

    /// A copy, as it comes with a message.
    fn copy(&self) -> Option<OwnedFd> {
        Some(self.own.try_clone().unwrap().into())
    }

    /// Closes the program's fd. Returns whether nobody else has the connection, which then ends with a FIN.
    fn closes(self) -> bool {
        let Self { mut peer, own, .. } = self;
        drop(own);
        peer.set_nonblocking(true).unwrap();
        matches!(peer.read(&mut [0]), Ok(0))
    }
}

impl Trial {
    fn new() -> Self {
        Self::with(Shares::new(16, 16), 16)
    }

    fn with(shares: Shares, lingering: usize) -> Self {
        let (closer, tally) = (Closer::new(Budget::default()).unwrap(), Arc::new(Tally::default()));
        let ender = Ender::new(closer.clone(), Policy::default(), Arc::clone(&tally), lingering).unwrap();
        let (ours, other) = UnixStream::pair().unwrap();
        let process = ConnectedProcess::new(ours.into(), &Shares::new(1, 1)).unwrap();
        let _turn = crate::turns::minds_processes();
        Self { process, shares, ender, closer, tally, nominated: Vec::new(), other, _turn }
    }

    fn obey(&mut self, message: Message, fd: Option<OwnedFd>) {
        self.obey_from(message, fd, BY);
    }

    fn obey_from(&mut self, message: Message, fd: Option<OwnedFd>, by: Sender) {
        let nominate = |nominee| self.nominated.push(nominee);
        self.process.obey(&message, fd, by, &self.shares, nominate, &self.ender);
    }

    /// The counts that are not zero.
    fn counts(&self) -> Vec<(Count, u64)> {
        let all = self.tally.all();
        let told = Count::EACH.into_iter().filter(|count| *count != Count::Seen);
        told.map(|count| (count, all[count as usize])).filter(|(_, number)| *number > 0).collect()
    }
}

fn about(kind: MessageKind, connection: &Connection) -> Message {
    let origin = Origin::new(PID.cast_signed(), 5_000);
    Message::about(kind, connection.cookie, 3).by(PID.cast_signed(), 9, origin)
}

#[test]
fn a_close_nominates_the_connection_that_came_with_it() {
    let (mut trial, connection) = (Trial::new(), Connection::new());
    trial.obey(about(MessageKind::Close, &connection), connection.copy());
    let nominee = trial.nominated.pop().unwrap();
    assert_eq!((nominee.cookie, nominee.unread, nominee.closed), (connection.cookie, 3, true));
    assert_eq!(nominee.by, ProcessFd { pid: Pid(PID), fd: 9 });
    assert_eq!(nominee.origin, Origin::UNKNOWN, "no origin has such a pid");
    assert_eq!((nominee.passed.share.user(), trial.counts()), (7, vec![]));
}

/// Whoever else has it: a plain close of it loses nothing.
#[test]
fn what_its_peer_has_finished_meanwhile_is_closed_plainly_and_not_nominated() {
    let finished = |sends: &[u8]| {
        let mut connection = Connection::new();
        connection.peer.write_all(sends).unwrap();
        connection.peer.shutdown(Shutdown::Write).unwrap();
        connection
    };
    let close = |connection: &Connection| Message::about(MessageKind::Close, connection.cookie, 0);
    let (mut trial, connection) = (Trial::new(), finished(b""));
    trial.obey(close(&connection), connection.copy());
    assert_eq!((trial.nominated.len(), trial.counts()), (0, vec![(Count::Finished, 1)]));
    assert!(connection.closes(), "the supervisor has no copy");
    // Each the same but for one thing.
    let shut = Connection::new();
    rustix::net::shutdown(&shut.own, rustix::net::Shutdown::Read).unwrap();
    for (what, connection) in [("late", finished(b"x")), ("open", Connection::new()), ("shut", shut)] {
        let mut trial = Trial::new();
        trial.obey(close(&connection), connection.copy());
        assert_eq!((trial.nominated.len(), trial.counts()), (1, vec![]), "{what}");
    }
    // The program had left bytes unread; the connection is held; the supervisor's own thread has closed it.
    let connection = finished(b"");
    let mut trial = Trial::new();
    trial.obey(about(MessageKind::Close, &connection), connection.copy());
    assert_eq!((trial.nominated.len(), trial.counts()), (1, vec![]));
    let mut trial = Trial::new();
    trial.obey(about(MessageKind::Hold, &connection), connection.copy());
    assert!(trial.process.waits_for(connection.cookie));
    trial.obey(close(&connection), connection.copy());
    assert_eq!((trial.nominated.len(), trial.counts()), (1, vec![]));
    let mut trial = Trial::new();
    trial.obey_from(close(&connection), connection.copy(), Sender { pid: std::process::id(), user: 7 });
    assert_eq!((trial.nominated.len(), trial.counts()), (0, vec![]));
}

/// A process in a pid namespace of its own reports a pid that is another process's here.
#[test]
fn an_origin_is_believed_of_who_knows_the_pids_that_are_known_here() {
    let connection = Connection::new();
    let origin = Origin::new(4_711, 5_000);
    for (process, expected) in [(4_711, origin), (4_712, Origin::UNKNOWN)] {
        let mut trial = Trial::new();
        let message = Message::about(MessageKind::Close, connection.cookie, 0).by(process, 9, origin);
        trial.obey_from(message, connection.copy(), Sender { pid: 4_711, user: 7 });
        assert_eq!(trial.nominated.pop().unwrap().origin, expected, "{process}");
    }
    // Sent before credentials were asked for: by the process that connected, which is this one.
    let mut trial = Trial::new();
    trial.obey_from(about(MessageKind::Close, &connection), connection.copy(), Sender { pid: 0, user: 7 });
    let nominee = trial.nominated.pop().unwrap();
    assert_eq!((nominee.by.pid, nominee.passed.share.user()), (Pid(std::process::id()), trial.process.user));
}

#[test]
fn a_held_connection_is_nominated_by_a_close_without_an_fd() {
    let (mut trial, connection) = (Trial::new(), Connection::new());
    trial.obey(about(MessageKind::Hold, &connection), connection.copy());
    assert!(trial.process.waits_for(connection.cookie) && !trial.process.waits_for(connection.cookie + 1));
    assert_eq!(trial.nominated.len(), 0);
    trial.obey(about(MessageKind::Close, &connection), None);
    assert!(!trial.process.waits_for(connection.cookie));
    assert!(trial.nominated.pop().unwrap().closed);
    // The same once more: there is nothing left to nominate.
    trial.obey(about(MessageKind::Close, &connection), None);
    assert_eq!(
        (trial.nominated.len(), trial.counts()),
        (0, vec![(Count::Refused, 1), (Count::Unread, 1)]),
        "its unread bytes reset it"
    );
}

/// If the message's cookie is another connection's, the fd is not touched, whatever it is.
#[test]
fn an_fd_of_another_connection_than_the_message_names_is_left_alone() {
    for kind in [MessageKind::Close, MessageKind::Hold, MessageKind::Last, MessageKind::Shutdown] {
        let (mut trial, connection, other) = (Trial::new(), Connection::new(), Connection::new());
        trial.obey(about(kind, &connection), other.copy());
        // To hold a connection is no close of it.
        let is_close = kind != MessageKind::Hold;
        let counts = if is_close { vec![(Count::Refused, 1), (Count::Unread, 1)] } else { vec![] };
        assert_eq!((trial.nominated.len(), trial.counts()), (0, counts), "{kind:?}");
        assert!(!trial.process.waits_for(connection.cookie) && other.closes());
    }
}

#[test]
fn what_is_released_is_closed_here_and_not_ended() {
    let (mut trial, connection) = (Trial::new(), Connection::new());
    trial.obey(about(MessageKind::Hold, &connection), connection.copy());
    trial.obey(about(MessageKind::Release, &connection), None);
    assert!(!trial.process.waits_for(connection.cookie) && connection.closes());
    assert_eq!((trial.nominated.len(), trial.counts()), (0, vec![]));
}

#[test]
fn the_fd_that_is_held_stays_and_a_second_one_is_closed() {
    let (mut trial, connection) = (Trial::new(), Connection::new());
    trial.obey(about(MessageKind::Hold, &connection), connection.copy());
    trial.obey(about(MessageKind::Last, &connection), connection.copy());
    assert!(trial.process.waits_for(connection.cookie) && trial.nominated.is_empty());
    let nominees: Vec<Nominee> = trial.process.has_ended().collect();
    let [nominee] = nominees.as_slice() else { panic!("{nominees:?}") };
    // The exit of a process is no close.
    assert_eq!((nominee.cookie, nominee.unread, nominee.closed), (connection.cookie, 3, false));
    drop(nominees);
    assert!(connection.closes());
}

#[test]
fn a_shutdown_is_ended_at_once_for_the_program_has_half_closed() {
    let (mut trial, mut connection) = (Trial::new(), Connection::new());
    rustix::net::shutdown(&connection.own, rustix::net::Shutdown::Write).unwrap();
    trial.obey(about(MessageKind::Shutdown, &connection), connection.copy());
    assert_eq!(trial.counts(), [(Count::Handed, 1), (Count::Unread, 1)]);
    assert_eq!(connection.peer.read(&mut [0]).unwrap(), 0);
    // A second one of the same connection: it is being ended.
    trial.obey(about(MessageKind::Shutdown, &connection), connection.copy());
    assert_eq!(trial.counts(), [(Count::Handed, 1), (Count::Unread, 1)]);
    drop(connection.peer);
    trial.closer.finish(Duration::from_secs(20));
    let ended = trial.closer.snapshot();
    assert_eq!(ended.lingering, 0);
    // At the end the program is told: its read side is shut down as well.
    assert_eq!(connection.own.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_the_supervisors_own_thread_has_proved_is_ended_without_a_nomination() {
    let (mut trial, mut connection) = (Trial::new(), Connection::new());
    let own = Sender { pid: std::process::id(), user: 7 };
    trial.obey_from(about(MessageKind::Close, &connection), connection.copy(), own);
    // The thread has counted it itself.
    assert_eq!((trial.nominated.len(), trial.counts()), (0, vec![]));
    drop(connection.own);
    assert_eq!(connection.peer.read(&mut [0]).unwrap(), 0);
    drop(connection.peer);
    trial.closer.finish(Duration::from_secs(20));
    let ended = trial.closer.snapshot();
    assert_eq!((ended.handed_over, ended.undelivered), (1, 0));
}

#[test]
fn who_has_its_share_of_descriptors_or_of_lingering_ones_is_refused_more() {
    let (mut trial, one, two) = (Trial::with(Shares::new(1, 1), 16), Connection::new(), Connection::new());
    trial.obey(about(MessageKind::Hold, &one), one.copy());
    trial.obey(about(MessageKind::Hold, &two), two.copy());
    assert!(trial.process.waits_for(one.cookie) && !trial.process.waits_for(two.cookie));
    assert_eq!(trial.counts(), [], "the close of what is not held is still to come");
    trial.obey(about(MessageKind::Close, &two), None);
    assert_eq!(trial.counts(), [(Count::Refused, 1), (Count::Unread, 1)]);
    // One user alone may have all that linger, and a second one gets none of them.
    let mut trial = Trial::with(Shares::new(16, 16), 1);
    trial.obey(about(MessageKind::Shutdown, &one), one.copy());
    trial.obey_from(about(MessageKind::Shutdown, &two), two.copy(), Sender { pid: PID, user: 8 });
    assert_eq!(trial.counts(), [(Count::Handed, 1), (Count::Refused, 1), (Count::Unread, 1)]);
}

#[test]
fn a_process_takes_back_no_more_than_it_has_counted() {
    let mut trial = Trial::new();
    let message = |kind, count: Count, number| Message::about(kind, count as u64, number);
    trial.obey(message(MessageKind::Counted, Count::Finished, 2), None);
    trial.obey(message(MessageKind::Counted, Count::Gone, 1), None);
    // Of these the supervisor sees the outcome itself, and of that there is none.
    trial.obey(message(MessageKind::Counted, Count::Handed, 5), None);
    trial.obey(Message::about(MessageKind::Counted, 99, 5), None);
    assert_eq!(trial.counts(), [(Count::Finished, 2), (Count::Gone, 1)]);
    trial.ender.count(Count::Finished, 1);
    for left in [2, 1, 1] {
        trial.obey(message(MessageKind::Uncounted, Count::Finished, 1), None);
        assert_eq!(
            trial.counts(),
            [(Count::Finished, left), (Count::Gone, 1)],
            "another process has counted one"
        );
    }
    trial.obey(message(MessageKind::Uncounted, Count::Aborted, 1), None);
    assert_eq!(trial.counts(), [(Count::Finished, 1), (Count::Gone, 1)]);
}

fn send(to: &UnixStream, bytes: &[u8], fds: &[&OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = [std::io::IoSlice::new(bytes)];
    rustix::net::sendmsg(to, &bytes, &mut control, SendFlags::empty()).unwrap();
}

#[test]
fn a_message_comes_with_its_sender_and_one_fd() {
    let trial = Trial::new();
    rustix::net::sockopt::set_socket_passcred(&trial.process.connection, true).unwrap();
    assert!(matches!(trial.process.receive(&trial.ender), Received::Nothing));
    let (connection, other) = (Connection::new(), Connection::new());
    let message = about(MessageKind::Hold, &connection);
    let (first, second) = (other.copy().unwrap(), connection.copy().unwrap());
    send(&trial.other, &message.to_bytes(), &[&first, &second]);
    drop((first, second));
    let Received::Message(got, fd, by) = trial.process.receive(&trial.ender) else { panic!() };
    assert_eq!((got, by.pid), (message, std::process::id()));
    assert_eq!(socket_cookie(fd.unwrap()), Ok(connection.cookie), "the last one counts");
    assert!(other.closes(), "the first one is not kept");
}

#[test]
fn a_message_of_another_length_and_a_hang_up_are_the_end() {
    let trial = Trial::new();
    send(&trial.other, &[1; Message::SIZE - 1], &[]);
    assert!(matches!(trial.process.receive(&trial.ender), Received::End));
    let Trial { process, ender, other, .. } = Trial::new();
    drop(other);
    assert!(matches!(process.receive(&ender), Received::End));
}

#[test]
fn a_process_is_not_believed_more_closes_than_it_can_have_made() {
    let start = Instant::now();
    let mut claims = Claims::new(start);
    assert_eq!((claims.grant(u32::MAX, start), claims.grant(1, start)), (BEFORE, 0));
    let later = start + Duration::from_millis(10);
    assert_eq!((claims.grant(100, later), claims.grant(u32::MAX, later)), (100, 4_900));
}

#[test]
fn outcomes_that_the_supervisor_sees_are_not_believed() {
    let told = Count::EACH.map(is_told);
    // Seen, Handed, Finished, Drained, Shared, Aborted, Gone, Refused, Unread.
    assert_eq!(told, [false, false, true, false, false, true, true, true, true]);
}
