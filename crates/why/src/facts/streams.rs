//! What became of the streams of an HTTP/2 connection, as sentences.

use super::Facts;
use crate::claim::{Claim, GREATEST_STREAM, StreamFate};
use crate::finding::Evidence;
use crate::key::Dir;
use crate::streams::{FramesLost, StreamsLook};

/// Characters of GOAWAY's debug data that are shown.
const DEBUG_TEXT: usize = 96;

impl Facts<'_> {
    /// The streams that are not over; `None` where the capture does not show them whole.
    pub(crate) fn streams_look(&self) -> Option<StreamsLook> {
        let streams = self.streams?;
        if self.streams_lost().is_some() {
            return None;
        }
        let [client, server] =
            [streams.client(), 1 - streams.client()].map(|dir| &self.connection().sides[dir]);
        let end = server.next.wrapping_sub(u32::from(server.has_fin()));
        let (acked, taken) = (self.acknowledged_by(client, server), self.acknowledged_by(server, client));
        streams.look(acked, taken, end)
    }

    /// Why the streams are not known, and of which side.
    fn streams_lost(&self) -> Option<(Dir, FramesLost)> {
        let lost = self.streams?.lost(self.connection());
        let beyond = |number: u32, known: u32| number.wrapping_sub(known).wrapping_sub(1) < 1 << 31;
        let reset = self.reset;
        // The reset may name bytes that the capture lacks.
        lost.or_else(|| {
            let own = reset.is_any() && beyond(reset.seq, self.sender.next);
            own.then_some((reset.by, FramesLost::Missing))
        })
        .or_else(|| {
            let others = self.active() && beyond(reset.ack, self.receiver.next);
            others.then_some((1 - reset.by, FramesLost::Missing))
        })
    }

    /// HTTP/2, and a client lacks a response, or part of one, that the server had not declined to give: where GOAWAY says so it must
    /// have reached the client.
    pub(crate) fn streams_open(&self) -> bool {
        let Some((streams, look)) = self.streams.zip(self.streams_look()) else { return false };
        let client = &self.connection().sides[streams.client()];
        let server = &self.connection().sides[1 - streams.client()];
        let untold = || {
            let acked = self.acknowledged_by(client, server);
            let goaway = streams.goaway(1 - streams.client());
            goaway.is_some_and(|goaway| acked.wrapping_sub(goaway.end) >= 1 << 31)
        };
        look.is_open() || streams.broken().is_some() || !look.above.is_empty() && untold()
    }

    /// HTTP/2, and the client has acknowledged the end of every response: how many there were.
    pub(crate) fn streams_whole(&self) -> Option<u32> {
        let (streams, look) = self.streams.zip(self.streams_look())?;
        let over = !look.is_open() && look.above.is_empty() && look.uploading.is_empty();
        (over && streams.reset.is_empty() && streams.opened() > 0).then_some(streams.opened())
    }

    /// What the frames of HTTP/2 show: GOAWAY, streams that were reset, streams that are not over.
    pub(crate) fn stream_claims(&self) -> Vec<Evidence> {
        let Some(streams) = self.streams else { return Vec::new() };
        let mut said = Vec::new();
        let (client, server) = (streams.client(), 1 - streams.client());
        for dir in [server, client] {
            if let Some(goaway) = streams.goaway(dir) {
                let says = Claim::GoAway {
                    party: self.party(dir),
                    error: goaway.error,
                    last: goaway.last,
                    debug: text(&goaway.debug),
                };
                said.push(Evidence { frame: Some(self.frame_at(goaway.seen.frame)), says });
            }
        }
        for reset in &streams.reset {
            let says = Claim::StreamsReset {
                party: self.party(reset.by),
                error: reset.error,
                streams: reset.streams.clone(),
            };
            said.push(Evidence { frame: Some(self.frame_at(reset.seen.frame)), says });
        }
        match self.streams_look() {
            Some(look) => self.say_fates(look, &mut said),
            None => {
                let lost = self.streams_lost().filter(|_| streams.opened() > 0);
                let says = lost.map(|(dir, _)| Claim::StreamsUnknown(self.party(dir)));
                said.extend(says.map(|says| Evidence { frame: None, says }));
            }
        }
        said
    }

    fn say_fates(&self, look: StreamsLook, said: &mut Vec<Evidence>) {
        let goaway = self.streams.and_then(|streams| streams.goaway(1 - streams.client()));
        let last = goaway.map(|goaway| goaway.last);
        let named = last.filter(|last| *last != GREATEST_STREAM);
        let fates = [
            (StreamFate::Cut, look.cut),
            (StreamFate::Undelivered, look.undelivered),
            (StreamFate::Unanswered { last: named }, look.unanswered),
            (StreamFate::Unfinished { last: named }, look.unfinished),
            (StreamFate::Above { last: last.unwrap_or(0) }, look.above),
            (StreamFate::Uploading, look.uploading),
        ];
        for (fate, streams) in fates.into_iter().filter(|(_, streams)| !streams.is_empty()) {
            said.push(Evidence { frame: None, says: Claim::Streams { fate, streams } });
        }
    }
}

/// A stranger's text, if it is printable ASCII.
fn text(bytes: &[u8]) -> Option<String> {
    let printable = !bytes.is_empty() && bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let bytes = bytes.get(..DEBUG_TEXT).unwrap_or(bytes);
    printable.then(|| String::from_utf8_lossy(bytes).into_owned())
}
