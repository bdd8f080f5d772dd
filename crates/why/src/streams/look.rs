//! What became of a connection's streams.

use super::{FramesLost, Http2Streams, OpenStream, REFUSED_STREAM, ResetStreams, SeenGoAway};
use crate::claim::StreamList;
use crate::connection::ObservedConnection;
use crate::key::Dir;

/// The streams that are not over, by what is missing. "Above" is above the last stream of the server's GOAWAY.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamsLook {
    /// The whole request was sent, and the server has sent nothing on the stream.
    pub(crate) unanswered: StreamList,
    /// The request was not sent to its end, and the server has sent nothing on the stream.
    pub(crate) unfinished: StreamList,
    /// The response has begun, and its END_STREAM was not sent.
    pub(crate) cut: StreamList,
    /// The response was sent to its END_STREAM, and the client has not acknowledged it.
    pub(crate) undelivered: StreamList,
    /// The response was sent to its end while the request was still being sent.
    pub(crate) uploading: StreamList,
    /// The server has not processed them (RFC 9113 section 6.8).
    pub(crate) above: StreamList,
    /// Those of `unanswered` and `unfinished` that begin beyond what the server has acknowledged.
    pub(crate) crossed: StreamList,
}

impl StreamsLook {
    /// Whether the client lacks a response, or a part, that the server has not declined to give.
    pub(crate) fn is_open(&self) -> bool {
        [&self.unanswered, &self.unfinished, &self.cut, &self.undelivered].iter().any(|list| !list.is_empty())
    }
}

impl Http2Streams {
    /// How many streams the client has opened.
    pub(crate) fn opened(&self) -> u32 {
        self.opened
    }

    /// The latest GOAWAY of a side.
    pub(crate) fn goaway(&self, dir: Dir) -> Option<&SeenGoAway> {
        self.goaway[dir].as_ref()
    }

    /// The first streams that the server has ended before their response was whole, but for those that it has refused.
    pub(crate) fn broken(&self) -> Option<&ResetStreams> {
        self.reset.iter().find(|reset| reset.by != self.client && reset.error != REFUSED_STREAM)
    }

    /// Why the streams are not known, and of which side; `None` if both sides' frames were read to the last byte that they sent.
    pub(crate) fn lost(&self, connection: &ObservedConnection) -> Option<(Dir, FramesLost)> {
        [0, 1].into_iter().find_map(|dir| {
            let (side, other) = (&connection.sides[dir], &connection.sides[1 - dir]);
            let Some(reader) = &self.readers[dir] else {
                // A side that has sent nothing lacks nothing.
                return (side.payload > 0).then_some((dir, FramesLost::Missing));
            };
            let end = side.next.wrapping_sub(u32::from(side.has_fin()));
            let beyond = other.ack().map_or(0, |ack| ack.wrapping_sub(side.next));
            let missing = !reader.has_read_to(end) || beyond != 0 && beyond < 1 << 31;
            reader.lost.or(missing.then_some(FramesLost::Missing)).map(|why| (dir, why))
        })
    }

    /// What became of the streams. `acked`: how far the client has acknowledged the server's bytes; `taken`: how far the server has
    /// acknowledged the client's. `None` if more streams were open at once than are kept.
    pub(crate) fn look(&self, acked: u32, taken: u32, server_end: u32) -> Option<StreamsLook> {
        if self.crowded {
            return None;
        }
        let last = self.goaway[1 - self.client].as_ref().map(|goaway| goaway.last);
        let mut look = StreamsLook::default();
        let reaches = |number: u32, end: u32| number.wrapping_sub(end) < 1 << 31;
        for &OpenStream { id, begins, asked, begun, ends } in &self.open {
            let list = match ends {
                Some(end) if reaches(acked, end) && asked => continue,
                Some(end) if reaches(acked, end) => &mut look.uploading,
                Some(end) if reaches(server_end, end) => &mut look.undelivered,
                _ if begun => &mut look.cut,
                _ if last.is_some_and(|last| id > last) => &mut look.above,
                _ => {
                    if reaches(begins, taken) {
                        look.crossed.add(id);
                    }
                    if asked { &mut look.unanswered } else { &mut look.unfinished }
                }
            };
            list.add(id);
        }
        Some(look)
    }
}
