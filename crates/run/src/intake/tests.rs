//! The thread that the program's processes send to, with this process in the place of one.

use std::io::{IoSlice, Read};
use std::net::{TcpListener, TcpStream};

use linger::Budget;
use linger_preload::protocol::MessageKind;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::*;

struct Trial {
    intake: Intake,
    closer: Closer,
    tally: Arc<Tally>,
    name: String,
    token: [u8; 16],
}

impl Trial {
    fn new() -> Self {
        let address = Address::new().unwrap();
        let (name, token) = (address.name.clone(), address.token);
        let (closer, tally) = (Closer::new(Budget::default()).unwrap(), Arc::new(Tally::default()));
        let intake =
            Intake::start(address, closer.clone(), Policy::default(), 16, Arc::clone(&tally)).unwrap();
        Self { intake, closer, tally, name, token }
    }

    fn connect(&self) -> OwnedFd {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let address = SocketAddrUnix::new_abstract_name(self.name.as_bytes()).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        socket
    }
}

fn send(to: &OwnedFd, message: Message, fd: Option<&TcpStream>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let bytes = message.to_bytes();
    rustix::net::sendmsg(to, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

fn connection() -> (TcpStream, TcpStream, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let own = listener.accept().unwrap().0;
    let cookie = rustix::net::sockopt::socket_cookie(&own).unwrap();
    (peer, own, cookie)
}

/// This process is the supervisor's own thread: what it closes is proved.
#[test]
fn a_close_of_who_knows_the_token_lingers() {
    let trial = Trial::new();
    let process = trial.connect();
    send(&process, Message::hello(trial.token), None);
    let (mut peer, own, cookie) = connection();
    send(&process, Message::about(MessageKind::Close, cookie, 0), Some(&own));
    drop(own);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    drop(peer);
    // Counts of a message that is in the queue at the end are taken as well.
    let gone = linger_preload::protocol::Count::Gone;
    send(&process, Message::about(MessageKind::Counted, gone as u64, 3), None);
    drop(process);
    trial.intake.finish();
    trial.closer.finish(Duration::from_secs(20));
    let ended = trial.closer.snapshot();
    assert_eq!((ended.handed_over, ended.undelivered), (1, 0));
    assert_eq!(trial.tally.all()[gone as usize], 3);
}

#[test]
fn who_does_not_know_the_token_is_turned_away() {
    let trial = Trial::new();
    let stranger = trial.connect();
    let (mut peer, own, cookie) = connection();
    let mut token = trial.token;
    token[15] ^= 1;
    send(&stranger, Message::hello(token), None);
    let mut byte = [0];
    assert_eq!(rustix::net::recv(&stranger, &mut byte[..], RecvFlags::empty()).unwrap().0, 0, "it hangs up");
    // A close without a token: the connection is not touched.
    let stranger = trial.connect();
    send(&stranger, Message::about(MessageKind::Close, cookie, 0), Some(&own));
    assert_eq!(rustix::net::recv(&stranger, &mut byte[..], RecvFlags::empty()).unwrap().0, 0);
    peer.set_nonblocking(true).unwrap();
    assert_eq!(peer.read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    trial.intake.finish();
    assert_eq!(trial.closer.snapshot().handed_over, 0);
}

/// Held here, and let go of with its process, which is no descendant of this one: nobody can say who else has it.
#[test]
fn what_is_held_for_a_process_is_looked_for_when_it_hangs_up() {
    let trial = Trial::new();
    let process = trial.connect();
    send(&process, Message::hello(trial.token), None);
    let (mut peer, own, cookie) = connection();
    send(&process, Message::about(MessageKind::Hold, cookie, 0), Some(&own));
    drop((own, process));
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    trial.intake.finish();
    let refused = linger_preload::protocol::Count::Refused;
    assert_eq!(trial.tally.all()[refused as usize], 1);
    assert_eq!(trial.tally.refusal().unwrap().process, std::process::id());
}

#[test]
fn many_messages_in_a_short_time_are_waited_for_and_few_are_not() {
    let (mut pace, start) = (Pace::new(), Instant::now() + Duration::from_secs(1));
    assert_eq!((pace.pause(start, MUCH - 1), pace.pause(start, 1)), (Duration::ZERO, NAP));
    assert_eq!(pace.pause(start + NAP, MUCH - 1), Duration::ZERO, "a nap later they are counted anew");
}
