//! What a hunt has found, or what it has searched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use linger_lab::wilson;
use linger_netns::Counters;
use linger_verdict::Verdict;

use crate::judge::{Played, StreamEnd, Unjudged};
use crate::schedule::HuntStep;
use crate::shrink::LossBound;
use crate::story::Story;
use crate::trials::TrialMap;

/// How often something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repeats {
    /// How often it was tried.
    pub tried: u64,
    /// How many of the trials say something about losses.
    pub judged: u64,
    /// How often the response was lost.
    pub lost: u64,
    /// How often it was at risk.
    pub at_risk: u64,
}

impl Repeats {
    /// The 95% interval of the part that is lost.
    pub fn interval(self) -> (f64, f64) {
        wilson(self.lost, self.tried)
    }

    /// Whether a loss comes in fewer than nine of ten trials: whether it comes is decided by a race.
    pub fn is_race(self) -> bool {
        self.lost * 10 < self.tried * 9
    }

    pub(crate) fn count(&mut self, verdict: Result<Verdict, Unjudged>) {
        self.tried += 1;
        self.judged += u64::from(verdict.is_ok());
        self.lost += u64::from(verdict == Ok(Verdict::Lost));
        self.at_risk += u64::from(verdict == Ok(Verdict::AtRisk));
    }
}

/// The end of a connection on which a response was lost, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostResponse {
    /// Which of the responses, counted from 1.
    pub response: usize,
    /// Its status; `None` if not even its head came.
    pub status: Option<u16>,
    /// Bytes of its body that came.
    pub got: u64,
    /// Bytes of its body that should have come, where that is known.
    pub expected: Option<u64>,
    /// Whether the connection was reset; otherwise it had a clean end.
    pub reset: bool,
    /// Whether a write of the client's failed.
    pub write_failed: bool,
    /// How the client has lost it; `None` where a server is hunted.
    pub by_client: Option<ClientLoss>,
}

/// What a client has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientLossKind {
    /// Its kernel had all of the response, and the client says that something failed, or its output is another one.
    Response,
    /// The response was not written whole, and the client says that all is well.
    Cut,
    /// The server has not received all of the request, and the client says that all is well.
    Upload,
}

impl ClientLossKind {
    /// A stable identifier, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Cut => "cut",
            Self::Upload => "upload",
        }
    }
}

/// A client that has lost something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientLoss {
    /// What.
    pub kind: ClientLossKind,
    /// Its exit status; `None` if it did not end.
    pub exit: Option<i32>,
    /// Bytes that it wrote to its standard output.
    pub output: u64,
    /// Bytes of the request's body that the server received.
    pub received: u64,
    /// The length of that body, if it is known.
    pub announced: Option<u64>,
    /// How many connections the client made.
    pub connections: u64,
}

impl LostResponse {
    pub(crate) fn of(played: &Played) -> Self {
        let at = played.answers.iter().position(|answer| !answer.complete);
        let answer = at.and_then(|at| played.answers.get(at)).copied().unwrap_or_default();
        Self {
            response: at.map_or(1, |at| at + 1),
            status: answer.status,
            got: answer.got,
            expected: answer.expected,
            reset: played.was_reset || played.end == StreamEnd::Reset,
            write_failed: played.write_failed,
            by_client: None,
        }
    }
}

/// A story in which a response is lost.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FoundLoss {
    /// The shortest story.
    pub story: Story,
    /// As it was drawn.
    pub drawn: Story,
    /// Which of the schedules of its seed.
    pub index: u64,
    /// How long the hunt had searched.
    pub after: Duration,
    /// How often the shortest story loses.
    pub repeats: Repeats,
    /// One of its losses.
    pub lost: LostResponse,
    /// From which numbers on it loses.
    pub bounds: Vec<LossBound>,
    /// The fewest bytes of the response's body with which it loses if they are unread when the last pause begins; `None` where that says
    /// nothing.
    pub unread_from: Option<u64>,
    /// Whether it was made as short as it can be. Otherwise the time was over.
    pub whole: bool,
    /// How many trials it took to make it short.
    pub shrinking: u64,
    /// What the kernel counted on the server's side while the shortest story was repeated; `None` where others use it, too.
    pub counters: Option<Counters>,
    /// What it counted on the client's side; `None` where that is the same, and where a server is hunted.
    pub client_counters: Option<Counters>,
    /// All trials in which it was repeated and made short.
    pub map: TrialMap,
}

/// A loss that did not come again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LostOnce {
    /// The story.
    pub story: Story,
    /// What was lost the one time.
    pub lost: LostResponse,
    /// How often it was tried again: ten times, unless the hunt ended meanwhile.
    pub tried: u64,
}

/// Why a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SearchEnd {
    /// A loss was found.
    Found,
    /// The time was over.
    Time,
    /// The user stopped it.
    Stopped,
    /// The server ended.
    ServerEnded {
        /// How.
        status: String,
        /// The end of what it printed.
        said: String,
    },
}

/// What was searched.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Searched {
    /// Schedules that were played to their end.
    pub schedules: u64,
    /// Those of each verdict.
    pub verdicts: BTreeMap<Verdict, u64>,
    /// Those that say nothing, by the reason.
    pub unjudged: BTreeMap<Unjudged, u64>,
    /// The shortest and the longest pause, in milliseconds, and how many schedules had one.
    pub pauses: Option<(u64, u64)>,
    /// How many schedules had a pause of this many milliseconds up to ten times as many: 1, 10, 100 and so on.
    pub pause_decades: BTreeMap<u64, u64>,
    /// The smallest and the largest number of bytes that one step sent.
    pub sizes: Option<(u64, u64)>,
    /// How many schedules had a step that sent this many bytes up to ten times as many: 1, 10, 100 and so on.
    pub size_decades: BTreeMap<u64, u64>,
    /// The trials by time and size.
    pub map: TrialMap,
    /// The most connections at a time.
    pub connections: usize,
    /// How long.
    pub time: Duration,
}

impl Searched {
    pub(crate) fn count(&mut self, story: &Story, verdict: Result<Verdict, Unjudged>) {
        match verdict {
            Ok(verdict) => *self.verdicts.entry(verdict).or_default() += 1,
            // It was not played to its end.
            Err(Unjudged::Halted) => return,
            Err(why) => *self.unjudged.entry(why).or_default() += 1,
        }
        self.schedules += 1;
        self.map.count(&story.schedule, verdict);
        let wider = |range: Option<(u64, u64)>, value: u64| {
            Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        };
        let decade = |value: u64| 10u64.pow(value.max(1).ilog10());
        let (mut pauses, mut sizes) = (BTreeSet::new(), BTreeSet::new());
        for step in &story.schedule.steps {
            match *step {
                HuntStep::Pause { milliseconds } => {
                    self.pauses = wider(self.pauses, milliseconds);
                    pauses.insert(decade(milliseconds));
                }
                HuntStep::Send { bytes }
                | HuntStep::Request { sent: bytes @ 1.., .. }
                | HuntStep::Respond { sent: bytes @ 1.., .. } => {
                    self.sizes = wider(self.sizes, bytes);
                    sizes.insert(decade(bytes));
                }
                _ => {}
            }
        }
        for (all, these) in [(&mut self.pause_decades, pauses), (&mut self.size_decades, sizes)] {
            for decade in these {
                *all.entry(decade).or_default() += 1;
            }
        }
    }
}

/// How it is known that a client's output is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputCheck {
    /// It has to be the bodies of the responses.
    Bodies,
    /// It has to be the same as in the plain trials.
    Same,
    /// It has to be what was asked for.
    Expected,
    /// It is not known: the exit status alone counts.
    Unknown,
}

impl OutputCheck {
    /// A stable identifier, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bodies => "bodies",
            Self::Same => "same",
            Self::Expected => "expected",
            Self::Unknown => "unknown",
        }
    }
}

/// What a client does where it is served plainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlainRequests {
    /// How many requests it makes.
    pub requests: u64,
    /// Bytes of the bodies of these requests together.
    pub upload: u64,
    /// How its output is judged.
    pub output: OutputCheck,
}

/// The result of a hunt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HuntReport {
    /// The client that is hunted; `None` where a server is.
    pub client: Option<PlainRequests>,
    /// Bytes of the body of the plain response.
    pub response_bytes: u64,
    /// The status of the plain response.
    pub status: u16,
    /// Where the server was asked.
    pub site: String,
    /// Whether the length of the response is announced; otherwise it ends with the connection.
    pub framed: bool,
    /// Whether half-closes were among the steps: not if the server takes one for the client's end.
    pub half_closes: bool,
    /// What was searched.
    pub searched: Searched,
    /// The loss that was found.
    pub found: Option<FoundLoss>,
    /// Losses that came once, and in none of the trials after it.
    pub unrepeated: Vec<LostOnce>,
    /// The first story that was at risk.
    pub at_risk: Option<Story>,
    /// Why it ended.
    pub ended: SearchEnd,
}
