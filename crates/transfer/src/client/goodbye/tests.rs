//! How often a goodbye is said, and to which servers.

use std::io;
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::cancel::Cancel;
use crate::driver::{Deadlines, Phase, PhaseWork};
use crate::machine::{Role, SessionLimits};
use crate::message::{Durability, Message, Receipt, Time};
use crate::options::{ClientOptions, Input, PutOptions};
use crate::progress::ItemVerdict;
use crate::remote::Destination;
use crate::transport::Plain;

#[test]
fn a_goodbye_is_said_until_it_arrives_if_the_server_answers() {
    let zero = Instant::now();
    let at = |seconds| zero + Duration::from_secs(seconds);
    let goodbyes = || Goodbyes::new(Duration::from_secs(120), zero);
    let mut lost = goodbyes();
    assert!((0..20).all(|second| lost.again(Goodbye::Cut, at(second))));
    assert!(!lost.again(Goodbye::Cut, at(20)), "for long enough");
    let mut lost = goodbyes();
    assert!(
        lost.again(Goodbye::Cut, at(0)) && lost.again(Goodbye::Cut, at(45)),
        "twice, however long it takes"
    );
    assert!(!lost.again(Goodbye::Cut, at(90)));
    let mut lost = goodbyes();
    assert!(lost.again(Goodbye::Cut, at(0)) && lost.again(Goodbye::Unanswered, at(1)));
    assert!(!lost.again(Goodbye::Unanswered, at(2)), "nobody is there");
    let mut lost = goodbyes();
    let answers = [Goodbye::Cut, Goodbye::Unanswered].into_iter().cycle().take(5);
    assert!((0..).zip(answers).all(|(second, answer)| lost.again(answer, at(second))), "sometimes");
}

#[test]
fn a_goodbye_is_said_twice_into_silence_and_never_to_who_has_heard_it() {
    let now = Instant::now();
    let goodbyes = || Goodbyes::new(Duration::from_secs(120), now);
    let mut lost = goodbyes();
    assert!(lost.again(Goodbye::Silent, now));
    assert!(!lost.again(Goodbye::Silent, now));
    // A cut before it does not make silence more worth waiting for. One between shows that somebody is there: the silence
    // after it is a first one again, but not for ever.
    let met = |what: &[(u64, Goodbye)]| {
        let mut lost = goodbyes();
        what.iter()
            .map(|&(second, one)| lost.again(one, now + Duration::from_secs(second)))
            .collect::<Vec<_>>()
    };
    use Goodbye::{Cut, Silent, Unanswered};
    assert_eq!(met(&[(0, Cut), (2, Silent), (4, Silent)]), [true, true, false]);
    for between in [Cut, Unanswered] {
        let all = [(2, Silent), (3, between), (5, Silent), (7, Silent)];
        assert_eq!(met(&all), [true, true, true, false], "{between:?}");
        assert_eq!(met(&[(2, Silent), (10, between), (20, Silent)]), [true, true, false], "{between:?}");
    }
    for over in [Goodbye::Heard, Goodbye::Futile] {
        assert!(!goodbyes().again(over, now), "{over:?}");
    }
}

#[test]
fn patience_bounds_goodbyes_as_well() {
    let now = Instant::now();
    for goodbye in [Goodbye::Cut, Goodbye::Silent] {
        assert!(!Goodbyes::new(Duration::ZERO, now).again(goodbye, now));
    }
    let mut lost = Goodbyes::new(Duration::from_secs(3), now);
    assert!((0..3).all(|_| lost.again(Goodbye::Cut, now)));
    assert!(!lost.again(Goodbye::Cut, now + Duration::from_secs(3)));
}

#[test]
fn what_a_failed_session_says_of_its_goodbye() {
    let cut = |kind: io::ErrorKind| Error::Cut(kind.into());
    for (error, answered, said) in [
        (cut(io::ErrorKind::TimedOut), true, Goodbye::Silent),
        (cut(io::ErrorKind::TimedOut), false, Goodbye::Silent),
        (cut(io::ErrorKind::UnexpectedEof), true, Goodbye::Cut),
        (cut(io::ErrorKind::UnexpectedEof), false, Goodbye::Unanswered),
        (Error::Cancelled, true, Goodbye::Futile),
        (
            Error::Unreachable { what: "x".into(), source: io::ErrorKind::TimedOut.into() },
            false,
            Goodbye::Futile,
        ),
    ] {
        assert_eq!(Goodbye::after(&error, answered), said, "{error:?}, {answered}");
    }
}

/// What a server does about a goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It answers before it is asked, so that no clock decides whether it is in time.
    Answers,
    /// It answers that it has failed.
    Fails,
    Closes,
    /// It keeps the connection and says nothing.
    Keeps,
    /// It says that it works, until the client has left.
    Works,
}

/// Serves one put up to its goodbye.
fn serve(accepted: TcpStream, manner: Manner) -> Option<Session> {
    let plain = Box::new(Plain::new(accepted).unwrap());
    let (role, limits) = (Role::Responder, SessionLimits::default());
    let mut session = Session::with(plain, role, limits, Deadlines::default(), Cancel::new().unwrap());
    let SessionEvent::Opened { stream, .. } = session.receive().unwrap() else { panic!("no request") };
    let say = |session: &mut Session, message: Message| session.message(stream, &message.encode()).unwrap();
    say(&mut session, Message::Accept { ask: false, memory: [0; 16] });
    let mut confirmed = 0;
    loop {
        match session.receive().unwrap() {
            SessionEvent::Message { bytes, .. } => match Message::decode(&bytes).unwrap() {
                Message::End { index, size, hash } => {
                    let (time, name) = (Time::default(), Vec::new());
                    let durability = Durability::Disk;
                    let receipt =
                        Receipt { index, size, hash, durability, time, name, present: false, mode: None };
                    say(&mut session, Message::Receipt(receipt));
                    confirmed += 1;
                }
                Message::Total { .. } => {
                    say(&mut session, Message::Done { confirmed, failed: 0, digest: None, signature: None });
                    session.finish(stream).unwrap();
                    match manner {
                        Manner::Answers => session.goodbye(0, "").unwrap(),
                        Manner::Fails => session.goodbye(1, "").unwrap(),
                        _ => session.flush().unwrap(),
                    }
                }
                _ => {}
            },
            SessionEvent::Bye { code, .. } => {
                assert_eq!(code, 0);
                break;
            }
            _ => {}
        }
    }
    if manner == Manner::Works {
        while session.works(PhaseWork::new(Phase::Disk, 0, 0)).is_ok() && !session.peer_has_left() {
            std::thread::sleep(ANSWER / 40);
        }
    }
    (manner != Manner::Closes).then_some(session)
}

/// Puts a file to a server of this manner. Returns how many goodbyes were said to it.
fn goodbyes_to(manner: Manner) -> usize {
    let from = tempfile::tempdir().unwrap();
    let file = from.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut options = ClientOptions::default();
    options.retry.first = Duration::from_millis(1);
    // Too short for more goodbyes than the least.
    options.retry.patience = Duration::from_millis(1);
    if manner == Manner::Works {
        options.policy = options.policy.with_total(ANSWER + Duration::from_millis(200));
    }
    let client = Client::new("127.0.0.1", address.port(), options).unwrap();
    std::thread::scope(|scope| {
        let putting = scope.spawn(|| {
            let to = Destination::typed(b"copy").unwrap();
            let put = client.put(Input::Path(file), &to, &PutOptions::default(), &mut |_| {});
            // The last connection.
            TcpStream::connect(address).unwrap();
            put
        });
        let mut sessions = Vec::new();
        loop {
            let (accepted, _) = listener.accept().unwrap();
            if accepted.peek(&mut [0]).unwrap() == 0 {
                break;
            }
            // The earlier ones stay open.
            sessions.push(serve(accepted, manner));
        }
        let (summary, error) = putting.join().unwrap();
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
        sessions.len()
    })
}

/// All is confirmed: how long a client stays does not depend on the will of its server.
#[test]
fn whoever_never_answers_a_goodbye_is_left() {
    for (manner, goodbyes) in [
        (Manner::Answers, 1),
        (Manner::Fails, 3),
        (Manner::Closes, 3),
        (Manner::Keeps, 2),
        (Manner::Works, 1),
    ] {
        assert_eq!(goodbyes_to(manner), goodbyes, "{manner:?}");
    }
}

/// A server of an earlier version only closes.
#[test]
fn what_a_close_says_of_the_goodbye_before_it() {
    use linger::{Bound, Ended};
    for (ended, said) in [
        (Ended::PeerClosed, Goodbye::Heard),
        (Ended::PeerReset, Goodbye::Cut),
        (Ended::Gone, Goodbye::Cut),
        (Ended::TimedOut(Bound::Idle), Goodbye::Silent),
        (Ended::TimedOut(Bound::Total), Goodbye::Silent),
    ] {
        assert_eq!(closed(ended), said, "{ended:?}");
    }
}

#[test]
fn a_close_for_which_nobody_waits_is_short_and_no_longer_than_it_would_be() {
    let policy = linger::Policy::default();
    let bounds = |policy: &linger::Policy| (hurried(policy).total, hurried(policy).idle);
    assert!(policy.total > HURRY && policy.idle > HURRY);
    assert_eq!(bounds(&policy), (HURRY, HURRY));
    let short = Duration::from_millis(1);
    assert_eq!(bounds(&policy.with_total(short).with_idle(short)), (short, short));
}
