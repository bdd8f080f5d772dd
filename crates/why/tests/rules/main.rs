//! Each deciding rule with a counter-example that differs in one field, over captures made packet by packet.
//!
//! The cases of a rule stand in the file of its stage: `opening` before any data was acknowledged, `passive` for
//! answers to packets, `active` for resets that no packet asked for, `client` for those of the client, `closing` for what a close leaves behind, `foreign`
//! for resets of another sender, `ttl` for what a foreign TTL proves, `timers` for probes and retransmissions, `window` for the re-opened window,
//! `protocols` and `records` for the payload, `amounts` for numbers and ladders, `prints` for what shows the sender's stack, `places` for several captures,
//! `networks` for VLANs and labels, `names` for what clients ask for, `unanswered`, `early` and `stalled` for failures without a reset, `queue` for what a full accept queue shows, `series` for rotated captures.

#[path = "../../examples/corpus/check.rs"]
mod check;
#[path = "../../examples/corpus/check_course.rs"]
mod check_course;
#[path = "../../examples/corpus/check_failed.rs"]
mod check_failed;
#[path = "../../examples/corpus/check_prints.rs"]
mod check_prints;
#[path = "../../examples/corpus/check_sender.rs"]
mod check_sender;
#[path = "../../examples/corpus/check_streams.rs"]
mod check_streams;
#[path = "../../examples/corpus/payload.rs"]
mod payload;
#[path = "../../examples/corpus/trace.rs"]
mod trace;

mod active;
mod amounts;
mod case;
mod client;
mod closing;
mod early;
mod flow;
mod foreign;
mod names;
mod networks;
mod opening;
mod passive;
mod places;
mod prints;
mod protocols;
mod proxies;
mod queue;
mod records;
mod series;
mod stalled;
mod streams;
mod table;
mod timers;
mod ttl;
mod unanswered;
mod window;

/// A request without a body.
const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n";

/// A request that declares a body of so many bytes, and its first ones.
fn post(declared: usize, sent: usize) -> Vec<u8> {
    let head = format!("POST /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {declared}\r\n\r\n");
    [head.as_bytes(), &vec![b'b'; sent]].concat()
}

/// A response that declares a body of so many bytes, and its first ones.
fn response(declared: usize, sent: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {declared}\r\n\r\n");
    [head.as_bytes(), &vec![b'r'; sent]].concat()
}
