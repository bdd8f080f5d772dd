//! A hunt: learn, search, repeat, shrink.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linger_lab::{BedOptions, Capture, Stop};
use linger_verdict::Verdict;

use crate::arena::{Arena, Quarry};
use crate::clients::{ClientPlace, Clients};
use crate::crew::{Crew, PlayedStory};
use crate::error::HuntError;
use crate::field::{Servers, TrialField};
use crate::generate::story;
use crate::learn::plain;
use crate::repeat::Repeater;
use crate::report::{HuntReport, LostOnce, LostResponse, Repeats, SearchEnd};
use crate::shorten::{Candidate, REPEATS, Shortener};
use crate::story::Story;

/// What is hunted, and for how long.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HuntPlan {
    /// The server or the client.
    pub quarry: Quarry,
    /// Seed of all that is drawn.
    pub seed: u64,
    /// How long to search. What is found is shrunk in the rest, or in one to four minutes.
    pub time: Duration,
    /// The most connections at a time.
    pub connections: usize,
    /// The most that all pauses of a schedule take together.
    pub longest_pause: Duration,
    /// The length of the response's body, where the server that is hunted does not tell.
    pub expect: Option<u64>,
    /// What every request is, in place of HTTP; the response ends with the connection. Where a client is hunted: what every response is.
    pub payload: Option<Vec<u8>>,
}

impl HuntPlan {
    /// A hunt of two minutes.
    pub fn new(quarry: Quarry, seed: u64) -> Self {
        let (time, longest_pause) = (Duration::from_secs(120), Duration::from_secs(20));
        Self { quarry, seed, time, connections: 256, longest_pause, expect: None, payload: None }
    }
}

/// What a hunt is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HuntProgress {
    /// So many schedules were searched.
    Searching(u64),
    /// A loss was found and is repeated.
    Repeating,
    /// It is made shorter; so many trials so far.
    Shrinking(u64),
}

/// The least and the most time for shrinking beyond the search.
const SHRINKING: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(240));
/// About so many trials of a story follow one another while it is shrunk.
const IN_A_ROW: u32 = 12;
/// How many losses that do not repeat are kept.
const MOST_UNREPEATED: usize = 20;

/// Hunts a server or a client. Calls `told` as it goes on.
///
/// # Errors
/// Returns why the hunt could not begin. What ends it later is in the report.
pub fn hunt(
    plan: &HuntPlan,
    stop: &Stop,
    told: &mut dyn FnMut(HuntProgress),
) -> Result<HuntReport, HuntError> {
    let field = field(plan, None, stop)?;
    let crew = Crew::new(&*field, plan.connections);
    let result = Hunt { plan, crew: &crew, stop, told }.run();
    field.end();
    result.map_err(|source| HuntError::Machine { what: "the clients' threads", source })
}

/// Repeats a story so many times.
///
/// # Errors
/// As [`hunt`].
pub fn replay(
    plan: &HuntPlan,
    story: &Story,
    times: u64,
    stop: &Stop,
) -> Result<(Repeats, Option<LostResponse>, SocketAddr), HuntError> {
    let field = field(plan, None, stop)?;
    let crew = Crew::new(&*field, plan.connections);
    let site = field.address();
    let repeated = Repeater { crew: &crew, stop }.repeat(story, times);
    field.end();
    let (repeats, lost) =
        repeated.map_err(|source| HuntError::Machine { what: "the clients' threads", source })?;
    Ok((repeats, lost, site))
}

/// Makes the place of the trials, and learns what plain trials come to. What crosses the links is recorded in `capture`.
pub(crate) fn field(
    plan: &HuntPlan,
    capture: Option<&Arc<Mutex<Capture>>>,
    stop: &Stop,
) -> Result<Box<dyn TrialField>, HuntError> {
    match &plan.quarry {
        Quarry::Client { hunted, links, ip, port } => {
            let place = ClientPlace { links: links.clone(), ip: *ip, port: *port, seed: plan.seed };
            let clients = Clients::learn(hunted, place, plan.payload.as_deref(), capture.cloned(), stop)?;
            Ok(Box::new(clients))
        }
        _ => servers(plan, capture, stop).map(|servers| Box::new(servers) as Box<dyn TrialField>),
    }
}

/// Starts the servers, and learns what their plain responses are.
fn servers(
    plan: &HuntPlan,
    capture: Option<&Arc<Mutex<Capture>>>,
    stop: &Stop,
) -> Result<Servers, HuntError> {
    let mut learnt = None;
    let mut learn = |arena: &Arena| {
        let asked = std::thread::scope(|scope| {
            let asking = std::thread::Builder::new().spawn_scoped(scope, || {
                arena.enter().ok()?;
                plain(arena, plan.expect, stop)
            });
            asking.ok().and_then(|asking| asking.join().ok().flatten())
        });
        learnt = asked.or(learnt);
        asked.is_some()
    };
    let mut arenas = Vec::new();
    let payload = plan.payload.as_deref();
    match &plan.quarry {
        Quarry::Running { target, is_own } => {
            let arena = Arena::running(target, *is_own, payload)?;
            if !learn(&arena) {
                if stop.requested() {
                    return Err(HuntError::Stopped);
                }
                let what = format!("{target} gives no whole response to a plain GET");
                return Err(HuntError::NoServer { what, said: String::new() });
            }
            arenas.push(arena);
        }
        Quarry::Command { words, links, ip, port, path, ready } => {
            for link in links {
                let place = (*port, path.as_str());
                let (seed, capture) = (plan.seed, capture.cloned());
                let options = BedOptions { ip: *ip, seed, capture, ..BedOptions::default() };
                arenas.push(Arena::start(words, link, options, place, payload, *ready, stop, &mut learn)?);
            }
        }
        // It has a field of its own.
        Quarry::Client { .. } => {}
    }
    match learnt {
        Some(plain) => Ok(Servers { arenas, plain, bodies: plan.payload.is_none() }),
        None => Err(HuntError::NoServer { what: "there is no link".to_owned(), said: String::new() }),
    }
}

struct Hunt<'h> {
    plan: &'h HuntPlan,
    crew: &'h Crew<'h>,
    stop: &'h Stop,
    told: &'h mut dyn FnMut(HuntProgress),
}

impl Hunt<'_> {
    fn run(&mut self) -> io::Result<HuntReport> {
        let begun = Instant::now();
        let deadline = begun + self.plan.time;
        let mut report = self.crew.field.blank();
        let next = AtomicU64::new(0);
        let mut best: Option<Candidate> = None;
        loop {
            let (seen, ended) = self.search(&next, deadline, &mut report)?;
            report.ended = ended;
            let Some(seen) = seen else { break };
            (self.told)(HuntProgress::Repeating);
            let after = begun.elapsed();
            let (repeats, _) = Repeater { crew: self.crew, stop: self.stop }.repeat(&seen.story, REPEATS)?;
            if repeats.lost == 0 {
                if report.unrepeated.len() < MOST_UNREPEATED {
                    let lost = seen.trial.lost;
                    report.unrepeated.push(LostOnce { story: seen.story, lost, tried: repeats.tried });
                }
                continue;
            }
            let candidate = Candidate { played: seen, after, repeats };
            if !repeats.is_race() {
                best = Some(candidate);
                break;
            }
            if best.as_ref().is_none_or(|best| best.repeats.lost < repeats.lost) {
                best = Some(candidate);
            }
        }
        report.searched.connections = self.crew.peak();
        if let Some(best) = best {
            let time = (best.played.story.schedule.pauses() * IN_A_ROW).clamp(SHRINKING.0, SHRINKING.1);
            let until = deadline.max(Instant::now() + time);
            let mut told = |trials| (self.told)(HuntProgress::Shrinking(trials));
            let repeater = Repeater { crew: self.crew, stop: self.stop };
            report.found = Some(Shortener { repeater, until, told: &mut told }.shorten(best)?);
            if report.ended == SearchEnd::Time {
                report.ended = SearchEnd::Found;
            }
            report.ended = ended_early(self.crew, self.stop).unwrap_or(report.ended);
        }
        Ok(report)
    }

    /// Searches for the next loss. Returns it, and why the search ended.
    fn search(
        &mut self,
        next: &AtomicU64,
        deadline: Instant,
        report: &mut HuntReport,
    ) -> io::Result<(Option<PlayedStory>, SearchEnd)> {
        let mut ranges = self.crew.field.ranges();
        ranges.longest_pause = self.plan.longest_pause;
        let (halt, seed) = (Stop::new()?, self.plan.seed);
        let source = || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            Some((index, story(seed, index, &ranges)))
        };
        let (crew, stop, shown) = (self.crew, self.stop, &mut self.told);
        let (mut seen, mut ended) = (None, SearchEnd::Found);
        let told = |played: PlayedStory| {
            let verdict = played.trial.verdict;
            report.searched.count(&played.story, verdict);
            shown(HuntProgress::Searching(report.searched.schedules));
            if verdict == Ok(Verdict::AtRisk) && report.at_risk.is_none() {
                report.at_risk = Some(played.story.clone());
            }
            if verdict == Ok(Verdict::Lost) && seen.is_none() {
                seen = Some(played);
                halt.request();
            }
        };
        let look = || {
            if halt.requested() {
                return;
            }
            let over = || (Instant::now() >= deadline).then_some(SearchEnd::Time);
            if let Some(end) = ended_early(crew, stop).or_else(over) {
                ended = end;
                halt.request();
            }
        };
        let begun = Instant::now();
        self.crew.run(&source, usize::MAX, &halt, told, look)?;
        report.searched.time += begun.elapsed();
        Ok((seen, ended))
    }
}

/// Why a hunt ended before its time, if it did: a server's end, or the user's wish.
fn ended_early(crew: &Crew<'_>, stop: &Stop) -> Option<SearchEnd> {
    match crew.field.ended() {
        Some((status, said)) => Some(SearchEnd::ServerEnded { status, said }),
        None => stop.requested().then_some(SearchEnd::Stopped),
    }
}
