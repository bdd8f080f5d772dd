//! A kept connection at the server's idle limit: what becomes of a request that meets the server's close?
//!
//! A request that the server gets after its close is answered by a reset, whatever the server does, and a client cannot know
//! before a round trip has passed that the connection has ended. So every server with an idle limit has the race; what
//! it can do is to announce a limit that is a margin below its own (`Keep-Alive: timeout=N`), and to look for a request
//! before it closes.
//!
//! What crosses the end is asked without a slow link: the request is sent as soon as the end has come, as a client a
//! round trip away does that has not seen it.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use linger_verdict::Verdict;

use crate::budget::TOGETHER;
use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::{CheckAnswer, CheckFinding, IdleLimit};
use crate::often::STUCK;
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};
use crate::trial::{Trial, Until};

/// How far an announced limit must be below the measured one: a client's timer is not exact, and its request takes time.
const MARGIN: Duration = Duration::from_millis(500);
/// A connection that ends sooner behind its response was not kept.
const KEPT: Duration = Duration::from_millis(50);

/// When a request is sent on a kept connection.
#[derive(Clone, Copy, Debug)]
enum SendAt {
    /// At half of the limit.
    Half,
    /// So many milliseconds after the limit.
    Limit(i64),
    /// As soon as the end has come.
    End,
}

/// What is asked at once, each on a connection of its own.
const ROUND: [SendAt; TOGETHER] = [
    SendAt::Half,
    SendAt::Limit(-20),
    SendAt::Limit(-5),
    SendAt::Limit(-2),
    SendAt::Limit(-1),
    SendAt::Limit(0),
    SendAt::Limit(1),
    SendAt::End,
];

/// What was learnt of an idle connection.
#[derive(Clone, Copy, Debug)]
struct KeptIdle {
    limit: Duration,
    /// Of the header field Keep-Alive, in seconds.
    announced: Option<u64>,
    /// How an idle connection ends.
    end: ConnectionEnd,
    /// Whether a reset without a FIN before it shows that the request had arrived before the close.
    tells_arrival: bool,
}

/// What became of a request on a kept connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestFate {
    Answered,
    /// The server closed before the request reached it.
    Crossed,
    /// The server reset the connection although the request had reached it, or cut the response.
    Lost,
    /// It could not be asked, or was answered with something else.
    Unknown,
}

struct Race {
    fate: RequestFate,
    /// How long the connection was idle when its end came; `None` if the request was sent before.
    ended_after: Option<Duration>,
    seen: Option<TrialResult>,
}

/// Learns the idle limit, and then sends requests around it.
pub(crate) fn keep_alive(prober: &Prober) -> CheckFinding {
    let check = Check::KeepAlive;
    let undecided = |sentence: &str| CheckFinding::undecided(check, sentence);
    if prober.dialect.is_raw() || prober.dialect.is_fcgi() {
        return undecided("it is asked in HTTP/1.1 only");
    }
    let mut kept = match learn(prober) {
        Ok(Ok(kept)) => kept,
        Ok(Err(sentence)) => return undecided(&sentence),
        Err(error) => return undecided(&format!("no connection: {error}")),
    };
    let mut races = Vec::new();
    for _ in 0..prober.config.repeat.max(1) {
        thread::scope(|scope| {
            let threads = ROUND.map(|at| scope.spawn(move || race(prober, kept, at)));
            // A thread that panicked has no race to tell of.
            races.extend(threads.into_iter().filter_map(|thread| thread.join().ok()?.ok()));
        });
    }
    let ends = races.iter().filter_map(|race| race.ended_after);
    kept.limit = ends.chain([kept.limit]).min().unwrap_or(kept.limit);
    let fates: Vec<RequestFate> = races.iter().map(|race| race.fate).collect();
    let (answer, decides, sentence) = conclude(&kept, &fates);
    let count = |fate| fates.iter().filter(|one| **one == fate).count() as u32;
    let decisive = races.into_iter().find(|race| race.fate == decides).and_then(|race| race.seen);
    let mut finding = match decisive {
        Some(seen) => CheckFinding::of(check, answer, &seen, sentence),
        None => CheckFinding { answer, ..CheckFinding::undecided(check, &sentence) },
    };
    finding.expected = finding.expected.or(prober.expected);
    finding.verdict = match answer {
        CheckAnswer::Keeps => Some(Verdict::Kept),
        CheckAnswer::AtRisk => Some(Verdict::AtRisk),
        CheckAnswer::Loses => Some(Verdict::Lost),
        _ => None,
    };
    finding.trials = fates.len() as u32;
    finding.with_this_answer = if answer == CheckAnswer::Keeps { finding.trials } else { count(decides) };
    finding.idle_limit = Some(IdleLimit {
        seconds: kept.limit.as_secs_f64(),
        announced_seconds: kept.announced,
        answered: count(RequestFate::Answered),
        crossed: count(RequestFate::Crossed),
        lost: count(RequestFate::Lost),
    });
    finding
}

/// Asks once, and leaves the connection open. Returns it if it was kept, with the announced limit.
fn opened(prober: &Prober) -> io::Result<Option<Trial<'_>>> {
    let mut trial = Trial::open(prober, false)?;
    trial.queue(&prober.dialect.request(RequestShape::KEPT));
    trial.send(prober.config.patience);
    trial.read(Until::Complete, prober.config.patience);
    let is_kept = trial.is_complete() && !trial.has_ended() && !trial.is_last();
    Ok(is_kept.then_some(trial))
}

/// Waits for the end of an idle connection. Returns a sentence if none came.
fn learn(prober: &Prober) -> io::Result<Result<KeptIdle, String>> {
    let not_kept =
        || "it ends each connection with its response: no request can meet an idle limit".to_owned();
    let Some(mut trial) = opened(prober)? else { return Ok(Err(not_kept())) };
    let (answered, announced) = (Instant::now(), trial.announced_idle());
    let bound = prober.config.patience;
    let Some(end) = trial.idle_end(answered + bound) else {
        let announced = announced.map_or(String::new(), |seconds| format!(", and announces {seconds} s"));
        return Ok(Err(format!(
            "it still holds an idle connection after {:.1} s{announced}: a longer --patience waits for the end",
            bound.as_secs_f64()
        )));
    };
    let limit = answered.elapsed();
    if limit < KEPT {
        return Ok(Err(not_kept()));
    }
    // The end of TLS comes before the FIN, whatever was unread.
    let tells_arrival = end == ConnectionEnd::Closed && prober.tls_host.is_none();
    Ok(Ok(KeptIdle { limit, announced, end, tells_arrival }))
}

/// One request on a kept connection at this time.
fn race(prober: &Prober, kept: KeptIdle, at: SendAt) -> io::Result<Race> {
    let unknown = |ended_after| Race { fate: RequestFate::Unknown, ended_after, seen: None };
    let Some(mut trial) = opened(prober)? else { return Ok(unknown(None)) };
    let answered = Instant::now();
    let until = match at {
        SendAt::Half => kept.limit / 2,
        SendAt::Limit(after @ 0..) => kept.limit + Duration::from_millis(after.unsigned_abs()),
        SendAt::Limit(before) => kept.limit.saturating_sub(Duration::from_millis(before.unsigned_abs())),
        SendAt::End => kept.limit * 2 + prober.config.patience,
    };
    let end = trial.idle_end(answered + until);
    let ended_after = end.map(|_| answered.elapsed());
    if end.is_none() && matches!(at, SendAt::End) {
        return Ok(unknown(None));
    }
    trial.again(&prober.dialect.request(RequestShape::KEPT));
    trial.send(STUCK);
    trial.read(Until::Complete, prober.config.patience);
    let seen = trial.finish();
    let fate = if end.is_some() && seen.status.is_none() && seen.got == 0 {
        RequestFate::Crossed
    } else {
        fate(prober, &kept, &seen)
    };
    Ok(Race { fate, ended_after, seen: Some(seen) })
}

/// What became of a request that was sent while the connection looked open.
fn fate(prober: &Prober, kept: &KeptIdle, seen: &TrialResult) -> RequestFate {
    // 408: the server says that the connection was idle for too long (RFC 9110 section 15.5.9).
    if seen.complete && seen.status != Some(408) && !prober.model.is_unlike(seen.status) {
        return RequestFate::Answered;
    }
    match (seen.status, seen.ended) {
        (None, ConnectionEnd::Reset) if kept.tells_arrival => RequestFate::Lost,
        (None, ended) if ended == ConnectionEnd::Closed || ended.is_reset() => RequestFate::Crossed,
        (Some(_), ended) if !seen.complete && ended != ConnectionEnd::Silent => RequestFate::Lost,
        _ => RequestFate::Unknown,
    }
}

/// The answer, the fate that decides it, and a sentence.
fn conclude(kept: &KeptIdle, fates: &[RequestFate]) -> (CheckAnswer, RequestFate, String) {
    let limit = kept.limit.as_secs_f64();
    let how = if kept.end == ConnectionEnd::Closed { "" } else { " by a reset" };
    let ends = format!("it ends an idle connection after {limit:.2} s{how}");
    if fates.contains(&RequestFate::Lost) {
        let sentence = format!(
            "{ends}, and loses requests that had reached it before: it closes without a look at what has come"
        );
        return (CheckAnswer::Loses, RequestFate::Lost, sentence);
    }
    if !fates.contains(&RequestFate::Crossed) {
        return (
            CheckAnswer::CannotTell,
            RequestFate::Unknown,
            format!("{ends}, and no request met that end"),
        );
    }
    let announced = match kept.announced {
        None => "announces no limit".to_owned(),
        Some(seconds) if Duration::from_secs(seconds) + MARGIN <= kept.limit => {
            let sentence = format!(
                "{ends}, and announces {seconds} s: a client that obeys has given the connection up before"
            );
            return (CheckAnswer::Keeps, RequestFate::Answered, sentence);
        }
        Some(seconds) if Duration::from_secs(seconds) > kept.limit + MARGIN => {
            format!("announces {seconds} s, which is longer")
        }
        Some(seconds) => format!("announces {seconds} s, which leaves no margin"),
    };
    let sentence = format!(
        "{ends} and {announced}: a request that crosses that end is lost, and its client cannot know before"
    );
    (CheckAnswer::AtRisk, RequestFate::Crossed, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: KeptIdle = KeptIdle {
        limit: Duration::from_millis(5_500),
        announced: Some(5),
        end: ConnectionEnd::Closed,
        tells_arrival: true,
    };

    fn concluded(kept: KeptIdle, fates: &[RequestFate]) -> CheckAnswer {
        conclude(&kept, fates).0
    }

    #[test]
    fn one_field_away_from_a_limit_that_is_announced_in_time() {
        let fates = [RequestFate::Answered, RequestFate::Crossed];
        assert_eq!(concluded(IDLE, &fates), CheckAnswer::Keeps);
        let sooner = KeptIdle { limit: Duration::from_millis(5_499), ..IDLE };
        assert_eq!(concluded(sooner, &fates), CheckAnswer::AtRisk);
        for announced in [None, Some(6)] {
            assert_eq!(concluded(KeptIdle { announced, ..IDLE }, &fates), CheckAnswer::AtRisk);
        }
        assert_eq!(
            concluded(IDLE, &[RequestFate::Answered, RequestFate::Crossed, RequestFate::Lost]),
            CheckAnswer::Loses
        );
        // What could not be asked keeps nothing.
        assert_eq!(concluded(IDLE, &[RequestFate::Answered, RequestFate::Unknown]), CheckAnswer::CannotTell);
        assert_eq!(concluded(IDLE, &[]), CheckAnswer::CannotTell);
    }
}
