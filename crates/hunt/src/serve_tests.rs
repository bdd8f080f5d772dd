//! The server that plays a schedule, on real TCP: what it says it has done is what the client at the other end sees.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use linger_lab::Stop;

use crate::schedule::{HuntStep, Schedule};
use crate::serve::{Answering, Forks, PLAIN_BODY, ServedConnection, ServedEnd, ServerWaits, content, serve};

const WAITS: ServerWaits =
    ServerWaits { patience: Duration::from_secs(10), idle: Duration::from_millis(100) };

/// Plays a schedule against a client. Returns what both saw.
fn played<T: Send>(
    schedule: &Schedule,
    payload: Option<&[u8]>,
    client: impl FnOnce(TcpStream) -> T + Send,
) -> (ServedConnection, T) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let answering = Answering { status: 200, payload: payload.map(<[u8]>::to_vec), upload: None };
    thread::scope(|scope| {
        let address = listener.local_addr().unwrap();
        let client = scope.spawn(move || client(TcpStream::connect(address).unwrap()));
        let (socket, _) = listener.accept().unwrap();
        let (halt, forks) = (Stop::new().unwrap(), Forks::default());
        let served = serve(socket.into(), schedule, &answering, &WAITS, (&halt, &forks));
        (served, client.join().unwrap())
    })
}

/// What comes until the end, and whether that is a clean one.
fn rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, true),
            Ok(came) => all.extend_from_slice(&buffer[..came]),
            Err(_) => return (all, false),
        }
    }
}

fn body_of(response: &[u8]) -> &[u8] {
    let head = response.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    &response[head + 4..]
}

const POST: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n";

#[test]
fn a_server_without_steps_for_it_ends_well_and_counts_everything() {
    let schedule = Schedule::of_server([HuntStep::Read { bytes: 5 }]);
    let (served, (response, is_clean)) = played(&schedule, None, |mut stream| {
        stream.write_all(POST).unwrap();
        stream.write_all(b"0123456789").unwrap();
        rest(&mut stream)
    });
    assert_eq!((body_of(&response), is_clean), (&content(0, PLAIN_BODY)[..], true));
    let [exchange] = served.exchanges[..] else { panic!("{served:?}") };
    assert_eq!((exchange.received, exchange.announced, exchange.whole_request), (10, Some(10), true));
    assert_eq!((exchange.answered, exchange.delivered, served.end), (true, true, ServedEnd::Fin));
}

/// A close with unread bytes resets, and yet the client's kernel had all: that is what the count of acknowledged bytes says.
#[test]
fn an_early_answer_is_delivered_before_the_reset() {
    for last in [HuntStep::Close, HuntStep::Abort] {
        let schedule = Schedule::of_server([HuntStep::Respond { body: 3000, sent: 3000 }, last]);
        let (served, (response, is_clean)) = played(&schedule, None, |mut stream| {
            stream.write_all(POST).unwrap();
            // The reset, which leaves in the queue what came before it.
            while stream.write(b"0").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
            rest(&mut stream)
        });
        // The write has taken the error.
        assert_eq!((body_of(&response), is_clean), (&content(0, 3000)[..], true), "{last:?}");
        let [exchange] = served.exchanges[..] else { panic!("{served:?}") };
        assert_eq!((exchange.answered, exchange.delivered), (true, true));
        assert_eq!((exchange.whole_request, served.end), (false, ServedEnd::Closed));
    }
}

/// One byte less, and it is not whole; the default end sends the rest.
#[test]
fn what_was_not_sent_was_not_delivered() {
    let cut = [HuntStep::ReadRequest, HuntStep::Respond { body: 3000, sent: 2999 }];
    for (last, whole, end) in [
        (Some(HuntStep::Close), false, ServedEnd::Closed),
        (Some(HuntStep::HalfClose), false, ServedEnd::Fin),
        (Some(HuntStep::Send { bytes: 50 }), true, ServedEnd::Fin),
        (None, true, ServedEnd::Fin),
    ] {
        let schedule = Schedule::of_server(cut.into_iter().chain(last).collect::<Vec<_>>());
        let (served, (response, is_clean)) = played(&schedule, None, |mut stream| {
            stream.write_all(POST).unwrap();
            stream.write_all(b"0123456789").unwrap();
            rest(&mut stream)
        });
        let [exchange] = served.exchanges[..] else { panic!("{served:?}") };
        assert_eq!((exchange.answered, exchange.delivered, served.end), (whole, whole, end), "{last:?}");
        assert_eq!((exchange.written, is_clean), (if whole { 3000 } else { 2999 }, true), "{last:?}");
        assert_eq!(body_of(&response).len() as u64, exchange.written, "{last:?}");
    }
}

/// The client's end of a connection: a FIN behind half of a body, or a reset, which it makes by leaving the response unread.
#[test]
fn the_end_of_a_client_is_told() {
    let schedule = Schedule::of_server([HuntStep::Respond { body: 3000, sent: 3000 }]);
    for keep_alive in [false, true] {
        let schedule = Schedule { keep_alive, ..schedule.clone() };
        let (served, ()) = played(&schedule, None, |mut stream| {
            stream.write_all(POST).unwrap();
            stream.write_all(b"01234").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            rest(&mut stream);
        });
        let [exchange] = served.exchanges[..] else { panic!("{served:?}") };
        assert_eq!((served.end, exchange.received, exchange.kept), (ServedEnd::Fin, 5, keep_alive));
    }
    let (served, ()) = played(&schedule, None, |mut stream| {
        stream.write_all(POST).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
    });
    assert_eq!(served.end, ServedEnd::Reset, "{served:?}");
}

#[test]
fn a_kept_connection_serves_each_request() {
    let steps = [HuntStep::Respond { body: 20, sent: 0 }, HuntStep::Send { bytes: 20 }];
    let schedule = Schedule { keep_alive: true, ..Schedule::of_server(steps) };
    let (served, heads) = played(&schedule, None, |mut stream| {
        // Pipelined, the third late.
        stream.write_all(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 40]).unwrap();
        stream.write_all(b"GET /3 HTTP/1.1\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        String::from_utf8(rest(&mut stream).0).unwrap().matches("keep-alive").count()
    });
    assert_eq!(served.exchanges.len(), 3, "{served:?}");
    assert!(served.exchanges.iter().all(|exchange| exchange.delivered && exchange.body == Some(20)));
    assert!(heads >= 2);
}

/// A second response waits for its request: before that it would be nobody's.
#[test]
fn a_second_response_waits_for_a_second_request() {
    let one = HuntStep::Respond { body: 20, sent: 20 };
    let schedule = Schedule::of_server([HuntStep::ReadRequest, one, one]);
    let (served, response) = played(&schedule, None, |mut stream| {
        stream.write_all(b"GET /1 HTTP/1.1\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        rest(&mut stream).0
    });
    assert_eq!((served.exchanges.len(), body_of(&response)), (1, &content(0, 20)[..]), "{served:?}");
}

/// curl sends no body of more than a megabyte before it is told to, or a second is over.
#[test]
fn a_client_that_waits_to_be_told_is_told() {
    let schedule = Schedule::of_server([HuntStep::ReadRequest, HuntStep::Respond { body: 1, sent: 1 }]);
    let (served, response) = played(&schedule, None, |mut stream| {
        stream.write_all(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").unwrap();
        let mut told = [0; 25];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"123").unwrap();
        rest(&mut stream).0
    });
    assert!(response.starts_with(b"HTTP/1.1 200") && served.exchanges[0].whole_request, "{served:?}");
    assert!(served.exchanges[0].delivered);
}

#[test]
fn what_is_no_http_is_answered_with_the_payload() {
    let schedule = Schedule::of_server([HuntStep::ReadRequest, HuntStep::Respond { body: 0, sent: 0 }]);
    let (served, response) = played(&schedule, Some(b"had it\n"), |mut stream| {
        stream.write_all(&[7; 5000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        rest(&mut stream).0
    });
    let [exchange] = served.exchanges[..] else { panic!("{served:?}") };
    assert_eq!(response, b"had it\n");
    assert_eq!((exchange.received, exchange.whole_request, exchange.delivered), (5000, true, true));
}

#[test]
fn bodies_are_lines_that_say_where_they_stand() {
    assert_eq!(content(0, 20), b"000000000000000\n0000");
    assert_eq!(content(14, 34), b"0\n000000000000010\n00");
    assert_eq!([content(0, 1000), content(1000, 3000)].concat(), content(0, 3000));
    assert_eq!(content((1 << 20) - 1, (1 << 20) + 3), b"\n000");
}
