//! What was asked, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use linger_untrusted::Untrusted;
use linger_verdict::Verdict;

use crate::seen::{ConnectionEnd, TrialResult};
use crate::witness::Witnessed;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// Does the answer arrive when the server leaves the request's body unread?
    UnreadBody,
    /// ... when 8 bytes follow a complete request? (FastCGI: the empty STDIN record in a packet of its own.)
    TrailingBytes,
    /// ... when it is larger than the client's window, and read late?
    LargeResponse,
    /// ... when the client is still sending as the server refuses?
    UploadInProgress,
    /// ... when a second request follows the one after which the server closes?
    Pipelined,
    /// ... when a byte arrives after the response began?
    LateByte,
    /// ... when the client shuts its sending side first?
    HalfClose,
    /// Does the server wait for the client while the client waits for it?
    Stall,
    /// How long is a connection held whose client does not close? Are others served meanwhile?
    IdleOpen,
    /// Is there a limit to the whole, when a byte comes just inside the limit of silence?
    Drip,
    /// Is there a limit to what is read and thrown away?
    EndlessUpload,
    /// Are connections of a burst reset or ignored before any byte?
    Backlog,
}

impl Check {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 12] = [
        Self::LargeResponse,
        Self::UnreadBody,
        Self::TrailingBytes,
        Self::LateByte,
        Self::Pipelined,
        Self::HalfClose,
        Self::UploadInProgress,
        Self::Stall,
        Self::IdleOpen,
        Self::Drip,
        Self::EndlessUpload,
        Self::Backlog,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnreadBody => "unread-body",
            Self::TrailingBytes => "trailing-bytes",
            Self::LargeResponse => "large-response",
            Self::UploadInProgress => "upload-in-progress",
            Self::Pipelined => "pipelined",
            Self::LateByte => "late-byte",
            Self::HalfClose => "half-close",
            Self::Stall => "stall",
            Self::IdleOpen => "idle-open",
            Self::Drip => "drip",
            Self::EndlessUpload => "endless-upload",
            Self::Backlog => "backlog",
        }
    }

    /// Whether it asks what only a hostile client would, and so needs [`ProbeConfig::hostile`](crate::Config::hostile).
    pub fn is_hostile(self) -> bool {
        matches!(self, Self::Drip | Self::EndlessUpload | Self::Backlog)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|check| check.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|check| check.name()).collect();
            format!("no check is called `{text}`; there are {}", names.join(", "))
        })
    }
}

/// The answer to a question, in a word; later ones are worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CheckAnswer {
    /// It could not be asked, or the answer decides nothing.
    CannotTell,
    /// The answer arrived whole, and the connection ended well; or what is asked for is bounded.
    Keeps,
    /// No limit was found.
    Unbounded,
    /// The response's end came only after the client had given in, or never.
    Stalls,
    /// The response arrived whole, and then the server reset the connection: another client, or a slower link, would have
    /// lost a part of it.
    AtRisk,
    /// The response was cut, and its end looked like a proper one.
    LosesSilently,
    /// The response was cut by a reset.
    Loses,
}

impl CheckAnswer {
    /// Its name in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keeps => "keeps",
            Self::AtRisk => "at risk",
            Self::Loses => "loses",
            Self::LosesSilently => "loses silently",
            Self::Stalls => "stalls",
            Self::Unbounded => "unbounded",
            Self::CannotTell => "cannot tell",
        }
    }

    /// Whether it is a fault of the server's.
    pub fn is_fault(self) -> bool {
        !matches!(self, Self::Keeps | Self::CannotTell)
    }
}

impl fmt::Display for CheckAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The answer to one question.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct CheckFinding {
    /// The question.
    pub check: Check,
    /// The answer in a word.
    pub answer: CheckAnswer,
    /// The verdict on the response of the trial that decided; none where no response was judged.
    pub verdict: Option<Verdict>,
    /// Bytes of the response's body that arrived, in the trial that decided.
    pub got: u64,
    /// Bytes that should have.
    pub expected: Option<u64>,
    /// How that trial's connection ended.
    pub ended: Option<ConnectionEnd>,
    /// From connecting to that end, in seconds.
    pub seconds: f64,
    /// How often it was asked, and how often with this answer.
    pub trials: u32,
    /// See `trials`.
    pub with_this_answer: u32,
    /// What the kernel counted during the trial that decided, where that can be known.
    pub counters: BTreeMap<String, u64>,
    /// The server's resets during the whole check, with causes, where they can be seen.
    pub resets: Vec<Witnessed>,
    /// The answer in a sentence.
    pub sentence: String,
}

impl CheckFinding {
    /// A question that was not answered.
    pub(crate) fn undecided(check: Check, sentence: &str) -> Self {
        Self {
            check,
            answer: CheckAnswer::CannotTell,
            verdict: None,
            got: 0,
            expected: None,
            ended: None,
            seconds: 0.0,
            trials: 0,
            with_this_answer: 0,
            counters: BTreeMap::default(),
            resets: Vec::new(),
            sentence: sentence.to_owned(),
        }
    }

    /// The answer of one trial, from what was seen.
    pub(crate) fn of(check: Check, answer: CheckAnswer, seen: &TrialResult, sentence: String) -> Self {
        Self {
            check,
            answer,
            verdict: None,
            got: seen.got,
            expected: seen.expected,
            ended: Some(seen.ended),
            seconds: seen.elapsed.as_secs_f64(),
            trials: 1,
            with_this_answer: 1,
            counters: seen.counters.clone(),
            resets: Vec::new(),
            sentence,
        }
    }
}

/// All that was found out about a server.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct ProbeReport {
    /// The target, as a URL.
    pub target: String,
    /// The `Server` header, where there is one.
    pub server: Option<Untrusted>,
    /// Length of the plain answer's body, in bytes.
    pub response_bytes: u64,
    /// How its end is known: `content-length`, `chunked`, `end-request`, `close`.
    pub framing: &'static str,
    /// Why the server's resets could not be watched; `None` where they were, or where it is on another host.
    pub unwatched: Option<String>,
    /// The answers.
    pub findings: Vec<CheckFinding>,
}

impl ProbeReport {
    /// The worst answer; [`CheckAnswer::CannotTell`] only where nothing could be told.
    pub fn overall(&self) -> CheckAnswer {
        self.findings.iter().map(|finding| finding.answer).max().unwrap_or(CheckAnswer::CannotTell)
    }

    /// The finding of one check.
    pub fn of(&self, check: Check) -> Option<&CheckFinding> {
        self.findings.iter().find(|finding| finding.check == check)
    }
}
