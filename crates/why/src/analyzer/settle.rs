//! The end of a connection in the table: whether it failed, and the finding about that.

use super::{Analyzer, notes};
use crate::cause::no_reset::FailureLook;
use crate::cause::reset::{Diagnosis, decide};
use crate::facts::{Facts, Losses};
use crate::finding::{Evidence, Finding, Numbers};
use crate::flow::Flow;
use crate::names::AskedName;
use crate::record::Record;
use crate::recorded_reset::RecordedReset;
use crate::streams::Http2Streams;
use crate::{Cause, Claim, Class, Confidence, Remedy};

impl Analyzer {
    pub(super) fn settle(&mut self, flow: Flow) {
        notes::note_end(&mut self.surroundings, &mut self.places, &flow);
        self.conclude(flow);
    }

    /// What [`Self::settle`] does, for a connection whose end was noted.
    pub(super) fn conclude(&mut self, flow: Flow) {
        let streams = self.streams.remove(&flow.connection.key);
        let late = if self.late.is_empty() { None } else { self.late.remove(&flow.connection.key) };
        if let Some(reset) = flow.reset {
            self.judge(&reset, streams.as_ref());
        } else {
            self.settle_without_reset(&flow, &late.unwrap_or_default(), streams.as_ref());
        }
    }

    fn settle_without_reset(&mut self, flow: &Flow, late: &[Record], streams: Option<&Http2Streams>) {
        let connection = &flow.connection;
        let icmp = if self.reported.is_empty() { None } else { self.reported.remove(&connection.key) };
        let broken = streams.is_some_and(|streams| streams.broken().is_some());
        if icmp.is_none() && !broken && !connection.may_have_failed() {
            return;
        }
        let served = connection.client().map_or(0, |client| 1 - client);
        let network = self.places.network(connection, served);
        let listener = self.surroundings.of((connection.key.end(served), network));
        let look = FailureLook { connection, listener: &listener, icmp: icmp.as_ref(), streams };
        let Some(failed) = look.failed() else { return };
        let path = self.places.path(connection.paths[failed.by]);
        let name = self.names.of(flow.asked_name).map(AskedName::as_str);
        let mut finding = look.finding(failed, name, late);
        (finding.tags, finding.numbers.network) = (path.to_string(), path.network());
        self.files.localise(&mut finding);
        self.ready.push(finding);
    }

    pub(super) fn judge(&mut self, reset: &RecordedReset, streams: Option<&Http2Streams>) {
        let facts = Facts::new(reset).with_streams(streams);
        let key = &reset.connection.key;
        let (from, to) = (key.end(reset.by), key.end(1 - reset.by));
        let listener = match facts.sender_is_client() {
            Some(true) => to,
            _ => from,
        };
        let served = if listener == from { reset.by } else { 1 - reset.by };
        let network = self.places.network(&reset.connection, served);
        let mut verdict = decide(&facts, &self.surroundings.of((listener, network)));
        let asked_name = reset.asked_name.as_ref().map(AskedName::as_str);
        let said = facts.application().into_iter().chain(facts.asked_for(asked_name));
        verdict.evidence.extend(facts.fingerprints());
        verdict.evidence.extend(said.map(|says| Evidence { frame: None, says }));
        verdict.evidence.extend(facts.stream_claims());
        let path = self.places.path(reset.connection.paths[reset.by]);
        if !path.is_plain() {
            let says = Claim::SentIn(path.to_string());
            verdict.evidence.push(Evidence { frame: Some(reset.at.frame), says });
        }
        let mut ladder = facts.ladder();
        for rung in &mut ladder {
            if let Some(comment) = self.comments.get(&rung.frame) {
                rung.note = Some(match rung.note.take() {
                    Some(note) => format!("{note}; \"{comment}\""),
                    None => format!("\"{comment}\""),
                });
            }
        }
        let Losses { response: lost, request: unread } = told_losses(&facts, &verdict);
        let mut finding = Finding {
            file: String::new(),
            interface: key.interface(),
            frame: reset.at.frame,
            time_ns: reset.at.time_ns,
            from,
            to,
            client: facts.client().map(|dir| key.end(dir)),
            asked_name: asked_name.map(AskedName::service),
            class: verdict.class,
            cause: verdict.cause,
            confidence: verdict.confidence,
            candidates: verdict.candidates,
            harmless: verdict.harmless,
            lost_response_bytes: lost,
            unread_request_bytes: unread,
            evidence: verdict.evidence,
            would_decide: verdict.would_decide,
            remedy: remedy((verdict.cause, verdict.confidence), verdict.class, verdict.harmless),
            silence_ns: facts.silence(),
            age_ns: reset.at.time_ns.checked_sub(reset.connection.first_time),
            further_resets: reset.after.resets[0].saturating_add(reset.after.resets[1]),
            ladder,
            ttl: reset.ttl,
            tags: path.to_string(),
            numbers: Numbers {
                seq: reset.seq,
                isns: reset.connection.sides.map(|side| side.syn().then_some(side.isn())),
                network: path.network(),
            },
        };
        self.files.localise(&mut finding);
        self.ready.push(finding);
    }
}

/// What is told of the bytes that did not arrive.
fn told_losses(facts: &Facts<'_>, verdict: &Diagnosis) -> Losses {
    if verdict.harmless {
        return Losses { response: Some(0), request: Some(0) };
    }
    let Losses { response, request } = facts.losses();
    // Of a stream that is cut, or has no response, nobody knows how long it would have been.
    let response = response.filter(|bytes| *bytes > 0 || !facts.streams_open());
    let late = u64::from(facts.sender.late());
    // What a reset of its own accord acknowledges after its sender's FIN was not read all the same.
    let response = match verdict.cause {
        Cause::ClientGaveUp if verdict.class == Class::ActiveAfterFin => {
            response.map(|bytes| bytes.max(late))
        }
        _ => response,
    };
    // A capture cannot show unread bytes, except those that came after the FIN.
    let request = match verdict.cause {
        Cause::ClosedWithUnreadData | Cause::Unknown => None,
        Cause::DataAfterClose if facts.sender_is_client() != Some(true) => {
            request.map(|bytes| bytes.max(late))
        }
        _ => request,
    };
    Losses { response, request }
}

fn remedy((cause, confidence): (Cause, Confidence), class: Class, harmless: bool) -> Remedy {
    match cause {
        _ if harmless => Remedy::Nothing,
        Cause::Unknown if class == Class::Active => Remedy::DecideFirst,
        // The remedy of a cause that is only possible would send people after a middlebox that may not exist.
        _ if confidence == Confidence::Possible => Cause::Unknown.remedy(),
        _ => cause.remedy(),
    }
}
