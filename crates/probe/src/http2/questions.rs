//! Which questions have a meaning over HTTP/2, and how they are asked.

use std::io;
use std::time::Duration;

use super::exchange::Exchange;
use super::pipe::Gate;
use crate::budget;
use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::{CheckAnswer, CheckFinding};
use crate::judge::judge;
use crate::often::{STUCK, Variant, worst, worst_form};
use crate::prober::Prober;
use crate::request::AskedMethod;

pub(crate) fn ask(prober: &Prober, check: Check) -> CheckFinding {
    match check {
        Check::LargeResponse => {
            worst(prober, check, 0, &[&|prober| late_reader(prober, check, RequestShape::GET)])
        }
        Check::UnreadBody => unread_body(prober),
        Check::UploadInProgress => upload_in_progress(prober),
        Check::Stall => stall(prober),
        _ => CheckFinding::undecided(check, meaningless(check)),
    }
}

fn meaningless(check: Check) -> &'static str {
    match check {
        Check::TrailingBytes | Check::LateByte | Check::Pipelined => {
            "over HTTP/2 nothing follows a request on its stream, and other streams are answered beside it"
        }
        Check::HalfClose => {
            "over HTTP/2 a client that has shut its side cannot acknowledge the server's settings"
        }
        _ => "not asked over HTTP/2: ask it in HTTP/1.1",
    }
}

/// Sends a request, reads late, and judges what arrived.
fn late_reader(prober: &Prober, check: Check, ask: RequestShape) -> io::Result<CheckFinding> {
    let mut exchange = Exchange::open(prober, true, Gate::Closed)?;
    exchange.request(ask)?;
    exchange.send(STUCK);
    late(prober, &mut exchange);
    read(prober, &mut exchange);
    Ok(judge(prober, check, ask, exchange.finish()))
}

/// Waits as a client that reads late. A quiet probe waits for the response, and then less.
fn late(prober: &Prober, exchange: &mut Exchange<'_>) {
    match prober.late() {
        None => prober.deadline.sleep(prober.config.delay),
        Some(short) => {
            exchange.read_to(Gate::Head);
            exchange.run(prober.config.patience, Exchange::has_begun);
            prober.deadline.sleep(short);
        }
    }
}

fn read(prober: &Prober, exchange: &mut Exchange<'_>) {
    exchange.read_to(Gate::Open);
    exchange.run(prober.config.patience, Exchange::is_over);
    exchange.settle();
}

fn unread_body(prober: &Prober) -> CheckFinding {
    let (check, large) = (Check::UnreadBody, budget::body(&prober.config, prober.active));
    let asked = budget::unread_bodies(&prober.config, prober.active);
    let variant = |method, body| {
        move |prober: &Prober| late_reader(prober, check, RequestShape::with_body(method, body, body))
    };
    let variants: Vec<_> = asked.iter().map(|(method, body)| variant(*method, *body)).collect();
    let variants: Vec<&Variant<'_>> = variants.iter().map(|variant| variant as &Variant<'_>).collect();
    worst_form(prober, check, large, &variants, &|index| {
        let (method, body) = asked[index];
        let method = prober.config.method.as_ref().map_or(method, AskedMethod::name);
        format!("{method} with {body} bytes of body")
    })
}

/// An upload that goes on after the response has begun; and, if the response is a refusal, one that ends there, short of its
/// announced length: so does curl.
fn upload_in_progress(prober: &Prober) -> CheckFinding {
    let (check, upload) = (Check::UploadInProgress, prober.config.upload);
    let goes_on = worst(prober, check, upload, &[&|prober| upload_once(prober, false)]);
    if !goes_on.status.is_some_and(is_refusal) {
        return goes_on;
    }
    let ends_short = worst(prober, check, upload, &[&|prober| upload_once(prober, true)]);
    let forms = ["an upload that goes on", "one that ends short at the refusal, as curl's does"];
    let (trials, of) = (goes_on.trials + ends_short.trials, [goes_on, ends_short]);
    let worst = usize::from(of[1].answer > of[0].answer);
    let same = of.iter().filter(|finding| finding.answer == of[worst].answer);
    let same = same.map(|finding| finding.with_this_answer).sum();
    let [goes_on, ends_short] = of;
    CheckFinding {
        trials,
        with_this_answer: same,
        forms: forms.map(str::to_owned).to_vec(),
        form: Some(forms[worst].to_owned()),
        ..if worst == 1 { ends_short } else { goes_on }
    }
}

fn is_refusal(status: u16) -> bool {
    status >= 400
}

fn upload_once(prober: &Prober, cut_short: bool) -> io::Result<CheckFinding> {
    let (check, upload) = (Check::UploadInProgress, prober.config.upload);
    let ask = RequestShape::with_body("POST", upload, upload);
    let mut exchange = Exchange::open(prober, true, Gate::Head)?;
    exchange.request(ask)?;
    exchange.run(prober.config.patience, |exchange| exchange.has_begun() || exchange.is_over());
    let early = exchange.unsent() > 0;
    let refused = exchange.status().is_some_and(is_refusal);
    if cut_short && early && refused {
        exchange.cut_short();
    }
    // A client that has not read the response yet goes on sending for a while.
    exchange.read_to(Gate::Closed);
    exchange.send(STUCK);
    late(prober, &mut exchange);
    read(prober, &mut exchange);
    let mut found = judge(prober, check, ask, exchange.finish());
    if found.answer == CheckAnswer::Keeps && !early {
        found.sentence.push_str("; it reads the whole upload before it answers");
    }
    Ok(found)
}

/// Sends half of a body. If the response then begins, sends nothing more: does it arrive completely all the same?
fn stall(prober: &Prober) -> CheckFinding {
    // Half of it fits into the window that each server gives at first (RFC 9113 section 6.9.2).
    let (check, body) = (Check::Stall, prober.config.body.min(32 << 10));
    let ask = RequestShape::with_body("POST", 2 * body, body);
    worst(
        prober,
        check,
        2 * body,
        &[&|prober| {
            let mut exchange = Exchange::open(prober, false, Gate::Open)?;
            exchange.request(ask)?;
            exchange.run(prober.holding(), |exchange| exchange.has_begun() || exchange.is_over());
            if !exchange.has_begun() && !exchange.has_failed() {
                exchange.send_more(body, true);
                exchange.run(prober.config.patience, Exchange::is_over);
                let seen = exchange.finish();
                if !seen.complete {
                    return Ok(judge(prober, check, ask, seen));
                }
                let sentence = "the server answers only when it has the whole request: nobody waits for what will not come";
                let unlike = prober.model.is_unlike(seen.status);
                let answer = if unlike { CheckAnswer::CannotTell } else { CheckAnswer::Keeps };
                return Ok(CheckFinding::of(check, answer, &seen, sentence.into()));
            }
            exchange.run(holding(prober), Exchange::is_over);
            if exchange.is_over() {
                exchange.settle();
                return Ok(judge(prober, check, ask, exchange.finish()));
            }
            // The client gives in.
            exchange.send_more(body, true);
            exchange.run(prober.config.patience, Exchange::is_over);
            let came = exchange.is_over();
            let end = if came { "came only with the rest of it" } else { "never came" };
            let seen = exchange.finish();
            let sentence = format!(
                "the server began to answer and then waited for the rest of the request, which the client held back: the \
             end {end}, after {:.1} s",
                seen.elapsed.as_secs_f64()
            );
            Ok(CheckFinding::of(check, CheckAnswer::Stalls, &seen, sentence))
        }],
    )
}

/// How long the client holds back the rest of a request: ten times what a plain answer takes, and 2.5 s at least.
fn holding(prober: &Prober) -> Duration {
    (prober.plain * 10).max(Duration::from_millis(2500)).min(prober.config.patience)
}
