//! What an answer means: taken, refused for good, or to be tried again and when.
//!
//! The rules are those of the OTLP specification 1.x: "OTLP/HTTP Response", "OTLP/gRPC Response", and their throttling.

use std::error::Error;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};
use prost::Message;
use tonic::Code;

/// The first wait, about.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait of our own choice.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest wait that a collector can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SendResult {
    /// The collector has it, but for so many records. With its words.
    Taken { rejected: u64, message: String },
    /// It is not to be tried again.
    Refused(String),
    /// It may be tried again, after a wait that the collector may have asked for.
    Later(String, Option<Duration>),
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcDetail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct RpcDetail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RpcDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct RpcDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// What an HTTP answer other than 2xx means.
pub(super) fn of_http(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> SendResult {
    let said = RpcStatus::decode(body).map(|status| status.message).unwrap_or_default();
    let colon = if said.is_empty() { "" } else { ": " };
    let words = format!("it answers {status}{colon}{said}");
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => SendResult::Later(words, retry_after(headers)),
        _ => SendResult::Refused(words),
    }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(SystemTime::now()).unwrap_or_default())
}

/// What a gRPC status other than OK means.
pub(super) fn of_grpc(status: &tonic::Status) -> SendResult {
    // A status that the collector has not sent: the connection has ended, or the stream was reset. Its code is this side's.
    if let Some(error) = status.source() {
        return SendResult::Later(format!("no answer: {}", causes(error)), None);
    }
    let words = format!("it answers {:?}: {}", status.code(), status.message());
    let details = RpcStatus::decode(status.details()).map(|status| status.details).unwrap_or_default();
    let info = details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"));
    let delay = info.and_then(|info| RetryInfo::decode(&*info.value).ok()?.retry_delay);
    let delay = delay.map(|delay| {
        let nanos = u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999);
        Duration::new(delay.seconds.try_into().unwrap_or(0), nanos)
    });
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => SendResult::Later(words, delay),
        Code::ResourceExhausted if delay.is_some() => SendResult::Later(words, delay),
        _ => SendResult::Refused(words),
    }
}

/// An error and what led to it, in words.
fn causes(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// How long is waited before the next try.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The next wait: as long as the collector asks for; otherwise twice the one before, up to a bound, less a random part of it, so
    /// that not all hosts come back at once.
    pub(super) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let own = self.next;
        self.next = (own * 2).min(LONGEST);
        // Seeded anew each time, from the kernel.
        let random = (RandomState::new().hash_one(own) >> 32) as u32;
        let own = own.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX));
        // Never at once, whatever is asked for.
        asked.map_or(own, |asked| asked.clamp(FIRST / 10, LONGEST_ASKED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(status: u16, retry: Option<&str>) -> SendResult {
        let mut headers = HeaderMap::new();
        if let Some(retry) = retry {
            headers.insert(RETRY_AFTER, retry.parse().unwrap());
        }
        of_http(StatusCode::from_u16(status).unwrap(), &headers, b"")
    }

    #[test]
    fn only_four_statuses_of_http_are_tried_again() {
        for status in 300..600 {
            let is_later = matches!(http(status, None), SendResult::Later(_, None));
            assert_eq!(is_later, [429, 502, 503, 504].contains(&status), "{status}");
        }
    }

    #[test]
    fn a_collector_says_when() {
        let after = |retry: &str| match http(503, Some(retry)) {
            SendResult::Later(_, after) => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO), "a date that is past");
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(after(&soon).unwrap() > Duration::from_secs(90));
        assert_eq!((after("soon"), after("-1")), (None, None));
        assert!(matches!(http(400, Some("7")), SendResult::Refused(_)), "a refusal stays one");
    }

    #[test]
    fn grpc_statuses_are_those_of_the_specification() {
        let later = [1, 4, 10, 11, 14, 15];
        for code in 1..=16 {
            let is_later =
                matches!(of_grpc(&tonic::Status::new(Code::from_i32(code), "")), SendResult::Later(_, None));
            assert_eq!(is_later, later.contains(&code), "{code}");
        }
        let info = RetryInfo { retry_delay: Some(RpcDuration { seconds: 3, nanos: 500_000_000 }) };
        let detail = RpcDetail {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
            value: info.encode_to_vec(),
        };
        let details = RpcStatus { message: String::new(), details: vec![detail] }.encode_to_vec();
        let full = tonic::Status::with_details(Code::ResourceExhausted, "full", details.into());
        let expected = Some(Duration::from_millis(3_500));
        assert_eq!(of_grpc(&full), SendResult::Later("it answers ResourceExhausted: full".into(), expected));
        assert!(matches!(of_grpc(&tonic::Status::resource_exhausted("full")), SendResult::Refused(_)));
    }

    #[test]
    fn waits_grow_up_to_a_bound_and_differ() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..10).map(|_| backoff.wait(None)).collect();
        let bounds = [1, 2, 4, 8, 16, 30, 30, 30, 30, 30];
        for (wait, bound) in waits.iter().zip(bounds) {
            let bound = Duration::from_secs(bound);
            assert!(bound / 2 <= *wait && *wait <= bound, "{waits:?}");
        }
        assert!(waits[5..].windows(2).any(|two| two[0] != two[1]), "{waits:?}");
        let mut backoff = Backoff::default();
        assert_eq!(backoff.wait(Some(Duration::from_secs(u64::MAX))), LONGEST_ASKED);
        assert_eq!(backoff.wait(Some(Duration::ZERO)), FIRST / 10);
        assert_eq!(backoff.wait(Some(Duration::from_secs(9))), Duration::from_secs(9));
    }
}
