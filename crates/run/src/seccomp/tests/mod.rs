//! The supervisor with a program that is a thread of this process: the filter is that thread's alone, and its fds are this
//! process's. The supervisor's thread has a table of fds of its own, as always.

mod closes;
mod stand_in;

use std::io::{IoSliceMut, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, RwLockReadGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use linger_custody::Count;
use linger_preload::protocol::{COUNTS, Message, MessageKind};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::drive::Driver;
use super::eyes::{Kin, Wanted};
use super::{Counts, HOLD_RULES, LEND_RULES, RULES};
use crate::kernel::{Filter, Listener, apart, least_of_own};
use crate::{Options, Refusal};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the supervisor copies the program's fds, or has made them itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Copies,
    Lends,
}

/// A program under supervision.
struct Supervised {
    program: JoinHandle<()>,
    supervisor: JoinHandle<Option<()>>,
    /// What the supervisor hands over arrives here.
    intake: OwnedFd,
    counts: Arc<Counts>,
    refusals: mpsc::Receiver<Refusal>,
    _turn: RwLockReadGuard<'static, ()>,
}

/// What has become of the program's closes.
struct Outcome {
    counts: [u64; COUNTS],
    /// Connections that nobody has taken from the intake yet.
    handed: Vec<Handed>,
}

/// A connection that was handed over.
struct Handed {
    kind: MessageKind,
    unread: u32,
    fd: OwnedFd,
}

impl Supervised {
    fn start(options: &Options, access: Access, program: impl FnOnce() + Send + 'static) -> Self {
        Self::start_late(0, options, access, program)
    }

    /// The guard has continued the program's first `unheard` calls.
    fn start_late(
        unheard: usize,
        options: &Options,
        access: Access,
        program: impl FnOnce() + Send + 'static,
    ) -> Self {
        let turn = crate::turns::minds_processes();
        let lends = access == Access::Lends;
        let mut rules = RULES.to_vec();
        rules.extend(HOLD_RULES.iter().filter(|_| options.hold || lends));
        rules.extend(LEND_RULES.iter().filter(|_| lends));
        let (tell, told) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let program = thread::spawn(move || {
            let _ = tell.send(Filter::new(&rules).install_for_test().unwrap());
            gone.recv().unwrap();
            program();
        });
        let flags = SocketFlags::CLOEXEC;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (intake, theirs) = pair.unwrap();
        rustix::net::sockopt::set_socket_timeout(
            &intake,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )
        .unwrap();
        let (refuse, refusals) = mpsc::channel();
        let (wanted, counts) = (Wanted::new(options, &[], &[]), Arc::new(Counts::default()));
        let own = Arc::clone(&counts);
        let supervisor = apart("linger-watch", vec![told.recv().unwrap(), theirs], move |fds| {
            let [listener, intake]: [OwnedFd; 2] = fds.try_into().unwrap();
            let listener = Listener::new(listener).unwrap().move_up(least_of_own()).unwrap();
            (0..unheard).for_each(|_| listener.go_on_with_next());
            let lends = lends.then(Vec::new);
            Driver::new(listener, intake, Kin::new(None), wanted, own, refuse, lends).unwrap().run();
        });
        go.send(()).unwrap();
        Self { program, supervisor: supervisor.unwrap(), intake, counts, refusals, _turn: turn }
    }

    /// A program that accepts a connection and does something with it; and its client.
    fn serving(
        options: &Options,
        access: Access,
        body: impl FnOnce(TcpStream) + Send + 'static,
    ) -> (Self, TcpStream) {
        let (tell, told) = mpsc::channel();
        let program = move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let _ = tell.send(listener.local_addr().unwrap());
            let stream = listener.accept().unwrap().0;
            body(stream);
        };
        let supervised = Self::start(options, access, program);
        (supervised, connect(told.recv().unwrap()))
    }

    /// The next connection that is handed over.
    fn handed(&self) -> Handed {
        receive(&self.intake, RecvFlags::CMSG_CLOEXEC).expect("a connection is handed over")
    }

    /// Waits until the program has ended, and the supervisor with it.
    fn end(self) -> Outcome {
        self.program.join().unwrap();
        self.supervisor.join().unwrap().unwrap();
        assert_eq!(self.refusals.try_iter().count(), 0, "this process can be looked at");
        let next = || receive(&self.intake, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT);
        Outcome { counts: self.counts.all(), handed: std::iter::from_fn(next).collect() }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn receive(intake: &OwnedFd, flags: RecvFlags) -> Option<Handed> {
    let mut bytes = [0; Message::SIZE];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got =
        rustix::net::recvmsg(intake, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).ok()?.bytes;
    if got == 0 {
        return None;
    }
    assert_eq!(got, Message::SIZE);
    let message = Message::from_bytes(&bytes);
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })?;
    assert_eq!(rustix::net::sockopt::socket_cookie(&fd), Ok(message.cookie), "the message is about its fd");
    Some(Handed { kind: MessageKind::of(message.kind).unwrap(), unread: message.unread, fd })
}

/// These counts, and no others.
fn only(counts: &[(Count, u64)]) -> [u64; COUNTS] {
    let mut all = [0; COUNTS];
    counts.iter().for_each(|(count, number)| all[*count as usize] = *number);
    all
}

/// Everything that comes until the peer's FIN.
fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    all
}

/// Waits until something can be read; what there is stays unread.
fn await_readable(stream: &TcpStream) {
    stream.peek(&mut [0]).unwrap();
}

/// Waits until the peer has finished, or has reset the connection.
fn await_end(stream: &TcpStream) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut one = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::RDHUP)];
    poll(&mut one, None).unwrap();
}
