//! How much a probe takes of a server that others use, too: what it asks, what it would cost, and what it has spent.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::check::Check;
use crate::config::ProbeConfig;
use crate::reload::by::ReloadBy;

/// The most that a probe sends, and the most that it reads, if it is not [active](ProbeConfig::active), in bytes.
pub const QUIET: u64 = 1 << 20;

/// The longest response of which a probe that is not active can ask every question, in bytes: it reads two to learn the
/// lengths where there is no framing, and eight more.
pub const AFFORDABLE: u64 = 100_000;

/// How many plain requests show whether a server that gave no response answers any.
pub(crate) const CONTROLS: u32 = 3;

/// The most that a check may ask, as is known before the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Connections, one after the other unless `held` says otherwise.
    pub connections: u64,
    /// Whether some of the requests are POST. Others are GET, which may have a body as well.
    pub posts: bool,
    /// Bytes of request bodies and of what follows them, in all; of a `tcp://` target, those of the requests, too.
    pub sent: u64,
    /// How many connections are held open at once while nothing is asked on them.
    pub held: u64,
    /// How often the server is told to reload, or to stop. All its users may notice.
    pub reloads: u64,
}

/// Whether a check asks no more than a visitor does: GET alone, no connection held, no large upload.
pub(crate) fn is_quiet(check: Check) -> bool {
    use Check::*;
    matches!(check, LargeResponse | UnreadBody | TrailingBytes | LateByte | Pipelined | HalfClose)
}

/// Whether a question has a meaning over HTTP/2. There nothing follows a request on its stream.
pub(crate) fn is_asked_over_http2(check: Check) -> bool {
    use Check::*;
    matches!(check, LargeResponse | UnreadBody | UploadInProgress | Stall | Reload)
}

/// What a check costs at most. `active` is whether the probe may ask more than a visitor does.
pub(crate) fn cost(check: Check, config: &ProbeConfig, active: bool) -> Cost {
    // Three more requests of a kind tell the lengths of responses without framing, or, where there was no response, whether
    // plain requests are answered.
    let (times, learnt) = (u64::from(config.repeat.max(1)), u64::from(CONTROLS));
    let body = body(config, active) as u64;
    let payload = config.payload.len() as u64;
    let cost = |connections: u64, posts, sent: u64, held| Cost {
        connections,
        posts,
        sent: sent.saturating_add(connections.saturating_mul(payload)),
        held,
        reloads: 0,
    };
    if config.http2 && !is_asked_over_http2(check) {
        return cost(0, false, 0, 0);
    }
    match check {
        Check::UploadInProgress if config.http2 => {
            cost(2 * times + 2 * learnt, true, 2 * times * config.upload as u64, 0)
        }
        Check::LargeResponse => cost(times + learnt, false, 0, 0),
        Check::UnreadBody if active => cost(4 * (times + learnt), true, 2 * (times + learnt) * (body + 8), 0),
        Check::UnreadBody => cost(2 * (times + learnt), false, (times + learnt) * (body + 8), 0),
        Check::LateByte if active => cost(2 * times + learnt, false, 2 * times, 0),
        Check::TrailingBytes | Check::LateByte => cost(times + learnt, false, 8 * times, 0),
        Check::Pipelined => cost(times + learnt, active, times * PIPELINED as u64, 0),
        Check::HalfClose => cost(times + learnt, false, 0, 0),
        Check::UploadInProgress => cost(times + learnt, true, (times + learnt) * config.upload as u64, 0),
        Check::ChunkedUpload => {
            let sent = (times + learnt) * (body + config.upload as u64);
            cost(2 * (times + learnt), true, sent, 0)
        }
        Check::ExpectContinue => cost(2 * times + learnt, true, (2 * times + learnt) * body, 0),
        Check::Stall => cost(times + learnt, true, times * 2 * body, 0),
        Check::KeepAlive => cost(1 + times * TOGETHER as u64, false, 0, TOGETHER as u64),
        Check::WebSocket => {
            let sent = times * (2 * LITTLE + body + (config.upload + OVER) as u64 + EAGER as u64);
            cost(1 + 4 * times + learnt, false, sent, 0)
        }
        Check::IdleOpen => cost(10, false, 8, 8),
        Check::Drip => cost(1, false, config.hold.as_secs() + 5, 1),
        Check::EndlessUpload => cost(1, true, config.endless, 0),
        Check::Backlog => cost(config.burst as u64 + 1, false, 0, config.burst as u64),
        Check::Reload => {
            let reloads = u64::from(reloads(config));
            let each = u64::from(RELOAD_CLIENTS * MOST_REQUESTS) + u64::from(UNDER_WAY);
            // Where responses have no framing, a short one is compared with others.
            let cost = cost(reloads * each + learnt, false, 0, u64::from(RELOAD_CLIENTS / 2 + UNDER_WAY));
            Cost { reloads, ..cost }
        }
    }
}

/// The head and the framing of a request or a response, in bytes.
pub(crate) const HEADS: u64 = 2048;

/// How many bytes of body a quiet check sends each time that it is asked.
pub(crate) fn sent_once(check: Check, config: &ProbeConfig) -> u64 {
    match check {
        Check::UnreadBody => body(config, false) as u64 + 8,
        Check::Pipelined => PIPELINED as u64,
        _ => 8,
    }
}

/// The body of the second of two pipelined requests, in bytes.
pub(crate) const PIPELINED: usize = 64 << 10;

/// How many bytes of body a server may leave unread. A quiet probe sends few of them, and still more than the largest known
/// limit of a drain (gunicorn: 64 KiB).
pub(crate) fn body(config: &ProbeConfig, active: bool) -> usize {
    if active { config.body } else { config.body.min(128 << 10) }
}

/// The methods and lengths of the bodies that a server may leave unread. Of a quiet probe GET alone, and the larger one first:
/// what may be sent and read may not last for both.
pub(crate) fn unread_bodies(config: &ProbeConfig, active: bool) -> Vec<(&'static str, usize)> {
    let methods: &[&'static str] = match &config.method {
        None if active => &["GET", "POST"],
        // With a method of the user's all requests have it.
        _ => &["GET"],
    };
    let large = body(config, active);
    let bodies = if active { [8, large] } else { [large, 8] };
    methods.iter().flat_map(|method| bodies.map(|body| (*method, body))).collect()
}

/// How many clients make requests while the server reloads. Every second one keeps its connection.
pub(crate) const RELOAD_CLIENTS: u32 = 6;
/// How many requests each of them makes at most.
pub(crate) const MOST_REQUESTS: u32 = 400;
/// How many responses have begun when the server is told to reload.
pub(crate) const UNDER_WAY: u32 = 3;

/// How often the server is told to reload. To stop, once.
pub(crate) fn reloads(config: &ProbeConfig) -> u32 {
    if config.reload.as_ref().is_some_and(ReloadBy::is_stop) { 1 } else { config.repeat.max(1) }
}

/// A message on a WebSocket is longer than an upload by so many bytes: some servers take exactly 4 MiB.
pub(crate) const OVER: usize = 64 << 10;
/// The first frame of a client that does not wait for the server to agree to a WebSocket, in bytes of payload.
pub(crate) const EAGER: usize = 100;
/// More than the frames that say that a WebSocket ends.
const LITTLE: u64 = 64;

/// How many kept connections are held at once.
pub(crate) const TOGETHER: usize = 8;

/// What a probe has sent and read so far.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Spent {
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// Connections, bytes sent, bytes read.
    pub(crate) fn so_far(&self) -> (u64, u64, u64) {
        (self.connections.load(Relaxed), self.sent.load(Relaxed), self.received.load(Relaxed))
    }

    /// Whether a quiet probe may ask for `expected` bytes more with a body of `body` bytes.
    pub(crate) fn leaves(&self, body: u64, expected: u64) -> bool {
        let (_, sent, received) = self.so_far();
        sent + body + HEADS <= QUIET && received + expected + HEADS <= QUIET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_probe_posts_nothing_and_holds_nothing() {
        let config = ProbeConfig::default();
        for check in Check::ALL.into_iter().filter(|check| is_quiet(*check)) {
            let cost = cost(check, &config, false);
            assert!(!cost.posts && cost.held == 0 && cost.sent <= QUIET, "{check}: {cost:?}");
        }
        for check in Check::ALL.into_iter().filter(|check| !is_quiet(*check)) {
            let cost = cost(check, &config, true);
            assert!(cost.posts || cost.held > 0 || cost.sent > QUIET, "{check}: {cost:?}");
        }
    }

    #[test]
    fn the_budget_ends_at_its_bound_in_either_direction() {
        let spent = Spent::default();
        assert!(spent.leaves(QUIET - 2048, QUIET - 2048));
        assert!(!spent.leaves(QUIET - 2047, 0) && !spent.leaves(0, QUIET - 2047));
        spent.sent(1);
        assert!(!spent.leaves(QUIET - 2048, 0) && spent.leaves(0, QUIET - 2048));
        spent.received(1);
        assert!(!spent.leaves(0, QUIET - 2048));
    }
}
