//! One reload: the load before, the moment at which the server is told, and what shows that it has obeyed.

use std::thread;
use std::time::{Duration, Instant};

use super::attempt::{AttemptFate, ClientKind, LoadAttempt};
use super::by::ReloadBy;
use super::counted::{ReloadShown, RequestCounts};
use super::listening::Listening;
use super::load::{ReloadLoad, UnderWay};
use super::trigger::Trigger;
use crate::budget::{CONTROLS, RELOAD_CLIENTS, UNDER_WAY};
use crate::prober::Prober;

/// A request that was sent so long before a server was told to stop, and a round trip, is one that it had accepted. Later ones may
/// have waited in the listening socket's queue.
const ACCEPTED: Duration = Duration::from_millis(10);
/// How often it is looked who listens.
const LOOKS: Duration = Duration::from_millis(20);

/// What one reload came to.
#[derive(Debug)]
pub(super) struct ReloadRun {
    pub(super) shown: Option<ReloadShown>,
    pub(super) under_way: u32,
    pub(super) before: RequestCounts,
    pub(super) during: RequestCounts,
    pub(super) after: RequestCounts,
    /// Those that met the reload or came after it, and were not kept.
    pub(super) failed: Vec<LoadAttempt>,
}

/// When what happened.
struct Moments {
    told: Instant,
    over: Instant,
    shown: Option<ReloadShown>,
    under_way: u32,
}

/// Makes requests, tells the server, and goes on until it has obeyed and the same number of requests was made behind.
///
/// # Errors
/// Returns a sentence if the server was not told, or if it failed requests before.
pub(super) fn around(prober: &Prober, by: &ReloadBy) -> Result<ReloadRun, String> {
    let before = look(prober);
    let trigger = Trigger::new(by, &before)?;
    let load = ReloadLoad::new(prober);
    let moments = thread::scope(|scope| {
        for index in 0..RELOAD_CLIENTS {
            let kind = if index % 2 == 0 || !may_keep(prober) { ClientKind::New } else { ClientKind::Kept };
            let load = &load;
            scope.spawn(move || load.client(kind));
        }
        let moments = moments(prober, &load, &trigger, &before, by.is_stop());
        load.end();
        moments
    })?;
    let attempts = std::mem::take(&mut *load.attempts());
    Ok(tally(prober, by.is_stop(), &moments, attempts))
}

/// Whether a request can say that its connection is to be kept.
fn may_keep(prober: &Prober) -> bool {
    !prober.dialect.is_raw() && !prober.dialect.is_fcgi()
}

/// Who listens at the target, as far as it is seen.
fn look(prober: &Prober) -> Listening {
    let address = &prober.address;
    let here = Listening::look(address, None);
    match prober.config.pid {
        // A loopback address leads to this network namespace, wherever the process is.
        Some(pid)
            if !address.as_socket().is_some_and(|address| address.ip().to_canonical().is_loopback()) =>
        {
            here.and(Listening::look(address, Some(pid)))
        }
        _ => here,
    }
}

fn moments(
    prober: &Prober,
    load: &ReloadLoad<'_>,
    trigger: &Trigger<'_>,
    before: &Listening,
    is_stop: bool,
) -> Result<Moments, String> {
    let patience = prober.config.patience;
    let begun = Instant::now();
    enough(prober, load, begun);
    let has_failed = |one: &LoadAttempt| {
        matches!(
            one.fate,
            AttemptFate::Cut | AttemptFate::Unanswered | AttemptFate::Refused | AttemptFate::Other
        )
    };
    let (asked, failed) = {
        let attempts = load.attempts();
        (attempts.len(), attempts.iter().filter(|one| has_failed(one)).count())
    };
    if asked == 0 || failed > 0 {
        return Err(format!(
            "not told: {failed} of {asked} plain requests, a few at a time, failed before that"
        ));
    }
    let mut held = hold(prober, load);
    let told = Instant::now();
    trigger.pull(patience, &prober.deadline)?;
    let mut shown = None;
    let mut looked = None::<Instant>;
    let mut is_shown = || {
        if looked.is_none_or(|at| at.elapsed() > LOOKS) {
            shown = shown.max(evidence(prober, load, trigger, before, told));
            looked = Some(Instant::now());
        }
        shown.is_some()
    };
    // What is under way may keep a worker busy, and the server from going on: it is not waited for longer than that.
    load.wait(prober.settling(), &mut is_shown);
    prober.deadline.sleep(prober.settling().saturating_sub(told.elapsed()));
    let under_way = held.len() as u32;
    held.drain(..).for_each(|one| load.record(one.finish()));
    load.wait(patience, || is_shown() && (!is_stop || trigger.has_ended()));
    // What takes longer to show, and says more.
    shown = shown.max(evidence(prober, load, trigger, before, told));
    let over = Instant::now();
    enough(prober, load, over);
    // A process that is told to stop, and goes on to answer, has not stopped; one that is told to reload may refuse only now.
    shown = shown.max(evidence(prober, load, trigger, before, told));
    Ok(Moments { told, over, shown, under_way })
}

/// Waits until each kind of client has made some requests.
fn enough(prober: &Prober, load: &ReloadLoad<'_>, since: Instant) {
    let has = |kind| load.count(kind, since) >= CONTROLS as usize;
    load.wait(prober.config.patience, || {
        has(ClientKind::New) && (!may_keep(prober) || has(ClientKind::Kept))
    });
}

/// Begins responses and leaves them unread: one in any case, and further ones while the server answers others beside them.
fn hold<'p>(prober: &'p Prober, load: &ReloadLoad<'_>) -> Vec<UnderWay<'p>> {
    let mut held = Vec::new();
    while held.len() < UNDER_WAY as usize {
        let Some(one) = UnderWay::begin(prober) else { break };
        let since = Instant::now();
        held.push(one);
        if held.len() == UNDER_WAY as usize {
            break;
        }
        if !load.wait(prober.moment() * 4, || load.count(ClientKind::New, since) > 0) {
            // It has no more workers: one of them must be free for the others. The first is held all the same.
            if held.len() > 1
                && let Some(one) = held.pop()
            {
                load.record(one.finish());
            }
            break;
        }
    }
    held
}

fn evidence(
    prober: &Prober,
    load: &ReloadLoad<'_>,
    trigger: &Trigger<'_>,
    before: &Listening,
    told: Instant,
) -> Option<ReloadShown> {
    let when = |is_so: bool, shown| is_so.then_some(shown);
    before
        .shows(&look(prober))
        .or_else(|| when(trigger.has_ended(), ReloadShown::Ended))
        .or_else(|| when(load.has_refused(told), ReloadShown::Refused))
        .or_else(|| when(trigger.is_command(), ReloadShown::Command))
}

fn tally(prober: &Prober, is_stop: bool, moments: &Moments, attempts: Vec<LoadAttempt>) -> ReloadRun {
    let [mut before, mut during, mut after] = [RequestCounts::default(); 3];
    let mut failed = Vec::new();
    let accepted = moments.told.checked_sub(ACCEPTED + prober.round_trip).unwrap_or(moments.told);
    for mut attempt in attempts {
        // Nobody promised an answer to what came when the server was told to stop already.
        if is_stop && attempt.fate == AttemptFate::Unanswered && attempt.sent >= accepted {
            attempt.fate = AttemptFate::Crossed;
        }
        let counts = if attempt.ended < moments.told {
            &mut before
        } else if attempt.sent < moments.over {
            &mut during
        } else {
            &mut after
        };
        match attempt.fate {
            AttemptFate::Kept => counts.kept += 1,
            AttemptFate::AtRisk | AttemptFate::Crossed => counts.at_risk += 1,
            AttemptFate::Cut | AttemptFate::Unanswered => counts.lost += 1,
            AttemptFate::Refused => counts.refused += 1,
            AttemptFate::Other => counts.other += 1,
        }
        if !matches!(attempt.fate, AttemptFate::Kept | AttemptFate::Refused | AttemptFate::Other)
            && attempt.was_reset()
        {
            counts.reset += 1;
        }
        if attempt.ended >= moments.told && attempt.fate != AttemptFate::Kept {
            failed.push(attempt);
        }
    }
    ReloadRun { shown: moments.shown, under_way: moments.under_way, before, during, after, failed }
}
