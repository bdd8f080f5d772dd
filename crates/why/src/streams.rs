//! The streams of an HTTP/2 connection in clear (RFC 9113): which requests have their whole response. Both sides' frames are
//! followed while their bytes are in the capture and in order; after that nothing more is known of a connection.

mod frames;
mod look;

use std::collections::HashMap;

use linger_packet::Segment;

use crate::app::{HTTP2_PREFACE, head_length};
use crate::claim::StreamList;
use crate::key::{Dir, FlowKey};
use crate::record::Since;

pub(crate) use frames::FramesLost;
use frames::{CONTINUATION, DATA, Frame, FrameReader, GOAWAY, HEADERS, RST_STREAM};
pub(crate) use look::StreamsLook;

/// Connections whose streams are followed. About 300 bytes each, and 20 for each open stream.
const MAX_CONNECTIONS: usize = 8_192;
/// Streams of a connection that are open at once. Servers allow 100 to 250 mostly (RFC 9113 section 6.5.2 recommends 100 at least).
const MAX_OPEN: usize = 256;
/// Different reasons for RST_STREAM that are kept of a connection.
const MAX_REASONS: usize = 8;

/// The error code of streams that the server has not processed (RFC 9113 section 8.7).
const REFUSED_STREAM: u32 = 7;

/// A stream that the client has opened and that is not over.
#[derive(Clone, Copy, Debug)]
struct OpenStream {
    id: u32,
    /// The sequence number at which its HEADERS begin.
    begins: u32,
    /// The client has said END_STREAM.
    asked: bool,
    /// The server has sent HEADERS or DATA.
    begun: bool,
    /// The sequence number after the frame in which the server says END_STREAM.
    ends: Option<u32>,
}

/// Streams that one side has ended by RST_STREAM, for one reason, before the response was whole.
#[derive(Clone, Debug)]
pub(crate) struct ResetStreams {
    pub(crate) by: Dir,
    pub(crate) error: u32,
    pub(crate) streams: StreamList,
    /// Those of them whose response had begun.
    pub(crate) begun: u32,
    /// The first of these frames.
    pub(crate) seen: SeenAt,
}

/// A GOAWAY frame.
#[derive(Clone, Debug)]
pub(crate) struct SeenGoAway {
    pub(crate) error: u32,
    pub(crate) last: u32,
    pub(crate) debug: Vec<u8>,
    pub(crate) seen: SeenAt,
    /// The sequence number after it.
    pub(crate) end: u32,
}

/// The packet in which a frame was seen, counted from the connection's first one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeenAt {
    pub(crate) frame: u32,
    pub(crate) since: Since,
}

/// What is known of a connection's streams.
#[derive(Clone, Debug)]
pub(crate) struct Http2Streams {
    client: Dir,
    readers: [Option<FrameReader>; 2],
    open: Vec<OpenStream>,
    /// The highest stream that the client has opened, and how many it has opened.
    highest: u32,
    opened: u32,
    pub(crate) reset: Vec<ResetStreams>,
    /// The latest GOAWAY of each side.
    goaway: [Option<SeenGoAway>; 2],
    /// More streams were open at once than are kept.
    crowded: bool,
}

/// The connections whose streams are followed.
#[derive(Debug, Default)]
pub(crate) struct StreamsByConnection(HashMap<FlowKey, Http2Streams>);

impl StreamsByConnection {
    pub(crate) fn get(&self, key: &FlowKey) -> Option<&Http2Streams> {
        if self.0.is_empty() { None } else { self.0.get(key) }
    }

    pub(crate) fn remove(&mut self, key: &FlowKey) -> Option<Http2Streams> {
        if self.0.is_empty() { None } else { self.0.remove(key) }
    }

    /// Takes a segment with payload of side `dir`, which speaks HTTP/2. `acked`: what the other side has acknowledged.
    pub(crate) fn take(
        &mut self,
        key: FlowKey,
        dir: Dir,
        segment: &Segment<'_>,
        acked: Option<u32>,
        at: SeenAt,
    ) {
        if let Some(streams) = self.0.get_mut(&key) {
            return streams.take(dir, segment, acked, at);
        }
        if self.0.len() < MAX_CONNECTIONS
            && let Some(mut streams) = Http2Streams::beginning(dir, segment)
        {
            streams.take(dir, segment, acked, at);
            self.0.insert(key, streams);
        }
    }
}

impl Http2Streams {
    /// A connection whose first segment of HTTP/2 is this one: the client's preface, the server's first SETTINGS, or the response
    /// that switches to HTTP/2 (`Upgrade: h2c`, RFC 7540 section 3.2).
    fn beginning(dir: Dir, segment: &Segment<'_>) -> Option<Self> {
        let client = if segment.payload.starts_with(HTTP2_PREFACE) { dir } else { 1 - dir };
        let mut streams = Self {
            client,
            readers: [None, None],
            open: Vec::new(),
            highest: 0,
            opened: 0,
            reset: Vec::new(),
            goaway: [None, None],
            crowded: false,
        };
        if segment.payload.starts_with(b"HTTP/1.1 101 ") {
            // The request becomes stream 1, and the client has nothing more to say on it.
            let begins = segment.ack.wrapping_sub(1);
            streams.open.push(OpenStream { id: 1, begins, asked: true, begun: false, ends: None });
            (streams.highest, streams.opened) = (1, 1);
        }
        Some(streams)
    }

    pub(crate) fn client(&self) -> Dir {
        self.client
    }

    fn take(&mut self, dir: Dir, segment: &Segment<'_>, acked: Option<u32>, at: SeenAt) {
        let mut reader = match self.readers[dir].take() {
            Some(reader) => reader,
            None => FrameReader::new(segment.seq.wrapping_add(self.begin_of_frames(dir, segment.payload))),
        };
        let server = dir != self.client;
        reader.take(
            segment,
            |frame| if server { self.of_server(frame, at) } else { self.of_client(frame, at) },
        );
        self.readers[dir] = Some(reader);
        if server && let Some(acked) = acked {
            let over = |stream: &OpenStream| {
                stream.asked && stream.ends.is_some_and(|end| acked.wrapping_sub(end) < 1 << 31)
            };
            self.open.retain(|stream| !over(stream));
        }
    }

    /// How many bytes of a side's first segment of HTTP/2 stand before its first frame.
    fn begin_of_frames(&self, dir: Dir, payload: &[u8]) -> u32 {
        if dir == self.client {
            HTTP2_PREFACE.len() as u32
        } else if payload.starts_with(b"HTTP/1.1 101 ") {
            head_length(payload).unwrap_or(payload.len()) as u32
        } else {
            0
        }
    }

    fn of_client(&mut self, frame: &Frame<'_>, at: SeenAt) -> bool {
        let id = frame.stream;
        match frame.kind {
            // A client's streams have odd numbers (section 5.1.1).
            HEADERS if id.is_multiple_of(2) => return false,
            HEADERS if id > self.highest => {
                (self.highest, self.opened) = (id, self.opened.saturating_add(1));
                let asked = frame.ends_stream();
                if self.open.len() < MAX_OPEN {
                    self.open.push(OpenStream { id, begins: frame.begin, asked, begun: false, ends: None });
                } else {
                    self.crowded = true;
                }
            }
            HEADERS | DATA => {
                if let Some(stream) = self.open.iter_mut().find(|stream| stream.id == id) {
                    stream.asked |= frame.ends_stream();
                }
            }
            RST_STREAM => self.take_reset(frame, self.client, at),
            GOAWAY => self.take_goaway(frame, self.client, at),
            _ => {}
        }
        true
    }

    fn of_server(&mut self, frame: &Frame<'_>, at: SeenAt) -> bool {
        let id = frame.stream;
        // A response to a request that is not in the capture, or stands behind it.
        if matches!(frame.kind, HEADERS | DATA | RST_STREAM) && id % 2 == 1 && id > self.highest {
            return false;
        }
        match frame.kind {
            HEADERS | DATA => {
                if let Some(stream) = self.open.iter_mut().find(|stream| stream.id == id) {
                    stream.begun = true;
                    if frame.ends_stream() {
                        stream.ends = stream.ends.or(Some(frame.end));
                    }
                }
            }
            // END_STREAM stands in HEADERS, and the field section goes on (section 6.10).
            CONTINUATION => {
                let goes_on = |stream: &&mut OpenStream| stream.id == id && stream.ends == Some(frame.begin);
                if let Some(stream) = self.open.iter_mut().find(goes_on) {
                    stream.ends = Some(frame.end);
                }
            }
            RST_STREAM => self.take_reset(frame, 1 - self.client, at),
            GOAWAY => self.take_goaway(frame, 1 - self.client, at),
            _ => {}
        }
        true
    }

    fn take_reset(&mut self, frame: &Frame<'_>, by: Dir, at: SeenAt) {
        let Some(place) = self.open.iter().position(|stream| stream.id == frame.stream) else { return };
        if let Some(stream) = self.open.get_mut(place).filter(|stream| stream.ends.is_some()) {
            // The response had been sent to its end. The server needs no more of the request (section 8.1), or the client sends none.
            stream.asked = true;
            return;
        }
        let declined = self.goaway[1 - self.client].as_ref().is_some_and(|goaway| frame.stream > goaway.last);
        if let Some(stream) = self.open.get_mut(place).filter(|stream| declined && !stream.begun) {
            // GOAWAY had said before that the server does not process it. What a client does with it then changes nothing.
            stream.asked = true;
            return;
        }
        let stream = self.open.remove(place);
        let Some(error) = frame.number(0) else { return };
        let begun = u32::from(stream.begun);
        let known = self.reset.iter_mut().find(|known| known.by == by && known.error == error);
        if let Some(known) = known {
            known.streams.add(stream.id);
            known.begun = known.begun.saturating_add(begun);
        } else if self.reset.len() < MAX_REASONS {
            let streams = StreamList::default().with(stream.id);
            self.reset.push(ResetStreams { by, error, streams, begun, seen: at });
        } else {
            self.crowded = true;
        }
    }

    fn take_goaway(&mut self, frame: &Frame<'_>, by: Dir, at: SeenAt) {
        let (Some(last), Some(error)) = (frame.number(0), frame.number(4)) else { return };
        let debug = frame.payload.get(8..).unwrap_or(&[]).to_vec();
        let last = last & (u32::MAX >> 1);
        self.goaway[by] = Some(SeenGoAway { error, last, debug, seen: at, end: frame.end });
    }
}
