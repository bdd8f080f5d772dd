//! Lines of `linger hunt`.

use std::collections::BTreeMap;

use linger_hunt::html::Replayed;
use linger_hunt::{
    BoundedNumber, ClientLoss, FoundLoss, HuntPlan, HuntReport, LossBound, LostOnce, LostResponse, Quarry,
    Repeats, Retold, SearchEnd, Story, TrialMap,
};
use linger_lab::Verdict;
use linger_why::Finding;
use schemars::JsonSchema;
use serde::Serialize;

use super::common::{Counted, counted};
use super::{LineBody, Reset};

/// What one side does.
#[derive(Serialize, JsonSchema)]
struct TrialStory {
    /// That side: `client`, or `server` where a client is hunted.
    plays: &'static str,
    /// The name of the network; null for a server that was running before.
    link: Option<String>,
    /// Its receive buffer; null for the kernel's own.
    receive_buffer_bytes: Option<u64>,
    /// Its send buffer; null for the kernel's own.
    send_buffer_bytes: Option<u64>,
    /// Whether the last request or response leaves the connection open.
    keep_alive: bool,
    /// The steps, each as a sentence.
    steps: Vec<String>,
}

impl From<&Story> for TrialStory {
    fn from(story: &Story) -> Self {
        let schedule = &story.schedule;
        Self {
            plays: schedule.plays.name(),
            link: story.link.clone(),
            receive_buffer_bytes: schedule.receive_buffer,
            send_buffer_bytes: schedule.send_buffer,
            keep_alive: schedule.keep_alive,
            steps: schedule.steps.iter().map(ToString::to_string).collect(),
        }
    }
}

/// How often a story was repeated, and what came of it.
#[derive(Serialize, JsonSchema)]
struct Repeated {
    /// How often.
    trials: u64,
    /// Those in which the response was lost.
    lost: u64,
    /// Those in which it was at risk.
    at_risk: u64,
    /// The lower end of the share that is lost, with 95 % confidence (Wilson).
    wilson_low: f64,
    /// The upper end.
    wilson_high: f64,
    /// Whether a loss comes in fewer than nine of ten trials.
    race: bool,
}

impl From<Repeats> for Repeated {
    fn from(repeats: Repeats) -> Self {
        let (wilson_low, wilson_high) = repeats.interval();
        let Repeats { tried, lost, at_risk, .. } = repeats;
        Self { trials: tried, lost, at_risk, wilson_low, wilson_high, race: repeats.is_race() }
    }
}

/// A response that was lost.
#[derive(Serialize, JsonSchema)]
struct CutResponse {
    /// Which of the responses, counted from 1.
    response: usize,
    /// Its status; null if not even its head came.
    status: Option<u16>,
    /// Bytes of its body that came.
    got_bytes: u64,
    /// Bytes of its body that should have come; null if their number is not known.
    expected_bytes: Option<u64>,
    /// Whether the connection was reset; otherwise it had a clean end.
    reset: bool,
    /// Whether a write of the client's failed.
    write_failed: bool,
    /// How a client that is hunted has lost it; null where a server is hunted.
    by_client: Option<LostByClient>,
}

/// What a client that is hunted has lost.
#[derive(Serialize, JsonSchema)]
struct LostByClient {
    /// `response`: its kernel had all of the response, and the client says that something failed, or its output is another one. `cut`: the response
    /// was not written whole, and the client says that all is well. `upload`: so it does, and the server has not received all of the request.
    what: &'static str,
    /// Its exit status, 128 and the signal's number; null if it did not end.
    exit: Option<i32>,
    /// Bytes that it wrote to its standard output.
    output_bytes: u64,
    /// Bytes of the request's body that the server received.
    received_bytes: u64,
    /// The length of that body; null if it is not known.
    announced_bytes: Option<u64>,
    /// How many connections the client made.
    connections: u64,
}

impl From<&ClientLoss> for LostByClient {
    fn from(lost: &ClientLoss) -> Self {
        Self {
            what: lost.kind.name(),
            exit: lost.exit,
            output_bytes: lost.output,
            received_bytes: lost.received,
            announced_bytes: lost.announced,
            connections: lost.connections,
        }
    }
}

/// What a client that is hunted does where it is served plainly.
#[derive(Serialize, JsonSchema)]
struct PlainTrial {
    /// How many requests it makes.
    requests: u64,
    /// Bytes of the bodies of these requests together.
    upload_bytes: u64,
    /// How its output is judged: it has to be the `bodies` of the responses, the `same` as in the plain trials, as `expected`, or it is `unknown`, and
    /// the exit status alone counts.
    output: &'static str,
}

impl From<&LostResponse> for CutResponse {
    fn from(lost: &LostResponse) -> Self {
        Self {
            response: lost.response,
            status: lost.status,
            got_bytes: lost.got,
            expected_bytes: lost.expected,
            reset: lost.reset,
            write_failed: lost.write_failed,
            by_client: lost.by_client.as_ref().map(Into::into),
        }
    }
}

/// From which value of a number of the story on the response is lost.
#[derive(Serialize, JsonSchema)]
struct Boundary {
    /// The step, counted from 1.
    step: usize,
    /// The number: `pause_ms`, `sent_bytes`, `read_bytes`, `body_bytes` (announced) or `body_sent_bytes` (with the head).
    number: &'static str,
    /// The smallest value that loses.
    loses_from: u64,
    /// The largest smaller value that was tried and does not always lose; null if there is no smaller one, or none that keeps twice.
    keeps_at: Option<u64>,
}

impl From<&LossBound> for Boundary {
    fn from(bound: &LossBound) -> Self {
        let number = match bound.what {
            BoundedNumber::Pause => "pause_ms",
            BoundedNumber::Sent => "sent_bytes",
            BoundedNumber::Read => "read_bytes",
            BoundedNumber::Body => "body_bytes",
            BoundedNumber::BodySent => "body_sent_bytes",
            _ => "other",
        };
        Self { step: bound.step, number, loses_from: bound.loses_from, keeps_at: bound.keeps_at }
    }
}

/// A loss that came once, and not again.
#[derive(Serialize, JsonSchema)]
struct UnrepeatedLoss {
    #[serde(flatten)]
    story: TrialStory,
    /// What was lost the one time.
    lost: CutResponse,
    /// How often it was tried again: ten times, unless the hunt ended meanwhile.
    trials: u64,
}

impl From<&LostOnce> for UnrepeatedLoss {
    fn from(once: &LostOnce) -> Self {
        Self { story: (&once.story).into(), lost: (&once.lost).into(), trials: once.tried }
    }
}

/// How many schedules had such a number: from it up to ten times as much.
#[derive(Serialize, JsonSchema)]
struct Decade {
    /// Where the decade begins: 1, 10, 100 and so on.
    from: u64,
    /// Schedules with such a number.
    schedules: u64,
}

fn decades(counted: &BTreeMap<u64, u64>) -> Vec<Decade> {
    counted.iter().map(|(from, schedules)| Decade { from: *from, schedules: *schedules }).collect()
}

/// Trials of about the same pauses and sizes.
#[derive(Serialize, JsonSchema)]
struct TrialsAt {
    /// All pauses of a schedule together: at least this long.
    pauses_from_ms: u64,
    /// And shorter than this.
    pauses_below_ms: u64,
    /// All bytes that a schedule sends behind the heads of its requests: at least so many.
    sent_from_bytes: u64,
    /// And fewer than this.
    sent_below_bytes: u64,
    /// Trials whose responses arrived whole.
    kept: u64,
    /// Trials with a response at risk.
    at_risk: u64,
    /// Trials with a response that was lost.
    lost: u64,
    /// Trials that say nothing about losses.
    undecided: u64,
}

fn trials(map: &TrialMap) -> Vec<TrialsAt> {
    map.cells()
        .map(|(cell, counts)| TrialsAt {
            pauses_from_ms: cell.pauses_from_ms,
            pauses_below_ms: cell.pauses_below_ms(),
            sent_from_bytes: cell.sent_from_bytes,
            sent_below_bytes: cell.sent_below_bytes(),
            kept: counts.kept,
            at_risk: counts.at_risk,
            lost: counts.lost,
            undecided: counts.undecided,
        })
        .collect()
}

/// The words of the command; `None` for a server that was running before.
fn command(plan: &HuntPlan) -> Option<Vec<String>> {
    match &plan.quarry {
        Quarry::Command { words, .. } => {
            Some(words.iter().map(|word| word.to_string_lossy().into_owned()).collect())
        }
        Quarry::Client { hunted, .. } => Some(vec![hunted.command.clone()]),
        _ => None,
    }
}

/// The loss that was found.
#[derive(Serialize, JsonSchema)]
struct HuntLoss {
    /// The shortest story.
    story: TrialStory,
    /// The story as it was drawn.
    drawn: TrialStory,
    /// Which of the schedules of its seed.
    index: u64,
    /// How long the hunt had searched.
    after_seconds: f64,
    /// How often the shortest story loses.
    repeated: Repeated,
    /// One of its losses.
    lost: CutResponse,
    /// The boundaries, in the order of the steps.
    bounds: Vec<Boundary>,
    /// The fewest bytes of the response's body with which it is lost, if they are unread when the last pause begins; null where that says
    /// nothing.
    unread_from_bytes: Option<u64>,
    /// Whether the story is as short as it can be; otherwise the time was over.
    whole: bool,
    /// How many trials it took to make it short.
    shrinking_trials: u64,
    /// What the kernel counted on the server's side while the story was repeated; null where others use it, too.
    counters: Option<Counted>,
    /// What it counted on the client's side; null where a server is hunted, and over loopback.
    client_counters: Option<Counted>,
    /// All trials in which losses were repeated and made short, by time and size.
    trials: Vec<TrialsAt>,
}

impl From<&FoundLoss> for HuntLoss {
    fn from(found: &FoundLoss) -> Self {
        Self {
            story: (&found.story).into(),
            drawn: (&found.drawn).into(),
            index: found.index,
            after_seconds: found.after.as_secs_f64(),
            repeated: found.repeats.into(),
            lost: (&found.lost).into(),
            bounds: found.bounds.iter().map(Into::into).collect(),
            unread_from_bytes: found.unread_from,
            whole: found.whole,
            shrinking_trials: found.shrinking,
            counters: found.counters.as_ref().map(counted),
            client_counters: found.client_counters.as_ref().map(counted),
            trials: trials(&found.map),
        }
    }
}

/// A story that was played once more, over a link from which it can be captured.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ToldPackets {
    /// The name of the link: the story's own, or `lan` in the place of loopback.
    link: String,
    /// How often it was played, five times at most.
    trials: u64,
    /// Whether the last of these trials lost the response.
    lost: bool,
    /// Whether the user stopped it before a trial lost.
    interrupted: bool,
    /// Whether the capture was written to the file of `--pcap`.
    captured: bool,
    /// What the kernel counted on the server's side in the last of these trials.
    counters: Option<Counted>,
    /// What it counted on the client's side; null where a server is hunted.
    client_counters: Option<Counted>,
    /// What the packets show, as a line of `linger why --json`; null if the response was not lost, or if nothing is to be seen.
    finding: Option<Reset>,
}

impl ToldPackets {
    pub(crate) fn new(retold: &Retold, finding: Option<&Finding>, captured: bool) -> Self {
        Self {
            link: retold.link.clone(),
            trials: retold.trials,
            lost: retold.lost.is_some(),
            interrupted: retold.interrupted,
            captured,
            counters: retold.counters.as_ref().map(counted),
            client_counters: retold.client_counters.as_ref().map(counted),
            finding: finding.map(Reset::from),
        }
    }
}

/// What a hunt has found, and what it has searched.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Hunt {
    /// The seed.
    seed: u64,
    /// The command that searches the same schedules.
    again: String,
    /// The words of the server's command, or the line of the client's; null for a server that was running before.
    command: Option<Vec<String>>,
    /// The client that is hunted; null where a server is.
    client: Option<PlainTrial>,
    /// Where the server was asked: host, port and path; `server` and the port where a client is hunted.
    site: String,
    /// The status of the plain response.
    status: u16,
    /// Size of its body; 0 where a client is hunted, whose responses differ.
    response_bytes: u64,
    /// Why the search ended: `found`, `time`, `stopped` or `server_ended`.
    ended: &'static str,
    /// How the server ended; null if it did not.
    server_status: Option<String>,
    /// The end of what the server printed; null if it did not end.
    server_said: Option<String>,
    /// Schedules that were played.
    schedules: u64,
    /// Those whose responses arrived whole.
    kept: u64,
    /// Those whose responses arrived whole, with a reset or a failed write before the client had read all.
    at_risk: u64,
    /// Those with a response that was lost.
    lost: u64,
    /// Those that say nothing about losses, by the reason.
    unjudged: BTreeMap<&'static str, u64>,
    /// How long was searched.
    seconds: f64,
    /// The most connections at a time.
    connections: usize,
    /// The shortest pause; null if there was none.
    shortest_pause_ms: Option<u64>,
    /// The longest pause; null if there was none.
    longest_pause_ms: Option<u64>,
    /// The fewest bytes that one step sent; null if none did.
    smallest_send_bytes: Option<u64>,
    /// The most bytes that one step sent; null if none did.
    largest_send_bytes: Option<u64>,
    /// How many schedules had a pause of each decade, in milliseconds.
    pause_ms_decades: Vec<Decade>,
    /// How many schedules had a step that sent bytes of each decade.
    send_bytes_decades: Vec<Decade>,
    /// The schedules by time and size.
    trials: Vec<TrialsAt>,
    /// Whether clients half-closed: not if the server takes that for their end.
    half_closes: bool,
    /// The loss; null if none was found.
    found: Option<HuntLoss>,
    /// The packets of the loss; null if none was found, or if its server was running before.
    packets: Option<ToldPackets>,
    /// Losses that came once and in none of ten more trials.
    unrepeated: Vec<UnrepeatedLoss>,
    /// The first story whose response was at risk; null if there was none.
    at_risk_story: Option<TrialStory>,
}

impl LineBody for Hunt {
    const KIND: &'static str = "hunt";
}

impl Hunt {
    pub(crate) fn new(
        report: &HuntReport,
        packets: Option<ToldPackets>,
        plan: &HuntPlan,
        again: String,
    ) -> Self {
        let searched = &report.searched;
        let of = |verdict: Verdict| searched.verdicts.get(&verdict).copied().unwrap_or(0);
        let (ended, server_status, server_said) = match &report.ended {
            SearchEnd::Found => ("found", None, None),
            SearchEnd::Stopped => ("stopped", None, None),
            SearchEnd::ServerEnded { status, said } => {
                ("server_ended", Some(status.clone()), Some(said.clone()))
            }
            _ => ("time", None, None),
        };
        Self {
            seed: plan.seed,
            again,
            command: command(plan),
            client: report.client.as_ref().map(|client| PlainTrial {
                requests: client.requests,
                upload_bytes: client.upload,
                output: client.output.name(),
            }),
            site: report.site.clone(),
            status: report.status,
            response_bytes: report.response_bytes,
            ended,
            server_status,
            server_said,
            schedules: searched.schedules,
            kept: of(Verdict::Kept),
            at_risk: of(Verdict::AtRisk),
            lost: of(Verdict::Lost),
            unjudged: searched.unjudged.iter().map(|(why, count)| (why.name(), *count)).collect(),
            seconds: searched.time.as_secs_f64(),
            connections: searched.connections,
            shortest_pause_ms: searched.pauses.map(|(low, _)| low),
            longest_pause_ms: searched.pauses.map(|(_, high)| high),
            smallest_send_bytes: searched.sizes.map(|(low, _)| low),
            largest_send_bytes: searched.sizes.map(|(_, high)| high),
            pause_ms_decades: decades(&searched.pause_decades),
            send_bytes_decades: decades(&searched.size_decades),
            trials: trials(&searched.map),
            half_closes: report.half_closes,
            found: report.found.as_ref().map(Into::into),
            packets,
            unrepeated: report.unrepeated.iter().map(Into::into).collect(),
            at_risk_story: report.at_risk.as_ref().map(Into::into),
        }
    }
}

/// A story that was repeated from a file.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Replay {
    /// The words of the server's command, or the line of the client's; null for a server that was running before.
    command: Option<Vec<String>>,
    /// The story.
    story: TrialStory,
    /// What came of it.
    repeated: Repeated,
    /// Whether it was stopped before it was repeated as often as was asked for.
    interrupted: bool,
    /// Trials that say something about losses.
    judged: u64,
    /// One of the losses; null if there was none.
    lost: Option<CutResponse>,
    /// The packets of a loss; null if there was none, or if the server was running before.
    packets: Option<ToldPackets>,
}

impl LineBody for Replay {
    const KIND: &'static str = "replay";
}

impl Replay {
    pub(crate) fn new(replayed: &Replayed<'_>, packets: Option<ToldPackets>, plan: &HuntPlan) -> Self {
        Self {
            command: command(plan),
            story: replayed.story.into(),
            repeated: replayed.repeats.into(),
            interrupted: replayed.interrupted().is_some(),
            judged: replayed.repeats.judged,
            lost: replayed.lost.map(Into::into),
            packets,
        }
    }
}
