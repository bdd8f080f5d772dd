//! Does a WebSocket end as it should (RFC 6455 section 7), and does its refusal arrive?
//!
//! Each side says that it ends by a Close frame, and the server closes the connection first. What a server has not read by then makes
//! its kernel answer with a reset, which may take the Close frame: the client is told 1006 (no Close frame came) in place of
//! the code that says why, mostly 1009, as when a message was too long.

pub(crate) mod frames;
pub(crate) mod key;

use std::io;
use std::time::Duration;

use linger_verdict::{Observation, Verdict};

use crate::budget::{EAGER, OVER, body};
use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::{CheckAnswer, CheckFinding, Unlike};
use crate::late::late_reader;
use crate::often::{STUCK, worst, worst_form};
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};
use crate::trial::{Trial, Until};
use key::WebSocketKey;

const CHECK: Check = Check::WebSocket;
/// How much of a message is written at once, in bytes.
const PIECE: usize = 64 << 10;

/// What the client does on the WebSocket.
const FORMS: [&str; 3] = [
    "a client that closes at once",
    "one that closes behind messages",
    "one that sends a message longer than servers take",
];

pub(crate) fn websocket(prober: &Prober) -> CheckFinding {
    if prober.dialect.is_raw() || prober.dialect.is_fcgi() {
        return CheckFinding::undecided(CHECK, "it is asked in HTTP/1.1 only");
    }
    match opened(prober) {
        Ok(Opened::Agreed(mut trial)) => {
            trial.queue(&frames::close());
            trial.send(STUCK);
            trial.read(Until::Complete, prober.moment());
        }
        Ok(Opened::Refused(status)) => return refused(prober, status),
        Ok(Opened::Otherwise(sentence)) => return CheckFinding::undecided(CHECK, &sentence),
        Err(error) => return CheckFinding::undecided(CHECK, &format!("no connection: {error}")),
    }
    let sent = prober.config.upload + OVER;
    worst_form(
        prober,
        CHECK,
        sent,
        &[&|prober| closes(prober, 0), &|prober| closes(prober, body(&prober.config, true)), &too_long],
        &|index| FORMS[index].to_owned(),
    )
}

/// What came of asking for a WebSocket.
enum Opened<'p> {
    Agreed(Box<Trial<'p>>),
    /// With this status.
    Refused(u16),
    /// In a sentence.
    Otherwise(String),
}

/// Asks for a WebSocket, and reads the head of the response.
fn opened(prober: &Prober) -> io::Result<Opened<'_>> {
    let key = WebSocketKey::random()?;
    let mut trial = Trial::open(prober, true)?;
    trial.asks_for_websocket();
    trial.queue(&prober.dialect.request(asking(key)));
    trial.send(STUCK);
    trial.continues(prober.config.patience);
    if trial.websocket().is_some() {
        if !trial.is_upgrade() {
            let text = "it answered 101 without `Upgrade: websocket` and `Connection: Upgrade`: a client gives up there";
            return Ok(Opened::Otherwise(text.into()));
        }
        if trial.websocket_accept().is_some_and(|accept| accept == key.accept()) {
            return Ok(Opened::Agreed(Box::new(trial)));
        }
        let text = "it answered 101, but its Sec-WebSocket-Accept is not of the client's key: a client gives up there";
        return Ok(Opened::Otherwise(text.into()));
    }
    if let Some(wrong) = trial.not_understood() {
        return Ok(Opened::Otherwise(format!("what came is no response: {wrong}")));
    }
    Ok(match trial.status() {
        Some(status) => Opened::Refused(status),
        None => Opened::Otherwise("no answer came to a request for a WebSocket".into()),
    })
}

fn asking(key: WebSocketKey) -> RequestShape {
    RequestShape { websocket: Some(key), ..RequestShape::GET }
}

/// The same, once the server is known to agree.
fn agreed(prober: &Prober) -> io::Result<Trial<'_>> {
    match opened(prober)? {
        Opened::Agreed(trial) => Ok(*trial),
        Opened::Refused(status) => Err(io::Error::other(format!("this time it answered {status}"))),
        Opened::Otherwise(sentence) => Err(io::Error::other(sentence)),
    }
}

/// Sends messages of so many bytes, says that it closes, and reads late.
fn closes(prober: &Prober, messages: usize) -> io::Result<CheckFinding> {
    const EACH: usize = 8 << 10;
    let mut trial = agreed(prober)?;
    for _ in 0..messages / EACH {
        trial.queue(&message(EACH));
    }
    trial.queue(&frames::close());
    trial.send(STUCK);
    trial.late();
    trial.read(Until::Complete, prober.config.patience);
    trial.settle();
    let is_open = trial.is_complete() && !trial.has_ended();
    if is_open {
        // The server is to close first (RFC 6455 section 7.1.1).
        trial.half_close();
        trial.read(Until::Closed, prober.settling());
    }
    Ok(concluded(trial, is_open))
}

/// Sends a message that is longer than many servers take, as long as no Close frame comes and for a while after, as a client does whose
/// user has not been told yet. If none comes, it closes.
fn too_long(prober: &Prober) -> io::Result<CheckFinding> {
    let mut trial = agreed(prober)?;
    let length = prober.config.upload + OVER;
    trial.queue(&frames::binary_head(length));
    let (mut left, mut after_close) = (length, 0);
    while left > 0 && !trial.write_failed() && !trial.has_ended() {
        let now = PIECE.min(left);
        trial.queue(&vec![b'm'; now]);
        trial.send(STUCK);
        left -= now;
        // A server may send messages of its own meanwhile.
        trial.read(Until::Complete, Duration::ZERO);
        if trial.is_complete() {
            after_close += now;
            if after_close >= prober.config.body {
                break;
            }
        }
    }
    if left == 0 {
        trial.queue(&frames::close());
        trial.send(STUCK);
    }
    trial.read(Until::Complete, prober.config.patience);
    trial.settle();
    // A server that closes first may wait for the client's Close frame, which cannot come in the middle of a message.
    Ok(concluded(trial, false))
}

/// A client's binary message.
fn message(length: usize) -> Vec<u8> {
    let mut frame = frames::binary_head(length);
    frame.resize(frame.len() + length, b'm');
    frame
}

fn concluded(trial: Trial<'_>, waits: bool) -> CheckFinding {
    let code = trial.websocket().and_then(frames::ServerFrames::code);
    let seen = trial.finish();
    let (answer, verdict, sentence) = answer(&seen, code, waits);
    CheckFinding { verdict, ..CheckFinding::of(CHECK, answer, &seen, sentence) }
}

/// The answer, the verdict on the Close frame, and a sentence. `waits`: whether the server left the end of the connection to the client,
/// which had closed.
fn answer(seen: &TrialResult, code: Option<u16>, waits: bool) -> (CheckAnswer, Option<Verdict>, String) {
    let close = code.map_or("its Close frame".to_owned(), |code| format!("its Close frame ({code})"));
    let reset = seen.ended.is_reset();
    if let Some(invalid) = seen.invalid.as_ref().filter(|_| !reset) {
        return (CheckAnswer::CannotTell, None, format!("what came is {invalid}: a client gives up there"));
    }
    if seen.is_endless {
        let sentence = format!("{} bytes came, and no Close frame", seen.got);
        return (CheckAnswer::CannotTell, None, sentence);
    }
    let verdict = Observation { complete: seen.complete, reset, write_failed: seen.write_failed }.verdict();
    let (answer, sentence) = match verdict {
        Verdict::Kept if waits => {
            let text = "came, but the server did not close the connection: it leaves that to the client (RFC 6455 section 7.1.1)";
            (CheckAnswer::Stalls, format!("{close} {text}"))
        }
        Verdict::Kept if seen.ended == ConnectionEnd::Open => {
            (CheckAnswer::Keeps, format!("{close} came, and the server waits for the client's"))
        }
        Verdict::Kept => (CheckAnswer::Keeps, format!("{close} came, and the server closed in order")),
        Verdict::AtRisk if reset => {
            let text = "what is still on its way at that moment is lost, and the client told 1006 in place of the code";
            (CheckAnswer::AtRisk, format!("{close} came, but the server then reset the connection: {text}"))
        }
        Verdict::AtRisk => {
            let text = "a client that stops there does not see the frame";
            (CheckAnswer::AtRisk, format!("{close} came, but a write of the client's failed: {text}"))
        }
        Verdict::Lost if reset => {
            let text = "before a Close frame came: the client is told 1006, and not why";
            (CheckAnswer::Loses, format!("the server reset the connection {text}"))
        }
        Verdict::Lost if seen.ended == ConnectionEnd::Closed => {
            let text = "without a Close frame: the client is told 1006 (RFC 6455 section 7.1.5)";
            (CheckAnswer::LosesSilently, format!("the connection ended in order and {text}"))
        }
        Verdict::Lost => {
            let seconds = seen.elapsed.as_secs_f64();
            (CheckAnswer::Stalls, format!("no Close frame came in {seconds:.1} s, and no end"))
        }
    };
    (answer, Some(verdict), sentence)
}

/// Sends a frame right behind the request, as a client does that does not wait for the server to agree. The refusal is a response like any
/// other.
fn refused(prober: &Prober, status: u16) -> CheckFinding {
    let eager = message(EAGER);
    let mut found = worst(
        prober,
        CHECK,
        eager.len(),
        &[&|prober| late_reader(prober, CHECK, asking(WebSocketKey::random()?), &eager, |_| {})],
    );
    // That it is refused says nothing of the page.
    found.unlike = found.unlike.filter(|unlike| *unlike == Unlike::NoAnswer);
    if found.answer == CheckAnswer::Keeps {
        (found.answer, found.verdict) = (CheckAnswer::CannotTell, None);
        found.sentence = format!(
            "it answered {status}, and speaks no WebSocket here; that answer arrives when a frame follows the request"
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn closed() -> TrialResult {
        TrialResult {
            got: 2,
            expected: None,
            complete: true,
            unframed: false,
            is_endless: false,
            is_unsure: false,
            location: None,
            status: Some(101),
            server: None,
            framing: "close-frame",
            ended: ConnectionEnd::Closed,
            code: None,
            invalid: None,
            is_tls_cut: false,
            write_failed: false,
            elapsed: Duration::ZERO,
            round_trip: Duration::ZERO,
            counters: BTreeMap::new(),
        }
    }

    #[test]
    fn one_field_away_from_a_close_that_is_kept() {
        let of = |seen: &TrialResult| answer(seen, Some(1000), false).0;
        assert_eq!(of(&closed()), CheckAnswer::Keeps);
        assert_eq!(of(&TrialResult { ended: ConnectionEnd::Open, ..closed() }), CheckAnswer::Keeps);
        assert_eq!(answer(&closed(), Some(1000), true).0, CheckAnswer::Stalls);
        for ended in [ConnectionEnd::Reset, ConnectionEnd::ClosedThenReset] {
            assert_eq!(of(&TrialResult { ended, ..closed() }), CheckAnswer::AtRisk, "{ended}");
            assert_eq!(
                of(&TrialResult { ended, complete: false, ..closed() }),
                CheckAnswer::Loses,
                "{ended}"
            );
        }
        assert_eq!(of(&TrialResult { write_failed: true, ..closed() }), CheckAnswer::AtRisk);
        let none = || TrialResult { complete: false, ..closed() };
        assert_eq!(of(&none()), CheckAnswer::LosesSilently);
        assert_eq!(of(&TrialResult { ended: ConnectionEnd::Silent, ..none() }), CheckAnswer::Stalls);
        assert_eq!(of(&TrialResult { invalid: Some("x".into()), ..none() }), CheckAnswer::CannotTell);
        assert_eq!(of(&TrialResult { is_endless: true, ..none() }), CheckAnswer::CannotTell);
    }
}
