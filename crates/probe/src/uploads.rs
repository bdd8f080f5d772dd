//! Questions about bodies that a server may refuse while they come: of a known length, in chunks, and after
//! `Expect: 100-continue`.

use std::io;
use std::time::Duration;

use crate::budget::body;
use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::{CheckAnswer, CheckFinding};
use crate::judge::judge;
use crate::late::late_reader;
use crate::often::{STUCK, worst, worst_form};
use crate::prober::Prober;
use crate::trial::{Continuation, Trial, Until};

/// How much of an upload is written at once, in bytes.
const PIECE: usize = 64 << 10;
/// How long a client waits for 100 Continue before it sends its body all the same, as curl does.
const CONTINUES: Duration = Duration::from_secs(1);

pub(crate) fn in_progress(prober: &Prober) -> CheckFinding {
    let (check, length) = (Check::UploadInProgress, prober.config.upload);
    let ask = RequestShape::with_body("POST", length, length);
    worst(prober, check, length, &[&|prober| upload(prober, check, ask)])
}

/// A body in chunks, whose length the server cannot know: it has no number of bytes to read before it closes.
pub(crate) fn chunked(prober: &Prober) -> CheckFinding {
    let check = Check::ChunkedUpload;
    if prober.dialect.is_fcgi() {
        return CheckFinding::undecided(check, "FastCGI has no chunks: each body ends with a record");
    }
    let whole = RequestShape::chunked("POST", body(&prober.config, prober.active));
    let long = RequestShape::chunked("POST", prober.config.upload);
    let forms = [format!("{} bytes in chunks", whole.body), "an upload in chunks that goes on".to_owned()];
    worst_form(
        prober,
        check,
        long.body,
        &[&|prober| late_reader(prober, check, whole, &[], |_| {}), &|prober| upload(prober, check, long)],
        &|index| forms[index].clone(),
    )
}

/// Uploads until the answer has begun, and then goes on for a while, as a client does that has not read it yet.
fn upload(prober: &Prober, check: Check, ask: RequestShape) -> io::Result<CheckFinding> {
    let mut trial = Trial::open(prober, true)?;
    trial.queue(&prober.dialect.request(RequestShape { body: 0, end: false, ..ask }));
    let (mut left, mut after_answer, mut early) = (ask.body, 0, false);
    while left > 0 && !trial.write_failed() {
        let now = PIECE.min(left);
        trial.queue(&prober.dialect.piece(ask, now));
        if now == left {
            trial.queue(&prober.dialect.end_of(ask));
        }
        trial.send(STUCK);
        left -= now;
        if early || trial.answer_begins(Duration::ZERO) {
            early = true;
            after_answer += now;
            if after_answer >= prober.config.body {
                break;
            }
        }
    }
    trial.late();
    trial.read(Until::Complete, prober.config.patience);
    trial.settle();
    let mut found = judge(prober, check, ask, trial.finish());
    if found.answer == CheckAnswer::Keeps && !early {
        found.sentence.push_str("; it reads the whole upload before it answers");
    }
    Ok(found)
}

/// Asks first whether the body is wanted (RFC 9110 section 10.1.1).
pub(crate) fn expect_continue(prober: &Prober) -> CheckFinding {
    let check = Check::ExpectContinue;
    if prober.dialect.is_fcgi() {
        return CheckFinding::undecided(
            check,
            "a gateway answers `Expect` itself: FastCGI has no such question",
        );
    }
    let length = body(&prober.config, prober.active);
    let ask = RequestShape { expects: true, ..RequestShape::with_body("POST", length, length) };
    // Of equal answers the last is told: the one in which the server may say something to the question.
    let forms = ["a client that sends its body at once", "one that waits for 100 Continue"];
    worst_form(
        prober,
        check,
        length,
        &[&|prober| late_reader(prober, check, ask, &[], |_| {}), &|prober| waits(prober, ask)],
        &|index| forms[index].to_owned(),
    )
}

/// Sends the body if 100 Continue comes, or nothing does; a client that has its answer keeps the body.
fn waits(prober: &Prober, ask: RequestShape) -> io::Result<CheckFinding> {
    let mut trial = Trial::open(prober, true)?;
    trial.queue(&prober.dialect.request(RequestShape { body: 0, end: false, ..ask }));
    trial.send(STUCK);
    let waits = CONTINUES.max(prober.plain * 2).min(prober.config.patience);
    let came = trial.continues(waits);
    if came != Continuation::Answered {
        trial.queue(&prober.dialect.piece(ask, ask.body));
        trial.queue(&prober.dialect.end_of(ask));
        trial.send(STUCK);
    }
    trial.late();
    trial.read(Until::Complete, prober.config.patience);
    trial.settle();
    let mut found = judge(prober, Check::ExpectContinue, ask, trial.finish());
    found.sentence.push_str(&match came {
        Continuation::Continued => "; it asked for the body (100 Continue)".to_owned(),
        Continuation::Answered => "; it answered without the body, which the client kept".to_owned(),
        Continuation::Silent => {
            format!("; no 100 Continue came in {:.1} s, and the client sent its body", waits.as_secs_f64())
        }
    });
    Ok(found)
}
