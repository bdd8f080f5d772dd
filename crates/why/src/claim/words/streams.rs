//! Sentences about the streams of HTTP/2.

use std::fmt;

use super::super::streams::{GREATEST_STREAM, Http2Error};
use super::super::{Claim, Party, StreamFate, StreamList};

const REFUSED_STREAM: u32 = 7;

impl Claim {
    pub(super) fn streams(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HTTP/2: ")?;
        match self {
            Self::GoAway { party, error, last, debug } => {
                write!(f, "{party} sent GOAWAY with {}", Http2Error(*error))?;
                if *error == 0 {
                    f.write_str(", which is a farewell")?;
                }
                // What a client names are streams of the server (section 6.8): none, but for push.
                match (party.is_client, *last) {
                    (Some(true), _) => {}
                    (_, GREATEST_STREAM) => f.write_str(", and names no last stream yet")?,
                    (_, last) => write!(f, "; the last stream it may have processed is {last}")?,
                }
                if let Some(debug) = debug {
                    write!(f, "; it says \"{debug}\"")?;
                }
                Ok(())
            }
            Self::StreamsReset { party, error, streams } => reset(f, *party, *error, streams),
            Self::Streams { fate, streams } => became(f, *fate, streams),
            Self::StreamsWhole(1) => f.write_str(
                "the one request was answered to its END_STREAM, and the client has acknowledged that",
            ),
            Self::StreamsWhole(count) => write!(
                f,
                "all {count} requests were answered to their END_STREAM, and the client has acknowledged that"
            ),
            Self::StreamsUnknown(party) => write!(
                f,
                "not every byte of {party} is in the capture, in order, and readable as frames: which requests were \
                 answered is not known"
            ),
            _ => Ok(()),
        }
    }
}

fn reset(f: &mut fmt::Formatter<'_>, party: Party, error: u32, streams: &StreamList) -> fmt::Result {
    let its = streams.number("its response was", "their responses were");
    match (party.is_client, error) {
        (Some(false), REFUSED_STREAM) => write!(
            f,
            "{party} refused {streams} (REFUSED_STREAM): it did not process {}, and a client may send {} again (RFC 9113 \
             section 8.7)",
            streams.number("it", "them"),
            streams.number("it", "them")
        ),
        _ => write!(f, "{party} ended {streams} with {} before {its} whole", Http2Error(error)),
    }
}

fn became(f: &mut fmt::Formatter<'_>, fate: StreamFate, streams: &StreamList) -> fmt::Result {
    let (it, were) = (streams.number("it", "them"), streams.number("was", "were"));
    match fate {
        StreamFate::Unanswered { last } => {
            write!(
                f,
                "nothing came back on {streams}, whose {} complete",
                streams.number("request is", "requests are")
            )?;
            accepted(f, last, streams)
        }
        StreamFate::Unfinished { last } => {
            let request = streams.number("request", "requests");
            write!(f, "nothing came back on {streams}, whose {request} {were} not sent to END_STREAM")?;
            accepted(f, last, streams)
        }
        StreamFate::Cut => write!(
            f,
            "the {} of {streams} had begun, and no END_STREAM came",
            streams.number("response", "responses")
        ),
        StreamFate::Undelivered => write!(
            f,
            "the {} of {streams} {were} sent to END_STREAM, and the client had not acknowledged {it} to the end",
            streams.number("response", "responses")
        ),
        StreamFate::Uploading => write!(
            f,
            "the {} of {streams} ended while the {} still being sent",
            streams.number("response", "responses"),
            streams.number("request was", "requests were")
        ),
        StreamFate::Above { last } => write!(
            f,
            "{streams} {} above GOAWAY's last stream, {last}: the server did not process {it}, and a client may send {it} \
             again (RFC 9113 section 6.8)",
            streams.number("is", "are")
        ),
        StreamFate::Crossed => write!(
            f,
            "{streams} crossed the server's FIN, which does not acknowledge the {}",
            streams.number("request", "requests")
        ),
    }
}

/// That GOAWAY does not say of these streams that they were not processed.
fn accepted(f: &mut fmt::Formatter<'_>, last: Option<u32>, streams: &StreamList) -> fmt::Result {
    match last {
        Some(last) => write!(
            f,
            "; {} not above GOAWAY's last stream, {last}: the server may have processed {}",
            streams.number("it is", "they are"),
            streams.number("it", "them")
        ),
        None => Ok(()),
    }
}
