//! The answers, and what they come to.

use std::collections::BTreeMap;
use std::fmt;

use linger_untrusted::Untrusted;
use linger_verdict::Verdict;

use crate::check::Check;
use crate::reload::counted::ReloadFound;
use crate::seen::{ConnectionEnd, TrialResult};
use crate::witness::Witnessed;

/// The answer to a question. The variants are ordered; later ones are worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CheckAnswer {
    /// The question could not be asked, or its result decides nothing.
    CannotTell,
    /// The response arrived completely and the connection ended cleanly. To a question about a bound: there is one.
    Keeps,
    /// No bound was found.
    Unbounded,
    /// The end of the response came only after the client had stopped waiting, or never. To [`Check::IdleOpen`]: nobody
    /// else was served while connections were held.
    Stalls,
    /// The response arrived completely, and then the server reset the connection, or a write of the client's failed.
    /// Another client, or a client on a slower link, would have lost a part of it.
    AtRisk,
    /// Only to [`Check::Reload`]: connections were refused that were to be served, and no request was lost.
    Refuses,
    /// Bytes of the response are missing, and the end of the connection looked clean.
    LosesSilently,
    /// Bytes of the response are missing because of a reset, or a gateway answered 502 or 504 in the application's
    /// place. To [`Check::Backlog`]: some connections of the burst got no answer.
    Loses,
}

impl CheckAnswer {
    /// The answer's name in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keeps => "keeps",
            Self::AtRisk => "at risk",
            Self::Refuses => "refuses",
            Self::Loses => "loses",
            Self::LosesSilently => "loses silently",
            Self::Stalls => "stalls",
            Self::Unbounded => "unbounded",
            Self::CannotTell => "cannot tell",
        }
    }

    /// Whether the answer is a fault of the server.
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
    /// The answer.
    pub answer: CheckAnswer,
    /// The verdict on the response of the deciding trial; `None` if no response was judged.
    pub verdict: Option<Verdict>,
    /// Bytes of the response's body that arrived in the deciding trial.
    pub got: u64,
    /// Bytes that should have arrived; `None` if not known.
    pub expected: Option<u64>,
    /// How the connection of the deciding trial ended.
    pub ended: Option<ConnectionEnd>,
    /// Duration of the deciding trial, from connecting to the end of its connection.
    pub seconds: f64,
    /// How often the question was asked.
    pub trials: u32,
    /// How many of these trials gave this answer.
    pub with_this_answer: u32,
    /// The forms in which it was asked, as often each; empty if there is one only.
    pub forms: Vec<String>,
    /// The form of the deciding trial, if there are several.
    pub form: Option<String>,
    /// Growth of the kernel counters during the deciding trial; empty if they cannot be read.
    pub counters: BTreeMap<String, u64>,
    /// The server's resets during the whole check with their causes; empty if they cannot be watched.
    pub resets: Vec<Witnessed>,
    /// If a gateway answered that it did not get the application's response: the resets of this host on connections other
    /// than the probe's. Mostly they are the application's; empty if they cannot be watched.
    pub behind: Vec<Witnessed>,
    /// The status of the response in the deciding trial; `None` where none came, or where the protocol has none.
    pub status: Option<u16>,
    /// The answer to [`Check::KeepAlive`] in numbers; `None` for other questions, and where no end came.
    pub idle_limit: Option<IdleLimit>,
    /// The answer to [`Check::Reload`] in numbers; `None` for other questions, and where the server was not told to reload.
    pub reload: Option<ReloadFound>,
    /// Why the question was not asked, or not as often as configured, out of regard for a server that others use, too.
    pub left_out: Option<LeftOut>,
    /// Why the deciding trial tells nothing although no fault was seen in it; `None` if it tells, or if none was made.
    pub unlike: Option<Unlike>,
    /// The answer in a sentence.
    pub sentence: String,
}

/// Why a trial tells nothing about how the plain response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Unlike {
    /// The response has another status.
    Status,
    /// The response is another one, so much shorter that nothing of it can be lost.
    Length,
    /// There was no connection, or no response, and a plain request meets the same.
    NoAnswer,
}

/// How long a server keeps an idle connection, and what became of requests around that limit.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct IdleLimit {
    /// The shortest idle time after which the server ended a connection, in seconds.
    pub seconds: f64,
    /// What its header field Keep-Alive announces, in seconds.
    pub announced_seconds: Option<u64>,
    /// Requests that were answered.
    pub answered: u32,
    /// Requests that the server's end crossed: they reached it when it had closed.
    pub crossed: u32,
    /// Requests that had reached the server before it closed, or whose response was cut.
    pub lost: u32,
}

/// Why a question was left out, out of regard for a server that others use, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LeftOut {
    /// It asks more than a visitor does: POST, a large upload, held connections. See
    /// [`ProbeConfig::active`](crate::ProbeConfig::active).
    Active,
    /// [`QUIET`](crate::QUIET) bytes were sent or read before.
    Budget,
    /// [`ProbeConfig::within`](crate::ProbeConfig::within) had passed before.
    Time,
}

/// Why a server in which no fault was found cannot be said to keep its responses.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Doubt {
    /// The plain request was answered with such a status: a redirection, a refusal, a failure. It is not the page that users
    /// get.
    PlainStatus(u16),
    /// The plain response has no body of which anything could be lost.
    Empty,
    /// A check was answered with another status than the plain request, such as 503.
    OtherStatus {
        /// That status.
        status: u16,
        /// The check.
        check: Check,
    },
    /// A check was answered with another, much shorter response than the plain request.
    OtherLength {
        /// The length of its body, in bytes.
        bytes: u64,
        /// The check.
        check: Check,
    },
    /// In a check no connection could be made, or the server gave no response, to plain requests either.
    NoAnswer(Check),
    /// The server was to reload or to stop, and what became of requests then could not be told.
    Reload,
    /// [`QUIET`](crate::QUIET) bytes were read or sent before these could be asked.
    Unasked(Vec<Check>),
    /// The time was over before these could be asked.
    Late(Vec<Check>),
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
            forms: Vec::new(),
            form: None,
            counters: BTreeMap::default(),
            resets: Vec::new(),
            behind: Vec::new(),
            status: None,
            idle_limit: None,
            reload: None,
            left_out: None,
            unlike: None,
            sentence: sentence.to_owned(),
        }
    }

    /// Whether the answer is told beside the verdict on losing, and is no part of it: that of a check that [is
    /// so](Check::is_aside), and a risk to requests on kept connections, which HTTP/1.1 gives every server with an idle limit.
    pub fn is_aside(&self) -> bool {
        self.check.is_aside() || (self.check == Check::KeepAlive && self.answer == CheckAnswer::AtRisk)
    }

    /// The finding of one trial.
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
            forms: Vec::new(),
            form: None,
            counters: seen.counters.clone(),
            resets: Vec::new(),
            behind: Vec::new(),
            status: seen.status,
            idle_limit: None,
            reload: None,
            left_out: None,
            unlike: None,
            sentence,
        }
    }
}

/// All findings about a server.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct ProbeReport {
    /// The target, as a URL.
    pub target: String,
    /// The address at which it was asked, or the path of its unix socket; of the proxy, if there is one.
    pub address: String,
    /// Addresses that were tried before, and could not be reached.
    pub unreached: Vec<UnreachedAddress>,
    /// The proxy through which it was asked. How connections end is its doing then.
    pub proxy: Option<String>,
    /// The `Server` header, if there is one.
    pub server: Option<Untrusted>,
    /// The status of the plain response; `None` where the protocol has none.
    pub status: Option<u16>,
    /// Where a redirection leads.
    pub location: Option<Untrusted>,
    /// The protocol that was spoken.
    pub protocol: &'static str,
    /// Length of the body of the plain response, in bytes.
    pub response_bytes: u64,
    /// Whether the plain response ended in order and before its own end.
    pub is_short: bool,
    /// What marks the end of a response: `content-length`, `chunked`, `end-request`, `end-stream` or `close`.
    pub framing: &'static str,
    /// Why the server's resets could not be watched; `None` if they were, or if the server is on another host.
    pub unwatched: Option<String>,
    /// Whether more was asked than a visitor does ([`ProbeConfig::active`](crate::ProbeConfig::active)).
    pub is_active: bool,
    /// The answers.
    pub findings: Vec<CheckFinding>,
    /// How many connections were made. This and the next two are 0 until everything was asked.
    pub connections: u64,
    /// Bytes sent, in all. Those of TLS do not count.
    pub sent_bytes: u64,
    /// Bytes read, in all. Those of TLS do not count.
    pub received_bytes: u64,
}

/// An address of the target that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct UnreachedAddress {
    /// The address.
    pub address: String,
    /// Why.
    pub reason: String,
}

impl ProbeReport {
    /// The worst of the answers, of those [aside](CheckFinding::is_aside) only if nothing else was asked.
    /// [`CheckAnswer::CannotTell`] instead of [`CheckAnswer::Keeps`] where there is a [doubt](Self::doubt).
    pub fn overall(&self) -> CheckAnswer {
        match self.counting().map(|finding| finding.answer).max() {
            Some(CheckAnswer::Keeps) if self.doubt().is_some() => CheckAnswer::CannotTell,
            worst => worst.unwrap_or(CheckAnswer::CannotTell),
        }
    }

    /// The findings that decide about the server.
    pub fn counting(&self) -> impl Iterator<Item = &CheckFinding> {
        let all_aside = self.findings.iter().all(CheckFinding::is_aside);
        self.findings.iter().filter(move |finding| all_aside || !finding.is_aside())
    }

    /// Why the server cannot be said to keep its responses although no fault was found; `None` if nothing speaks against it.
    pub fn doubt(&self) -> Option<Doubt> {
        // Of a WebSocket the plain response says nothing: mostly it is a refusal.
        let has_pages = self.counting().any(|finding| finding.check != Check::WebSocket);
        if let Some(status) = self.status.filter(|status| has_pages && !(200..300).contains(status)) {
            return Some(Doubt::PlainStatus(status));
        }
        if has_pages && self.response_bytes == 0 {
            return Some(Doubt::Empty);
        }
        let open = || self.counting().filter(|finding| finding.answer == CheckAnswer::CannotTell);
        let doubt = |finding: &CheckFinding| match (finding.unlike?, finding.status, finding.check) {
            (Unlike::Status, Some(status), check) => Some(Doubt::OtherStatus { status, check }),
            (Unlike::Length, _, check) => Some(Doubt::OtherLength { bytes: finding.got, check }),
            (_, _, check) => Some(Doubt::NoAnswer(check)),
        };
        if let Some(doubt) = open().find_map(doubt) {
            return Some(doubt);
        }
        // It is asked only where somebody wants to know it.
        if open().any(|finding| finding.check == Check::Reload) {
            return Some(Doubt::Reload);
        }
        let left_out = |why| {
            let unasked = open().filter(|finding| finding.left_out == Some(why));
            unasked.map(|finding| finding.check).collect::<Vec<_>>()
        };
        let some = |checks: Vec<Check>| Some(checks).filter(|checks| !checks.is_empty());
        let unasked = some(left_out(LeftOut::Budget)).map(Doubt::Unasked);
        unasked.or_else(|| some(left_out(LeftOut::Time)).map(Doubt::Late))
    }

    /// The finding of a question, if it was asked.
    pub fn of(&self, check: Check) -> Option<&CheckFinding> {
        self.findings.iter().find(|finding| finding.check == check)
    }
}
