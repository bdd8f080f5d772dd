//! A server and clients to be run by hand, on two machines: the server counts, the clients try until something is lost.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use linger::{Budget, Closer, defaults};
use linger_netns::Counters;
use linger_verdict::Verdict;

use crate::client::{ClientPlan, attempt_unless};
use crate::fate::Fate;
use crate::lock;
use crate::server::{ServerPlan, ServerReport, work};
use crate::stats::Tally;
use crate::stop::Stop;

/// When the clients stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// At the first loss.
    Loss,
    /// At the first connection that is reset, with or without missing bytes, or that is lost.
    Reset,
    /// After this many connections.
    Count(u64),
    /// After this time.
    For(Duration),
}

/// The first connection with a certain verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// Number of connections that had ended, including this one.
    pub trial: u64,
    /// The time since the beginning.
    pub at: Duration,
    /// How the connection ended.
    pub fate: Fate,
}

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    /// The results of the connections.
    pub tally: Tally,
    /// The first connection that was lost.
    pub first_loss: Option<First>,
    /// The first connection that was at risk.
    pub first_at_risk: Option<First>,
    /// The first error of a connection, with its fate.
    pub error: Option<String>,
    /// Whether the length of a response was known neither from the response nor from the plan.
    pub unknown_length: bool,
    /// Connections interrupted by the stop. They are not counted in `tally`, as their end is unknown.
    pub cut: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Makes connections, `concurrency` at a time, and calls `progress` after each.
/// A connection that fails is counted and is not an error. The stop interrupts connections that have not ended.
pub fn campaign(
    plan: &ClientPlan,
    concurrency: u64,
    until: Until,
    stop: &Stop,
    progress: impl Fn(&Campaign) + Sync,
) -> Campaign {
    let started = Instant::now();
    let state = Mutex::new((0u64, Campaign::default()));
    let next = || {
        let mut state = lock(&state);
        let goes_on = match until {
            _ if stop.requested() => false,
            Until::Loss => state.1.tally.lost == 0,
            Until::Reset => state.1.tally.not_kept() == 0,
            Until::Count(count) => state.0 < count,
            Until::For(time) => started.elapsed() < time,
        };
        state.0 += u64::from(goes_on);
        goes_on
    };
    thread::scope(|scope| {
        for _ in 0..concurrency.max(1) {
            let work = || {
                while next() {
                    let attempt = attempt_unless(plan, stop);
                    let campaign = &mut lock(&state).1;
                    campaign.elapsed = started.elapsed();
                    let Some(attempt) = attempt else {
                        campaign.cut += 1;
                        break;
                    };
                    campaign.tally.count(&attempt);
                    let first = match attempt.verdict() {
                        Verdict::Kept => None,
                        Verdict::AtRisk => Some(&mut campaign.first_at_risk),
                        Verdict::Lost => Some(&mut campaign.first_loss),
                    };
                    if let Some(first) = first {
                        let (trial, at) = (campaign.tally.trials, campaign.elapsed);
                        first.get_or_insert(First { trial, at, fate: attempt.fate });
                    }
                    campaign.unknown_length |= attempt.received > 0 && attempt.expected.is_none();
                    if let (Some(error), None) = (&attempt.error, &campaign.error) {
                        campaign.error = Some(format!("{}: {error}", attempt.fate));
                    }
                    progress(campaign);
                }
            };
            // If not all threads can be started, it takes longer; this thread works in any case.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                work();
                break;
            }
        }
    });
    state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).1
}

/// What a server did.
#[derive(Clone, Debug, Default)]
pub struct Hosting {
    /// Connections that were accepted and have been ended.
    pub accepted: u64,
    /// Response bytes accepted by `write`.
    pub written: u64,
    /// Errors of reads, writes and endings, by their text. Normally there are none, also where responses are lost.
    pub errors: BTreeMap<String, u64>,
    /// Lingering closes, by how they ended.
    pub endings: BTreeMap<String, u64>,
    /// What the kernel counted meanwhile for the whole network namespace.
    pub counters: Counters,
}

/// Serves with `workers` threads until the stop is requested, and calls `progress` after each connection. After the stop, clients that have
/// everything and do not close are waited for half a second more, whatever the policy says.
///
/// # Errors
/// Returns an error if accepting fails for good or the counters cannot be read.
pub fn host(
    listener: &TcpListener,
    plan: &ServerPlan,
    workers: u64,
    stop: &Stop,
    progress: impl Fn(&Hosting) + Sync,
) -> io::Result<Hosting> {
    let before = Counters::read()?;
    let hosting = Mutex::new(Hosting::default());
    let mut budget = Budget::default();
    budget.sockets = usize::try_from(workers).unwrap_or(usize::MAX).max(1);
    // Without a closer the workers linger themselves, and a stop waits for them.
    let closer = Closer::new(budget).ok();
    let plan = &ServerPlan { closer: closer.clone(), ..plan.clone() };
    let finished = &Stop::new()?;
    let report = |served: ServerReport| {
        let mut hosting = lock(&hosting);
        hosting.accepted += 1;
        hosting.written += served.written;
        if let Some(error) = served.error {
            *hosting.errors.entry(error.to_string()).or_default() += 1;
        }
        if let Some(outcome) = served.outcome {
            *hosting.endings.entry(outcome.ended.to_string()).or_default() += 1;
        }
        progress(&hosting);
    };
    let serve = || work(listener, plan, stop, report);
    thread::scope(|scope| {
        if let Some(closer) = &closer {
            // Without this thread, too, a stop waits for the workers.
            let _ = thread::Builder::new().spawn_scoped(scope, move || let_go(closer, stop, finished));
        }
        let workers: Vec<_> = (0..workers.max(1))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, serve).ok())
            .collect();
        if workers.is_empty()
            && let Err(error) = serve()
        {
            stop.request();
            finished.request();
            return Err(error);
        }
        let results = workers.into_iter().map(|worker| {
            let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if result.is_err() {
                // The workers share the listener: if one cannot accept, none can.
                stop.request();
            }
            result
        });
        let results: io::Result<Vec<()>> = results.collect();
        finished.request();
        results
    })?;
    let mut hosting = hosting.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    hosting.counters = Counters::read()?.since(&before);
    Ok(hosting)
}

/// Waits for the stop; from then on gives clients up that have everything and stay open for longer than the default policy waits.
fn let_go(closer: &Closer, stop: &Stop, finished: &Stop) {
    while !stop.requested() && !finished.requested() {
        // Errors of `poll` come from bad arguments only.
        let _ = stop.sleep(Duration::from_secs(60));
    }
    while !finished.requested() {
        let _ = finished.sleep(defaults::GRACE);
        if !finished.requested() {
            let count = closer.snapshot().lingering_acknowledged;
            closer.evict(usize::try_from(count).unwrap_or(usize::MAX));
        }
    }
}
