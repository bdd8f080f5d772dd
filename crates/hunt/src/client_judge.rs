//! What became of a client's responses and uploads in one trial: the oracle on clients.
//!
//! A client can only lose what its kernel had. A response that the server did not write whole, or whose last byte the client's kernel did
//! not acknowledge, is none of the client's losses, unless the client says that all is well.

use linger_verdict::{Observation, Verdict};

use crate::judge::Unjudged;
use crate::report::{ClientLoss, ClientLossKind, LostResponse};
use crate::serve::{ServedConnection, ServedEnd, ServedExchange, content};

/// How a client ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientEnd {
    /// Its exit status, 128 and the number of the signal that ended it; `None` if it had not ended in time.
    pub(crate) status: Option<i32>,
    /// What it wrote to its standard output.
    pub(crate) output: Vec<u8>,
}

/// What a client's output has to be, where its responses came whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutputRule {
    /// The bodies of its responses, one behind the other.
    Bodies,
    /// Always the same.
    Always(Vec<u8>),
    /// So many bytes.
    Bytes(u64),
    /// Bytes with this hash.
    Sha256([u8; 32]),
    /// It differs, and nobody knows why: the exit status alone counts.
    Free,
}

/// What plain trials have taught of a client.
#[derive(Clone, Debug)]
pub(crate) struct PlainClient {
    /// How many requests it makes.
    pub(crate) requests: usize,
    pub(crate) output: OutputRule,
    /// The status of its responses.
    pub(crate) status: u16,
    /// Whether it speaks HTTP: then a response is the answer to a request also where that has not come whole.
    pub(crate) is_http: bool,
}

/// All that was seen of a trial.
#[derive(Clone, Debug)]
pub(crate) struct ClientTrial {
    pub(crate) served: Vec<ServedConnection>,
    pub(crate) end: ClientEnd,
    pub(crate) is_halted: bool,
    /// Whether a kernel sent a reset meanwhile.
    pub(crate) was_reset: bool,
}

impl ClientTrial {
    fn exchanges(&self) -> impl Iterator<Item = &ServedExchange> {
        self.served.iter().flat_map(|served| &served.exchanges)
    }

    /// Whether the client says that all is well.
    fn is_content(&self) -> bool {
        self.end.status == Some(0)
    }
}

/// The verdict on a trial, and what would have been lost.
pub(crate) fn judge_client(
    trial: &ClientTrial,
    plain: &PlainClient,
) -> (Result<Verdict, Unjudged>, LostResponse) {
    let (verdict, kind) = verdict(trial, plain);
    (verdict, lost(trial, plain, kind.unwrap_or(ClientLossKind::Response)))
}

fn verdict(trial: &ClientTrial, plain: &PlainClient) -> (Result<Verdict, Unjudged>, Option<ClientLossKind>) {
    let silent = |why| (Err(why), None);
    let lost = |kind| (Ok(Verdict::Lost), Some(kind));
    if trial.is_halted {
        return silent(Unjudged::Halted);
    }
    if trial.served.is_empty() {
        return silent(Unjudged::NotConnected);
    }
    if trial.end.status.is_none() {
        return silent(Unjudged::Silent);
    }
    let is_answer = |exchange: &ServedExchange| plain.is_http || exchange.whole_request;
    let all = |is: fn(&ServedExchange) -> bool| {
        let these = trial.exchanges().filter(|exchange| is(exchange) && is_answer(exchange));
        these.count() >= plain.requests
    };
    let (answered, delivered) = (all(|exchange| exchange.answered), all(|exchange| exchange.delivered));
    let is_right = trial.is_content() && plain.output.allows(&trial.end.output, trial, plain.requests);
    if !trial.is_content() {
        // It says that something failed: rightly, unless it was given everything. What it has put out whole is not lost.
        let has_it = plain.output == OutputRule::Bodies
            && answered
            && plain.output.allows(&trial.end.output, trial, plain.requests);
        if has_it {
            return (Ok(Observation { complete: true, reset: false, write_failed: true }.verdict()), None);
        }
        return if delivered { lost(ClientLossKind::Response) } else { silent(Unjudged::NotDelivered) };
    }
    let is_cut = trial.exchanges().any(|exchange| !exchange.whole_request);
    let is_begun = trial.exchanges().any(|exchange| exchange.body.is_some() && is_answer(exchange));
    match () {
        () if !answered && is_begun => return lost(ClientLossKind::Cut),
        () if !answered && is_cut => return lost(ClientLossKind::Upload),
        () if !answered => return silent(Unjudged::Unanswered),
        () if !is_right && delivered => return lost(ClientLossKind::Response),
        () if !is_right => return lost(ClientLossKind::Cut),
        () => {}
    }
    // Who gets a final response before the upload is done may stop if the server is closing (RFC 9112 section 9.5), or has refused it. One that has
    // said neither, and reads on to the end, was to get all of it.
    let is_open = |served: &ServedConnection| matches!(served.end, ServedEnd::Fin | ServedEnd::Reset);
    // One that has sent nothing of its body was told the end of it before it began, as by the answer to `Expect: 100-continue` (RFC 9110
    // section 10.1.1), after which curl sends none.
    let is_cut =
        |exchange: &ServedExchange| exchange.kept && !exchange.whole_request && exchange.received > 0;
    let cut_by_client =
        trial.served.iter().any(|served| is_open(served) && served.exchanges.iter().any(is_cut));
    if cut_by_client && plain.status < 400 {
        return lost(ClientLossKind::Upload);
    }
    let reset = trial.served.iter().any(|served| served.end == ServedEnd::Reset);
    (Ok(Observation { complete: true, reset, write_failed: false }.verdict()), None)
}

fn lost(trial: &ClientTrial, plain: &PlainClient, kind: ClientLossKind) -> LostResponse {
    let at = match kind {
        ClientLossKind::Upload => trial.exchanges().position(|exchange| !exchange.whole_request),
        ClientLossKind::Cut => {
            trial.exchanges().position(|exchange| exchange.body.is_some() && !exchange.answered)
        }
        ClientLossKind::Response => trial.exchanges().position(|exchange| exchange.delivered),
    };
    let exchange = at.and_then(|at| trial.exchanges().nth(at)).copied().unwrap_or_default();
    LostResponse {
        response: at.map_or(1, |at| at + 1),
        status: exchange.body.map(|_| plain.status),
        got: exchange.written,
        expected: exchange.body,
        reset: trial.was_reset || trial.served.iter().any(|served| served.end == ServedEnd::Reset),
        write_failed: false,
        by_client: Some(ClientLoss {
            kind,
            exit: trial.end.status,
            output: trial.end.output.len() as u64,
            received: exchange.received,
            announced: exchange.announced,
            connections: trial.served.len() as u64,
        }),
    }
}

impl OutputRule {
    /// Whether this output may be, where all responses came whole.
    fn allows(&self, output: &[u8], trial: &ClientTrial, requests: usize) -> bool {
        match self {
            Self::Free => true,
            Self::Always(always) => always == output,
            Self::Bytes(bytes) => output.len() as u64 == *bytes,
            Self::Sha256(hash) => sha256(output) == *hash,
            Self::Bodies => is_bodies(output, trial, requests),
        }
    }

    /// What the outputs of plain trials have in common. They had bodies of different sizes.
    pub(crate) fn learn(trials: &[ClientTrial]) -> Self {
        let mut outputs = trials.iter().map(|trial| &trial.end.output);
        let Some(first) = outputs.next() else { return Self::Free };
        if trials.iter().all(|trial| is_bodies(&trial.end.output, trial, usize::MAX)) {
            Self::Bodies
        } else if outputs.all(|output| output == first) {
            Self::Always(first.clone())
        } else {
            Self::Free
        }
    }
}

/// Whether an output is the bodies of the responses that were written whole: of all of them, or, by a client that has tried again, of the
/// last ones, but of so many at least.
fn is_bodies(output: &[u8], trial: &ClientTrial, least: usize) -> bool {
    let bodies: Vec<u64> =
        trial.exchanges().filter(|exchange| exchange.answered).filter_map(|exchange| exchange.body).collect();
    (0..=bodies.len().saturating_sub(least)).any(|from| {
        let mut rest = output;
        let has_all = bodies[from..].iter().all(|body| {
            let body = content(0, *body);
            let has_it = rest.starts_with(&body);
            rest = rest.get(body.len()..).unwrap_or_default();
            has_it
        });
        has_all && rest.is_empty()
    })
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}
