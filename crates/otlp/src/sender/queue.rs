//! What waits to be sent, and its bounds.

use std::collections::VecDeque;

use crate::event::ExportedEvent;

/// Most bytes of events that wait: some 10,000 of them.
const MOST: usize = 8 << 20;
/// Most events, and bytes of them, in one request.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// Events in the form in which they came.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Events that are being sent.
    under_way: u64,
}

impl EventQueue {
    /// Returns whether there was room.
    pub(super) fn push(&mut self, event: Vec<u8>) -> bool {
        let has_room = self.bytes + event.len() <= MOST;
        if has_room {
            self.bytes += event.len();
            self.waiting.push_back(event);
        }
        has_room
    }

    /// Whether there are enough for a full request.
    pub(super) fn is_batch(&self) -> bool {
        self.waiting.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the oldest, for one request. They count as under way until [`done`](Self::done).
    pub(super) fn batch(&mut self) -> Vec<ExportedEvent> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(json) = self.waiting.pop_front() else { break };
            bytes += json.len();
            self.bytes -= json.len();
            // What the other process has written is what this one reads.
            batch.extend(serde_json::from_slice::<ExportedEvent>(&json).ok());
        }
        self.under_way = batch.len() as u64;
        batch
    }

    pub(super) fn done(&mut self) {
        self.under_way = 0;
    }

    /// How many wait or are under way.
    pub(super) fn events(&self) -> u64 {
        self.waiting.len() as u64 + self.under_way
    }
}

/// All metrics of one moment. Newer ones take their place: they are cumulative.
#[derive(Debug)]
pub(super) struct MetricsText {
    pub(super) time_ns: u64,
    pub(super) text: String,
}

impl MetricsText {
    pub(super) fn read(content: Vec<u8>) -> Option<Self> {
        let (time, text) = content.split_first_chunk()?;
        Some(Self { time_ns: u64::from_le_bytes(*time), text: String::from_utf8(text.to_vec()).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Severity;

    fn event(number: u64) -> Vec<u8> {
        serde_json::to_vec(&ExportedEvent::new("linger.reset", number, Severity::Info, "x".repeat(900)))
            .unwrap()
    }

    #[test]
    fn it_is_bounded_and_keeps_the_order() {
        let mut queue = EventQueue::default();
        let taken = (0..20_000).take_while(|number| queue.push(event(*number))).count();
        assert!((5_000..10_000).contains(&taken), "{taken}");
        assert!(!queue.push(event(0)), "full");
        assert_eq!(queue.events(), taken as u64);
        let (first, then) = (queue.batch(), queue.batch());
        assert_eq!((first.len(), first[0].time_ns, then[0].time_ns), (BATCH, 0, BATCH as u64));
        queue.done();
        assert_eq!(queue.events(), (taken - 2 * BATCH) as u64);
        assert!(queue.push(event(0)), "there is room again");
    }

    #[test]
    fn a_request_is_no_longer_than_collectors_take() {
        let mut queue = EventQueue::default();
        let long = ExportedEvent::new("linger.reset", 0, Severity::Info, "x".repeat(60_000));
        (0..100).for_each(|_| assert!(queue.push(serde_json::to_vec(&long).unwrap())));
        assert!(queue.is_batch());
        assert_eq!(queue.batch().len(), 18);
    }
}
