//! Proofs of sentences about the streams of HTTP/2: both sides' bytes, read frame by frame (RFC 9113).

use std::collections::BTreeMap;

use linger_packet::Flags;
use linger_why::{Claim, Party, StreamFate, StreamList};

use crate::check::{Checker, Proof, equal, holds};
use crate::trace::{Seen, Sent, at_or_after, latest};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame, as far as it is there, and the packets in which it begins, and in which the last byte that matters stands.
struct H2Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
    begin: u32,
    end: u32,
    packets: (u64, u64),
}

impl H2Frame {
    fn number(&self, at: usize) -> Option<u32> {
        Some(self.payload.get(at..at + 4)?.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }
}

/// The frames of a side up to the first byte that is missing or that begins no frame, and whether there is none such.
struct SideFrames {
    frames: Vec<H2Frame>,
    whole: bool,
}

impl SideFrames {
    fn of(side: &Sent<'_>) -> Self {
        let (bytes, start, no_gap) = bytes_of(side);
        let text: Vec<u8> = bytes.iter().map(|(byte, _)| byte.unwrap_or(0)).collect();
        let find =
            |what: &[u8]| text.windows(what.len()).position(|part| part == what).map(|at| at + what.len());
        let first = if text.starts_with(b"HTTP/1.1 101") {
            find(b"\r\n\r\n")
        } else {
            // A server's first frame is SETTINGS, which is short.
            find(PREFACE).or((text.first() == Some(&0)).then_some(0))
        };
        let mut at = first.unwrap_or(text.len());
        let mut frames = Vec::new();
        let mut whole = no_gap && first.is_some();
        while at < bytes.len() {
            let known = |from: usize, count: usize| -> Option<Vec<u8>> {
                bytes.get(from..from + count)?.iter().map(|(byte, _)| *byte).collect()
            };
            // A header that is not there to its end is a part of a frame, if nothing follows.
            let Some(header) = known(at, 9) else {
                whole &= at + 9 > bytes.len() && bytes[at..].iter().all(|(byte, _)| byte.is_some());
                break;
            };
            let length = header[..3].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let stream = header[5..].iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) << 1 >> 1;
            let kind = header[3];
            if !is_right(kind, length, stream) {
                whole = false;
                break;
            }
            let matters = match kind {
                3 | 7 => length.min(104),
                _ => 0,
            };
            let begin = start.wrapping_add(at as u32);
            let Some(payload) = known(at + 9, matters) else {
                whole &= at + 9 + matters > bytes.len();
                break;
            };
            let packets = (bytes[at].1, bytes[at + 8 + matters].1);
            let end = begin.wrapping_add(9 + length as u32);
            frames.push(H2Frame { kind, flags: header[4], stream, payload, begin, end, packets });
            at += 9 + length;
        }
        Self { frames, whole }
    }
}

fn is_right(kind: u8, length: usize, stream: u32) -> bool {
    match kind {
        0 | 1 | 5 | 9 => stream > 0,
        2 => stream > 0 && length == 5,
        3 => stream > 0 && length == 4,
        4 => stream == 0 && length.is_multiple_of(6),
        6 => stream == 0 && length == 8,
        7 => stream == 0 && length > 7,
        8 => length == 4,
        _ => true,
    }
}

/// The bytes of a side, each with its packet; `None` for what the snap length has cut. Also the first sequence number, and whether
/// there is no gap.
fn bytes_of(side: &Sent<'_>) -> (Vec<(Option<u8>, u64)>, u32, bool) {
    let (mut bytes, mut start) = (Vec::new(), None);
    for seen in side.before.iter().filter(|seen| seen.len > 0) {
        let at = seen.data_end().wrapping_sub(seen.len);
        let have = start.get_or_insert(at).wrapping_add(bytes.len() as u32);
        if !at_or_after(have, at) {
            return (bytes, start.unwrap_or(0), false);
        }
        for offset in have.wrapping_sub(at) as usize..seen.len as usize {
            bytes.push((seen.payload.get(offset).copied(), seen.frame));
        }
    }
    (bytes, start.unwrap_or(0), true)
}

/// Frames, each with whether it is the client's; and whether every byte of the client, and of the server, is part of one.
type FramesAsTheyCame = (Vec<(H2Frame, bool)>, [bool; 2]);

/// A stream of the client.
#[derive(Default)]
struct H2Stream {
    begin: u32,
    asked: bool,
    begun: bool,
    /// After the frame that ends the response.
    ends: Option<u32>,
    /// Who ended it before that, and why.
    reset: Option<(bool, u32)>,
    /// RST_STREAM came after that.
    closed: bool,
}

/// What both sides have said.
struct StreamsSaid {
    streams: BTreeMap<u32, H2Stream>,
    whole: bool,
    last: Option<u32>,
    server_end: Option<u32>,
    /// How far the client has acknowledged the server's bytes, and the other way round.
    acked: Option<u32>,
    taken: Option<u32>,
}

impl StreamsSaid {
    fn fate(&self, stream: u32) -> &'static str {
        let is = &self.streams[&stream];
        let sent = is.ends.filter(|end| self.server_end.is_some_and(|last| at_or_after(last, *end)));
        let delivered = sent.is_some_and(|end| self.acked.is_some_and(|acked| at_or_after(acked, end)));
        match (is.reset, sent, is.begun) {
            (Some(_), ..) => "reset",
            (_, Some(_), _) if delivered && (is.asked || is.closed) => "over",
            (_, Some(_), _) if delivered => "uploading",
            (_, Some(_), _) => "undelivered",
            (_, None, true) => "cut",
            _ if self.last.is_some_and(|last| stream > last) => "above",
            _ if is.asked => "unanswered",
            _ => "unfinished",
        }
    }

    fn with(&self, fate: &str) -> Vec<u32> {
        self.streams.keys().copied().filter(|stream| self.fate(*stream) == fate).collect()
    }
}

impl Checker<'_> {
    /// Client and server, up to the reset if there is one.
    fn speakers(&self) -> Result<[Sent<'_>; 2], String> {
        let (client, server) = self.both()?;
        if !self.finding.class.is_reset() {
            return Ok([client, server]);
        }
        Ok([client, server].map(|mut side| {
            side.before.retain(|seen| seen.frame < self.c.reset.frame);
            side
        }))
    }

    /// The frames of both sides as they came, each with whether it is the client's, and whether all of the client and of the server can
    /// stand there. A client opens odd streams, each higher than the last one (section 5.1.1), and a server answers what was asked.
    fn conversation(&self) -> Result<FramesAsTheyCame, String> {
        let [client, server] = self.speakers()?;
        let mut highest = u32::from(server.stream().1.starts_with(b"HTTP/1.1 101"));
        let (asked, answered) = (SideFrames::of(&client), SideFrames::of(&server));
        let mut right = [asked.whole, answered.whole];
        let mut broken = [false, false];
        let both = asked.frames.into_iter().map(|frame| (frame, true));
        let mut all: Vec<_> = both.chain(answered.frames.into_iter().map(|frame| (frame, false))).collect();
        all.sort_by_key(|(frame, _)| frame.packets.1);
        all.retain(|(frame, of_client)| {
            let odd = frame.stream % 2 == 1;
            let wrong = match (*of_client, frame.kind) {
                (true, 1) => !odd,
                (false, 0 | 1 | 3) => odd && frame.stream > highest,
                _ => false,
            };
            broken[usize::from(!*of_client)] |= wrong;
            if *of_client && frame.kind == 1 && !broken[0] {
                highest = highest.max(frame.stream);
            }
            !broken[usize::from(!*of_client)]
        });
        right = [right[0] && !broken[0], right[1] && !broken[1]];
        Ok((all, right))
    }

    fn said(&self) -> Result<StreamsSaid, String> {
        let [client, server] = self.speakers()?;
        let (all, right) = self.conversation()?;
        let mut streams = BTreeMap::<u32, H2Stream>::new();
        if server.stream().1.starts_with(b"HTTP/1.1 101") {
            let begin = client.before.first().map_or(0, |seen| seen.end());
            streams.insert(1, H2Stream { asked: true, begin, ..H2Stream::default() });
        }
        let mut last = None;
        for (frame, of_client) in all {
            if frame.kind == 7 && !of_client {
                last = frame.number(0).map(|last| last << 1 >> 1);
            }
            let ends = matches!(frame.kind, 0 | 1) && frame.flags & 1 == 1;
            let highest = streams.keys().last().copied().unwrap_or(0);
            if of_client && frame.kind == 1 && frame.stream > highest {
                streams.insert(frame.stream, H2Stream { begin: frame.begin, ..H2Stream::default() });
            }
            let Some(stream) = streams.get_mut(&frame.stream) else { continue };
            match frame.kind {
                0 | 1 if of_client => stream.asked |= ends,
                0 | 1 => {
                    stream.begun = true;
                    stream.ends = stream.ends.or(ends.then_some(frame.end));
                }
                9 if !of_client && stream.ends == Some(frame.begin) => stream.ends = Some(frame.end),
                3 if stream.ends.is_some() => stream.closed = true,
                // The server had declined it.
                3 if !stream.begun && last.is_some_and(|last| frame.stream > last) => stream.asked = true,
                3 => stream.reset = stream.reset.or(frame.number(0).map(|error| (of_client, error))),
                _ => {}
            }
        }
        let [acked, taken] = [(&client, true), (&server, false)].map(|(side, is_client)| {
            let own = self.side_of_client(is_client).filter(|_| self.finding.class.is_reset());
            own.map_or_else(|| side.final_ack(), |own| self.acked(own))
        });
        Ok(StreamsSaid {
            streams,
            whole: right == [true; 2],
            last,
            server_end: server.data_end(),
            acked,
            taken,
        })
    }

    pub(crate) fn streams(&self, claim: &Claim, frame: Option<u64>) -> Proof {
        match claim {
            Claim::GoAway { party, error, last, debug } => {
                let frames = self.frames_of(*party)?;
                let goaway = frames.iter().rev().find(|frame| frame.kind == 7).ok_or("no GOAWAY")?;
                equal(goaway.number(0).map(|last| last << 1 >> 1), Some(*last))?;
                equal(goaway.number(4), Some(*error))?;
                let text = debug.as_ref().map_or(&b""[..], |text| text.as_bytes());
                holds(goaway.payload[8..].starts_with(text), "another text")?;
                let (from, to) = goaway.packets;
                holds(frame.is_some_and(|frame| from <= frame && frame <= to), "in another packet")
            }
            Claim::StreamsReset { party, error, streams } => {
                let said = self.said()?;
                let by = (self.is_client(*party)?, *error);
                let ended = said.streams.iter().filter(|(_, stream)| stream.reset == Some(by));
                named(streams, ended.map(|(id, _)| *id).collect(), false)?;
                let frames = self.frames_of(*party)?;
                let own = |seen: &&H2Frame| seen.kind == 3 && seen.number(0) == Some(*error);
                let held =
                    |seen: &H2Frame| Some(seen.packets.1) == frame && streams.ids.contains(&seen.stream);
                holds(frames.iter().filter(own).any(held), "in another packet")
            }
            Claim::Streams { fate, streams } => self.fate(*fate, streams, frame),
            Claim::StreamsWhole(count) => {
                let said = self.said()?;
                holds(said.whole, "bytes are missing")?;
                equal(said.with("over").len(), said.streams.len())?;
                equal(said.streams.len() as u32, *count)
            }
            Claim::StreamsUnknown(party) => self.unreadable(*party),
            // A sentence that nobody wrote a proof for proves nothing.
            other => Err(format!("not checked: {other:?}")),
        }
    }

    fn fate(&self, fate: StreamFate, streams: &StreamList, frame: Option<u64>) -> Proof {
        let said = self.said()?;
        holds(said.whole, "bytes are missing")?;
        let goaway = |last: Option<u32>| {
            let known = said.last.filter(|last| *last != u32::MAX >> 1);
            equal(known, last)
        };
        let word = match fate {
            StreamFate::Unanswered { last } => {
                goaway(last)?;
                "unanswered"
            }
            StreamFate::Unfinished { last } => {
                goaway(last)?;
                "unfinished"
            }
            StreamFate::Above { last } => {
                equal(said.last, Some(last))?;
                "above"
            }
            StreamFate::Cut => "cut",
            StreamFate::Undelivered => "undelivered",
            StreamFate::Uploading => "uploading",
            StreamFate::Crossed => return self.crossed(&said, streams, frame),
            _ => return Err("not checked".into()),
        };
        named(streams, said.with(word), true)
    }

    fn crossed(&self, said: &StreamsSaid, streams: &StreamList, frame: Option<u64>) -> Proof {
        let [_, server] = self.speakers()?;
        let fin = server.fin().ok_or("no FIN of the server")?;
        equal(Some(fin.frame), frame)?;
        let taken = latest([Some(fin.ack), said.taken].into_iter().flatten()).unwrap_or(fin.ack);
        let open = said.with("unanswered").into_iter().chain(said.with("unfinished"));
        named(streams, open.filter(|id| at_or_after(said.streams[id].begin, taken)).collect(), true)
    }

    /// Some byte of the side is not in the capture, or not in order, or cut off; or what is there are no frames.
    fn unreadable(&self, party: Party) -> Proof {
        let side = self.speaker(party)?;
        let is_client = self.is_client(party)?;
        let [client, server] = self.speakers()?;
        let other = if is_client { server } else { client };
        let whole = self.conversation()?.1[usize::from(!is_client)];
        let end = side.end().unwrap_or(0);
        let ahead = |number: u32| !at_or_after(end, number);
        let reset = self.c.reset;
        let named = reset.has(Flags::RST)
            && (reset.from == self.end(party) && ahead(reset.seq)
                || reset.from != self.end(party) && reset.has(Flags::ACK) && ahead(reset.ack));
        let beyond = other_ack(&other).is_some_and(ahead);
        let bad = !whole || !side.in_order() || beyond || named || side.before.is_empty();
        holds(bad, "every byte is there, in order, in frames")
    }

    fn frames_of(&self, party: Party) -> Result<Vec<H2Frame>, String> {
        let is_client = self.is_client(party)?;
        let all = self.conversation()?.0.into_iter();
        Ok(all.filter(|(_, of_client)| *of_client == is_client).map(|(frame, _)| frame).collect())
    }

    fn speaker(&self, party: Party) -> Result<Sent<'_>, String> {
        let [client, server] = self.speakers()?;
        Ok(if self.is_client(party)? { client } else { server })
    }

    fn end(&self, party: Party) -> std::net::SocketAddr {
        if party.is_resetter { self.finding.from } else { self.finding.to }
    }

    fn is_client(&self, party: Party) -> Result<bool, String> {
        let client = self.finding.client.ok_or("the client is not known")?;
        equal(Some(self.end(party) == client), party.is_client)?;
        Ok(self.end(party) == client)
    }
}

fn other_ack(side: &Sent<'_>) -> Option<u32> {
    latest(side.before.iter().filter(|seen: &&&Seen| seen.has(Flags::ACK)).map(|seen| seen.ack))
}

/// The list names these streams, and counts all of them. `sorted`: the first ones are the lowest.
fn named(list: &StreamList, are: Vec<u32>, sorted: bool) -> Proof {
    equal(are.len() as u32, list.count)?;
    if sorted {
        return equal(are.into_iter().take(4).collect::<Vec<_>>(), list.ids.clone());
    }
    equal(list.ids.len(), are.len().min(4))?;
    holds(list.ids.iter().all(|id| are.contains(id)), "other streams")
}
