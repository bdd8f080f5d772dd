//! Lines of `linger probe`.

use std::collections::BTreeMap;

use linger_probe as library;
use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;
use super::common::{self, Process};

/// The answer to one question.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Finding {
    /// The question.
    #[schemars(schema_with = "checks")]
    check: &'static str,
    /// The answer in a word.
    answer: String,
    /// The verdict on the response in the trial that decided: `kept`, `at_risk` or `lost`; null if no response was judged.
    verdict: Option<&'static str>,
    /// Bytes of the response's body that arrived, in the trial that decided.
    got_bytes: u64,
    /// Bytes of the response's body that should have arrived; null if their number is not known.
    expected_bytes: Option<u64>,
    /// How the connection of the trial that decided ended.
    ended: Option<String>,
    /// Time from connecting to the connection's end, in the trial that decided.
    seconds: f64,
    /// How often the question was asked.
    trials: u32,
    /// How many of the trials had this answer.
    with_this_answer: u32,
    /// The forms of the request with which it was asked, as often each; empty if there is one only.
    forms: Vec<String>,
    /// The form in the trial that decided; null if there is one only.
    form: Option<String>,
    /// What the kernel counted during the trial that decided, where that can be known.
    counters: BTreeMap<String, u64>,
    /// The server's resets during the whole check, where they can be seen.
    resets: Vec<Witnessed>,
    /// If a gateway answered 502 or 504: resets of this host on other connections meanwhile, mostly its application's.
    behind: Vec<Witnessed>,
    /// The status of the response in the trial that decided; null where none came, or where the protocol has none.
    status: Option<u16>,
    /// The shortest idle time after which the server ended a kept connection; null for other checks than `keep-alive`, and where
    /// no end came.
    idle_limit_seconds: Option<f64>,
    /// What the server announces of it in its header field Keep-Alive, in seconds; null where it does not.
    announced_seconds: Option<u64>,
    /// What became of the requests around a reload; null for other checks than `reload`, and where the server was not told.
    reload: Option<Reload>,
    /// Why the question was not asked, or not as often as it was to be: `active`, it asks more than a visitor does; `budget`, what
    /// may be asked of a server that others use, too, was used up; `time`, the time was over.
    left_out: Option<String>,
    /// The answer in a sentence.
    sentence: String,
}

impl LineBody for Finding {
    const KIND: &'static str = "finding";
}

/// What became of the requests around a reload, or a stop.
#[derive(Serialize, JsonSchema)]
struct Reload {
    /// Whether the server was told to stop.
    stop: bool,
    /// How often it was told.
    times: u32,
    /// What shows that it has done so: `command`, the command ended with status 0; `refused`, connections were refused; `ended`, the
    /// process has ended; `processes`, other processes hold the listening socket; `socket`, another socket listens. Null if nothing does.
    shown: Option<String>,
    /// Responses that had begun before it was told, and were read when it had done so.
    under_way: u32,
    /// Requests that ended before the server was told.
    before: ReloadRequests,
    /// Requests that ended after that, and began before it had done what it was told.
    during: ReloadRequests,
    /// Requests that began later.
    after: ReloadRequests,
}

/// What became of requests.
#[derive(Serialize, JsonSchema)]
struct ReloadRequests {
    /// Answered in full.
    kept: u32,
    /// Answered in full before a reset; on a kept connection that had just ended; or left in the queue of a server that stops.
    at_risk: u32,
    /// Cut, or sent and not answered.
    lost: u32,
    /// How many of `at_risk` and `lost` ended by a reset.
    reset: u32,
    /// Not connected: nothing listened.
    refused: u32,
    /// Answered with another status, or not comparable.
    other: u32,
}

impl From<library::RequestCounts> for ReloadRequests {
    fn from(counts: library::RequestCounts) -> Self {
        let library::RequestCounts { kept, at_risk, lost, reset, refused, other, .. } = counts;
        Self { kept, at_risk, lost, reset, refused, other }
    }
}

impl From<library::ReloadFound> for Reload {
    fn from(found: library::ReloadFound) -> Self {
        Self {
            stop: found.is_stop,
            times: found.times,
            shown: found.shown.map(identifier),
            under_way: found.under_way,
            before: found.before.into(),
            during: found.during.into(),
            after: found.after.into(),
        }
    }
}

fn checks(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    common::one_of(library::Check::ALL.map(library::Check::name))
}

/// Resets of the server's that are alike.
#[derive(Serialize, JsonSchema)]
struct Witnessed {
    /// The number of these resets.
    resets: u32,
    /// Why the kernel sent these resets.
    #[schemars(schema_with = "common::cause")]
    cause: &'static str,
    /// How sure the cause is.
    #[schemars(schema_with = "common::confidence")]
    confidence: &'static str,
    /// The kernel's own word for it.
    reason: Option<String>,
    /// The process that closed the connection, or that listens.
    process: Option<Process>,
    /// Bytes that the process had not read, in all.
    unread_bytes: Option<u64>,
    /// Bytes that the process had written and the client had not acknowledged.
    unacknowledged_bytes: Option<u64>,
    /// The part of the unacknowledged bytes that was never sent.
    unsent_bytes: Option<u64>,
}

impl From<&library::CheckFinding> for Finding {
    fn from(finding: &library::CheckFinding) -> Self {
        let witnessed = |seen: &library::Witnessed| Witnessed {
            resets: seen.resets,
            cause: seen.cause.name(),
            confidence: seen.confidence.name(),
            reason: seen.reason.clone(),
            process: seen.process.as_ref().map(Process::from),
            unread_bytes: seen.unread_bytes,
            unacknowledged_bytes: seen.unacknowledged_bytes,
            unsent_bytes: seen.unsent_bytes,
        };
        Self {
            check: finding.check.name(),
            answer: identifier(finding.answer),
            verdict: finding.verdict.map(|verdict| verdict.name()),
            got_bytes: finding.got,
            expected_bytes: finding.expected,
            ended: finding.ended.map(identifier),
            seconds: finding.seconds,
            trials: finding.trials,
            with_this_answer: finding.with_this_answer,
            forms: finding.forms.clone(),
            form: finding.form.clone(),
            counters: finding.counters.clone(),
            resets: finding.resets.iter().map(witnessed).collect(),
            behind: finding.behind.iter().map(witnessed).collect(),
            status: finding.status,
            idle_limit_seconds: finding.idle_limit.map(|idle| idle.seconds),
            announced_seconds: finding.idle_limit.and_then(|idle| idle.announced_seconds),
            reload: finding.reload.map(Reload::from),
            left_out: finding.left_out.map(identifier),
            sentence: finding.sentence.clone(),
        }
    }
}

/// The identifier as which the library serialises a value.
fn identifier(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        other => other.unwrap_or_default().to_string(),
    }
}

fn names(checks: &[library::Check]) -> String {
    checks.iter().map(|check| check.name()).collect::<Vec<_>>().join(", ")
}

fn doubt(doubt: library::Doubt) -> String {
    match doubt {
        library::Doubt::PlainStatus(status) => format!("plain response has status {status}"),
        library::Doubt::Empty => "plain response has no body".into(),
        library::Doubt::OtherStatus { status, check } => format!("{check} was answered with {status}"),
        library::Doubt::OtherLength { bytes, check } => format!("{check} was answered with {bytes} bytes"),
        library::Doubt::Late(checks) => format!("the time was over before {}", names(&checks)),
        library::Doubt::NoAnswer(check) => format!("{check} was not answered, nor plain requests"),
        library::Doubt::Reload => "reload could not be told".into(),
        library::Doubt::Unasked(checks) => format!("the budget left out {}", names(&checks)),
        _ => "unknown".into(),
    }
}

/// An address that could not be reached.
#[derive(Serialize, JsonSchema)]
struct Unreached {
    /// The address.
    address: String,
    /// Why.
    reason: String,
}

impl From<&library::UnreachedAddress> for Unreached {
    fn from(one: &library::UnreachedAddress) -> Self {
        Self { address: one.address.clone(), reason: one.reason.clone() }
    }
}

/// All that was found out about a server.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Probe {
    /// The target, as a URL.
    target: String,
    /// The address at which it was asked, or the path of its unix socket; of the proxy, where there is one.
    address: String,
    /// Addresses that were tried before, and could not be reached.
    unreached: Vec<Unreached>,
    /// The proxy through which it was asked; null without one. How connections end is its doing then.
    proxy: Option<String>,
    /// The `Server` header, where there is one.
    server: Option<String>,
    /// The status of the plain response; null where the protocol has none.
    status: Option<u16>,
    /// Where a redirection leads.
    location: Option<String>,
    /// The protocol that was spoken: `HTTP/1.1`, `HTTP/2`, `FastCGI`, `TCP`.
    protocol: &'static str,
    /// Length of the plain answer's body.
    response_bytes: u64,
    /// How the end of that answer is known: `content-length`, `chunked`, `end-request`, `end-stream`, `close`.
    framing: &'static str,
    /// Why the server's resets could not be watched; null where they were, or where it is on another host.
    unwatched: Option<String>,
    /// The worst answer, without that of `half-close`, which is no matter of closing.
    answer: String,
    /// Why the answer is `cannot-tell` although no fault was found; null otherwise.
    doubt: Option<String>,
    /// What to do about it, in sentences.
    advice: Vec<String>,
    /// Whether more was asked than a visitor does: POST, large uploads, held connections.
    active: bool,
    /// How many connections were made; 0 after an interruption, as the next two.
    connections: u64,
    /// Bytes sent, in all.
    sent_bytes: u64,
    /// Bytes read, in all.
    received_bytes: u64,
    /// Whether it was interrupted, so that questions were not asked.
    interrupted: bool,
}

impl LineBody for Probe {
    const KIND: &'static str = "probe";
}

impl Probe {
    pub(crate) fn new(report: &library::ProbeReport, advice: Vec<String>, interrupted: bool) -> Self {
        Self {
            target: report.target.clone(),
            address: report.address.clone(),
            unreached: report.unreached.iter().map(Unreached::from).collect(),
            proxy: report.proxy.clone(),
            server: report.server.as_ref().map(|server| server.json().into_owned()),
            status: report.status,
            location: report.location.as_ref().map(|to| to.json().into_owned()),
            protocol: report.protocol,
            response_bytes: report.response_bytes,
            framing: report.framing,
            unwatched: report.unwatched.clone(),
            answer: identifier(report.overall()),
            doubt: report.doubt().filter(|_| report.overall() == library::CheckAnswer::CannotTell).map(doubt),
            advice,
            active: report.is_active,
            connections: report.connections,
            sent_bytes: report.sent_bytes,
            received_bytes: report.received_bytes,
            interrupted,
        }
    }
}

/// A question that would be asked, and what it would cost at most.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WouldAsk {
    /// The question.
    #[schemars(schema_with = "checks")]
    check: &'static str,
    /// Whether it would be asked; if not, it asks more than a visitor does.
    asked: bool,
    /// The number of connections.
    connections: u64,
    /// Whether there are POST requests among the requests.
    posts: bool,
    /// Bytes of request bodies and of what follows them, in all.
    sent_bytes: u64,
    /// How many connections are held open at once while nothing is asked on them.
    held: u64,
    /// How often the server is told to reload, or to stop: all its users may notice.
    reloads: u64,
}

impl LineBody for WouldAsk {
    const KIND: &'static str = "would-ask";
}

impl WouldAsk {
    pub(crate) fn new(check: library::Check, cost: Option<library::Cost>) -> Self {
        let of = |what: fn(&library::Cost) -> u64| cost.as_ref().map_or(0, what);
        Self {
            check: check.name(),
            asked: cost.is_some(),
            connections: of(|cost| cost.connections),
            posts: cost.is_some_and(|cost| cost.posts),
            sent_bytes: of(|cost| cost.sent),
            held: of(|cost| cost.held),
            reloads: of(|cost| cost.reloads),
        }
    }
}
