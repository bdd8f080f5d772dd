//! The two tasks that send: events in batches, and metrics as they come.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use super::SendDesk;
use super::client::OtlpClient;
use super::messages::{self, OtlpRequest};
use super::open_metrics;
use super::retry::{Backoff, SendResult};

/// How long events are gathered, from the first on.
const GATHER: Duration = Duration::from_secs(1);

/// What came of a request after all tries.
enum Delivery {
    /// The collector has it, but for so many records.
    Taken(u64),
    Refused,
    GivenUp,
    /// Something newer takes its place.
    Outdated,
}

/// Sends events until there are no more to come.
pub(super) async fn deliver_events(desk: &SendDesk) {
    let mut client = OtlpClient::new(&desk.options);
    loop {
        while desk.events.borrow().is_empty() {
            if desk.is_ending() {
                return;
            }
            tokio::select! {
                () = desk.has_events.notified() => {}
                () = desk.ending() => {}
            }
        }
        let full = async {
            while !desk.events.borrow().is_batch() {
                desk.has_events.notified().await;
            }
        };
        tokio::select! {
            () = full => {}
            () = sleep(GATHER) => {}
            () = desk.ending() => {}
        }
        let batch = desk.events.borrow_mut().batch();
        let count = batch.len() as u64;
        let request = messages::logs(batch, &desk.options, now_ns());
        let delivery = deliver(desk, &mut client, &request, || false).await;
        desk.events.borrow_mut().done();
        desk.count(|counts| match delivery {
            Delivery::Taken(rejected) => {
                let rejected = rejected.min(count);
                counts.sent += count - rejected;
                counts.rejected += rejected;
            }
            Delivery::Refused => counts.refused += count,
            Delivery::GivenUp | Delivery::Outdated => counts.given_up += count,
        });
    }
}

/// Sends metrics until there are no more to come.
pub(super) async fn deliver_metrics(desk: &SendDesk) {
    let mut client = OtlpClient::new(&desk.options);
    loop {
        let Some(latest) = desk.metrics.borrow_mut().take() else {
            if desk.is_ending() {
                return;
            }
            tokio::select! {
                () = desk.has_metrics.notified() => {}
                () = desk.ending() => {}
            }
            continue;
        };
        let started_ns = desk.options.started_ns;
        let all = open_metrics::metrics(&latest.text, desk.options.naming, started_ns, latest.time_ns);
        drop(latest);
        let mut is_sent = true;
        for request in messages::metrics(all, &desk.options) {
            let is_outdated = || desk.metrics.borrow().is_some();
            is_sent &= matches!(deliver(desk, &mut client, &request, is_outdated).await, Delivery::Taken(_));
        }
        desk.count(|counts| {
            let rounds = if is_sent { &mut counts.metrics_sent } else { &mut counts.metrics_failed };
            *rounds += 1;
        });
    }
}

/// Sends a request, again and again if need be.
async fn deliver<R: OtlpRequest>(
    desk: &SendDesk,
    client: &mut OtlpClient<'_>,
    request: &R,
    is_outdated: impl Fn() -> bool,
) -> Delivery {
    let began = Instant::now();
    let mut backoff = Backoff::default();
    loop {
        let is_last = desk.is_ending();
        let (words, asked) = match client.send(request).await {
            SendResult::Taken { rejected, message } => {
                // A warning may come without a rejected record.
                if rejected > 0 || !message.is_empty() {
                    let words = format!("it takes a request but for {rejected} records: {message}");
                    desk.count(|counts| counts.note_trouble(&words));
                }
                return Delivery::Taken(rejected);
            }
            SendResult::Refused(words) => {
                desk.count(|counts| counts.note_trouble(&words));
                return Delivery::Refused;
            }
            SendResult::Later(words, asked) => (words, asked),
        };
        desk.count(|counts| counts.note_trouble(&words));
        if is_last || began.elapsed() >= desk.options.give_up {
            return Delivery::GivenUp;
        }
        if is_outdated() {
            return Delivery::Outdated;
        }
        tokio::select! {
            () = sleep(backoff.wait(asked)) => {}
            // Once more, at once: it is the last time.
            () = desk.ending() => {}
        }
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}
