//! The expected result of a conversation, by the specification alone, and the result that came.

use std::collections::BTreeMap;

use super::plan::{Act, Done, Plan, REASON, Sent, pattern};

impl Plan {
    /// The expected result of this request if the gateway has sent this much of it.
    pub(super) fn expect(&self, sent: &Sent) -> Expected {
        let mut expected = Expected::default();
        let mut failure = None;
        let (mut unread, mut gathered) = (sent.body, 0);
        let mut begun = false;
        for act in &self.acts {
            let missing = match act {
                Act::ReadAll => {
                    expected.read += std::mem::take(&mut unread);
                    !sent.body_ended
                }
                Act::Read(most) => {
                    let got = unread.min(*most);
                    expected.read += got;
                    unread -= got;
                    got < *most && !sent.body_ended
                }
                Act::ReadData => !sent.data_ended,
                Act::Write(bytes) => {
                    expected.stdout.extend(pattern(expected.stdout.len(), *bytes));
                    gathered += bytes;
                    begun |= gathered > 16_384;
                    false
                }
                Act::Flush => {
                    begun |= gathered > 0;
                    false
                }
                Act::Log(bytes) => {
                    expected.stderr.extend(pattern(0, *bytes));
                    false
                }
            };
            if missing {
                failure = Some(if sent.aborted { ABORTED } else { CLOSED });
                break;
            }
        }
        let failure = match self.done {
            Done::Status(_) => failure,
            Done::Error => failure.or(Some(REASON)),
            Done::Panic => failure.or(Some("the handler panicked")),
        };
        expected.failure = failure;
        let reason = failure.unwrap_or_default();
        match (failure, self.done) {
            (None, Done::Status(status)) => expected.end = Some((status, 0)),
            // How much of its response an aborted request has sent before the abort is not known.
            _ if sent.aborted => {
                expected.end = Some((1, 0));
                expected.is_part = true;
            }
            _ if begun => {
                expected.is_part = true;
                expected.stderr.extend_from_slice(reason.as_bytes());
            }
            _ => {
                expected.end = Some((1, 0));
                expected.stdout = REFUSAL.to_vec();
                expected.stderr.extend_from_slice(reason.as_bytes());
            }
        }
        expected.is_last = !self.keep_conn || expected.end.is_none();
        expected
    }
}

impl Plan {
    /// The expected result of a request for a role that there is not.
    pub(super) fn refused(&self) -> Expected {
        Expected { end: Some((0, 3)), is_last: !self.keep_conn, ..Expected::default() }
    }
}

const ABORTED: &str = "the gateway aborted the request";
const CLOSED: &str = "the gateway closed the connection before the request was complete";
const REFUSAL: &[u8] =
    b"Status: 500\r\nContent-Type: text/plain\r\n\r\nThe application failed; its log says why.\n";

/// The expected result of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) stdout: Vec<u8>,
    /// Only some of `stdout` need have been sent.
    pub(crate) is_part: bool,
    pub(crate) stderr: Vec<u8>,
    /// The status of the application and that of the protocol; `None` without END_REQUEST.
    pub(crate) end: Option<(u32, u8)>,
    /// The connection ends with it.
    pub(crate) is_last: bool,
    /// Bytes of the body that its handler reads.
    pub(crate) read: usize,
    /// What its handler fails with.
    pub(crate) failure: Option<&'static str>,
}

/// What an application has sent for one request: the raw bytes, and what they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transcript {
    pub(crate) raw: Vec<u8>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) ends: Vec<(u32, u8)>,
}

/// Sorts what came by request id. A record that was cut is left out.
pub(crate) fn transcripts(output: &[u8]) -> BTreeMap<u16, Transcript> {
    let mut all: BTreeMap<u16, Transcript> = BTreeMap::new();
    let mut rest = output;
    while let [version, kind, id1, id0, length1, length0, padding, _, after @ ..] = rest {
        assert_eq!(*version, 1, "no record begins where one has ended");
        let length = usize::from(u16::from_be_bytes([*length1, *length0]));
        let whole = 8 + length + usize::from(*padding);
        if rest.len() < whole {
            break;
        }
        let transcript = all.entry(u16::from_be_bytes([*id1, *id0])).or_default();
        transcript.raw.extend_from_slice(&rest[..whole]);
        let content = &after[..length];
        match kind {
            3 => transcript
                .ends
                .push((u32::from_be_bytes([content[0], content[1], content[2], content[3]]), content[4])),
            6 => transcript.stdout.extend_from_slice(content),
            7 => transcript.stderr.extend_from_slice(content),
            _ => {}
        }
        rest = &rest[whole..];
    }
    all
}

/// What a handler has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) read: usize,
    pub(crate) failure: Option<String>,
}
