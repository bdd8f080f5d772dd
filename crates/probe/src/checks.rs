//! The questions that an ordinary client may ask a server: how to ask each of them, and what its answer is. The
//! questions of a hostile client are in `hostile`.

use std::time::{Duration, Instant};

use crate::budget::{self, PIPELINED, is_quiet};
use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::{CheckAnswer, CheckFinding, LeftOut};
use crate::hostile;
use crate::http2;
use crate::judge::{by_status, judge};
use crate::keep_alive::keep_alive;
use crate::late::late_reader;
use crate::model::LARGE;
use crate::often::{STUCK, Variant, cut_short, too_late, worst, worst_form};
use crate::prober::Prober;
use crate::reload::reload;
use crate::request::AskedMethod;
use crate::seen::ConnectionEnd;
use crate::trial::{Trial, Until};
use crate::uploads;
use crate::websocket::websocket;

pub(crate) fn ask(prober: &Prober, check: Check) -> CheckFinding {
    let raw = prober.dialect.is_raw();
    if !prober.active && !is_quiet(check) {
        let text = "not asked: it would ask more of a server that others use, too, than a visitor does";
        return CheckFinding { left_out: Some(LeftOut::Active), ..CheckFinding::undecided(check, text) };
    }
    if prober.is_late() {
        return too_late(check);
    }
    // A reload is the same question in each protocol: its clients differ.
    let is_of_http2 = prober.config.http2 && check != Check::Reload;
    let finding = if is_of_http2 { http2::ask(prober, check) } else { ask_in_order(prober, check, raw) };
    // What a trial found before the time was over stays; what it stopped waiting for then is no finding.
    if prober.deadline.has_cut() && !is_repeated(check) && finding.answer != CheckAnswer::Loses {
        return cut_short(check);
    }
    finding
}

/// Whether a check is made of trials that are judged one by one ([`worst`]), so that each was looked at for that.
fn is_repeated(check: Check) -> bool {
    use Check::*;
    !matches!(check, KeepAlive | IdleOpen | Drip | EndlessUpload | Backlog | Reload)
}

fn ask_in_order(prober: &Prober, check: Check, raw: bool) -> CheckFinding {
    match check {
        Check::UnreadBody
        | Check::UploadInProgress
        | Check::ChunkedUpload
        | Check::ExpectContinue
        | Check::Pipelined
        | Check::Stall
        | Check::EndlessUpload
            if raw =>
        {
            CheckFinding::undecided(
                check,
                "the protocol is unknown, so there is no request body to leave unread",
            )
        }
        Check::LargeResponse => large_response(prober),
        Check::UnreadBody => unread_body(prober),
        Check::TrailingBytes => trailing_bytes(prober),
        Check::LateByte => late_byte(prober),
        Check::Pipelined => pipelined(prober),
        Check::HalfClose => half_close(prober),
        Check::UploadInProgress => uploads::in_progress(prober),
        Check::ChunkedUpload => uploads::chunked(prober),
        Check::ExpectContinue => uploads::expect_continue(prober),
        Check::Stall => stall(prober),
        Check::KeepAlive => keep_alive(prober),
        Check::WebSocket => websocket(prober),
        Check::IdleOpen => by_status(&prober.model, hostile::idle_open(prober)),
        Check::Drip => hostile::drip(prober),
        Check::EndlessUpload => hostile::endless_upload(prober),
        Check::Backlog => hostile::backlog(prober),
        Check::Reload => reload(prober),
    }
}

fn large_response(prober: &Prober) -> CheckFinding {
    let check = Check::LargeResponse;
    if prober.expected.is_some_and(|expected| expected < LARGE) {
        let text =
            "would fit into the server's send buffer whatever it does: name a path with more than 64 KB";
        return CheckFinding::undecided(
            check,
            &format!("the response's {} bytes {text}", prober.expected.unwrap_or(0)),
        );
    }
    worst(prober, check, 0, &[&|prober| late_reader(prober, check, RequestShape::GET, &[], |_| {})])
}

fn unread_body(prober: &Prober) -> CheckFinding {
    let (check, large) = (Check::UnreadBody, budget::body(&prober.config, prober.active));
    let variant = |method, body| {
        move |prober: &Prober| {
            late_reader(prober, check, RequestShape::with_body(method, body, body), &[], |_| {})
        }
    };
    let asked = budget::unread_bodies(&prober.config, prober.active);
    let variants: Vec<_> = asked.iter().map(|(method, body)| variant(method, *body)).collect();
    let variants: Vec<&Variant<'_>> = variants.iter().map(|variant| variant as &Variant<'_>).collect();
    worst_form(prober, check, large, &variants, &|index| {
        let (method, body) = asked[index];
        let method = prober.config.method.as_ref().map_or(method, AskedMethod::name);
        format!("{method} with {body} bytes of body")
    })
}

fn trailing_bytes(prober: &Prober) -> CheckFinding {
    let check = Check::TrailingBytes;
    if prober.dialect.is_fcgi() {
        // FastCGI: the empty STDIN record in a packet of its own, after the server has begun its answer.
        let ask = RequestShape { end: false, ..RequestShape::GET };
        let end = prober.dialect.body_end();
        return worst(
            prober,
            check,
            end.len(),
            &[&|prober| {
                late_reader(prober, check, ask, &[], |trial| {
                    trial.answer_begins(prober.moment());
                    trial.queue(&end);
                    trial.send(STUCK);
                })
            }],
        );
    }
    let surplus = prober.dialect.surplus();
    let ask = RequestShape::GET;
    worst(prober, check, surplus.len(), &[&|prober| late_reader(prober, check, ask, &surplus, |_| {})])
}

fn late_byte(prober: &Prober) -> CheckFinding {
    let (check, surplus) = (Check::LateByte, prober.dialect.surplus());
    let variant = |waits: bool| {
        let surplus = &surplus;
        move |prober: &Prober| {
            late_reader(prober, check, RequestShape::GET, &[], |trial| {
                trial.answer_begins(prober.config.patience);
                if waits {
                    prober.deadline.sleep(prober.config.delay);
                }
                trial.queue(&surplus[..1]);
                trial.send(STUCK);
            })
        }
    };
    if !prober.active {
        return worst(prober, check, 1, &[&variant(false)]);
    }
    // A server may look once more for bytes, and then close: the later byte meets that close.
    let forms = ["a byte as the response begins", "one when the client is about to read"];
    worst_form(prober, check, 1, &[&variant(false), &variant(true)], &|index| forms[index].to_owned())
}

fn pipelined(prober: &Prober) -> CheckFinding {
    let check = Check::Pipelined;
    let method = if prober.active { "POST" } else { "GET" };
    let second = prober.dialect.request(RequestShape::with_body(method, PIPELINED, PIPELINED));
    let ask = RequestShape::GET;
    worst(prober, check, second.len(), &[&|prober| late_reader(prober, check, ask, &second, |_| {})])
}

fn half_close(prober: &Prober) -> CheckFinding {
    let check = Check::HalfClose;
    worst(
        prober,
        check,
        0,
        &[&|prober| {
            let mut trial = Trial::open(prober, true)?;
            // The request and the FIN are in one segment, so that every server gets both at the same time.
            trial.queue(&prober.dialect.request(RequestShape::GET));
            trial.send_and_half_close(STUCK);
            trial.late();
            trial.read(Until::Complete, prober.config.patience);
            trial.settle();
            Ok(judge(prober, check, RequestShape::GET, trial.finish()))
        }],
    )
}

/// Sends half of a body. If the answer then begins, sends nothing more: does the answer arrive completely all the same?
fn stall(prober: &Prober) -> CheckFinding {
    let (check, body) = (Check::Stall, prober.config.body);
    let ask = RequestShape::with_body("POST", 2 * body, body);
    worst(
        prober,
        check,
        2 * body,
        &[&|prober| {
            let mut trial = Trial::open(prober, false)?;
            trial.queue(&prober.dialect.request(ask));
            trial.send(STUCK);
            if !trial.answer_begins(prober.holding()) {
                trial.queue(&prober.dialect.body(body));
                trial.queue(&prober.dialect.body_end());
                trial.read(Until::Complete, prober.config.patience);
                let seen = trial.finish();
                let sentence = "the server answers only when it has the whole request: nobody waits for what will not come";
                let answered = (seen.complete || seen.got > 0) && !prober.model.is_unlike(seen.status);
                let answer = if answered { CheckAnswer::Keeps } else { CheckAnswer::CannotTell };
                return Ok(CheckFinding::of(check, answer, &seen, sentence.into()));
            }
            // A FastCGI gateway may see the response's end only at the end of the connection (nginx does).
            let closed = prober.dialect.is_fcgi();
            // Ten times what a plain answer takes, at least 2.5 s, and at most the configured patience. With a fast server the
            // 2.5 s end before uWSGI gives up the rest of a body, after 4 s, and ends the answer for that reason.
            let holding = (prober.plain * 10).max(Duration::from_millis(2500)).min(prober.config.patience);
            let began = Instant::now();
            trial.read(if closed { Until::Closed } else { Until::Complete }, holding);
            if trial.not_understood().is_some() {
                return Ok(judge(prober, check, ask, trial.finish()));
            }
            let unframed = trial.ends_with_connection();
            let done = |trial: &Trial<'_>| trial.has_ended() || (!closed && !unframed && trial.is_complete());
            if done(&trial) {
                let waited = began.elapsed();
                // The half that has come may still be unread when it closes.
                trial.settle();
                let seen = trial.finish();
                let all = prober.expected.is_some_and(|expected| seen.got >= expected);
                if seen.ended == ConnectionEnd::Closed && !seen.complete && !seen.unframed && all {
                    let sentence = format!(
                        "everything but the response's end came; the server waited {:.1} s for the rest of the \
                         request, which the client held back, and then closed",
                        waited.as_secs_f64()
                    );
                    return Ok(CheckFinding::of(check, CheckAnswer::Stalls, &seen, sentence));
                }
                if seen.ended.is_reset()
                    || (seen.ended == ConnectionEnd::Closed && !seen.complete && !seen.unframed)
                {
                    return Ok(judge(prober, check, ask, seen));
                }
                let sentence = format!(
                    "the response was complete {:.3} s after it began, with half of the request still to come",
                    waited.as_secs_f64()
                );
                return Ok(CheckFinding::of(check, CheckAnswer::Keeps, &seen, sentence));
            }
            // The client stops waiting.
            trial.half_close();
            trial.read(if closed { Until::Closed } else { Until::Complete }, prober.config.patience);
            let came = done(&trial);
            let seen = trial.finish();
            let end = if came { "came only when the client had shut its side" } else { "never came" };
            let sentence = format!(
                "the server began to answer and then waited for the rest of the request, which the client held \
                 back: the end {end}, after {:.1} s",
                began.elapsed().as_secs_f64()
            );
            Ok(CheckFinding::of(check, CheckAnswer::Stalls, &seen, sentence))
        }],
    )
}
