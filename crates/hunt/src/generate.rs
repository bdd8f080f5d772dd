//! Draws schedules by chance, from one distribution for all servers.
//!
//! No timer of any server is in it. Pauses and sizes are log-uniform: a pause of 2 to 4 ms is as likely as one of 2 to 4 s,
//! so that no scale is passed over.

mod server;

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::schedule::{HuntStep, Player, Schedule};
use crate::story::Story;

/// From what is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ranges {
    /// Who plays.
    pub plays: Player,
    /// The most that all pauses of a schedule take together.
    pub longest_pause: Duration,
    /// The largest number of bytes that one step sends.
    pub largest: u64,
    /// Whether the client may half-close: not if the server takes that for the client's end.
    pub half_closes: bool,
    /// Whether requests have bodies: not if they are no HTTP.
    pub bodies: bool,
    /// The links, one of which is drawn.
    pub links: Vec<Option<String>>,
}

/// The shortest pause, in milliseconds: shorter ones are not told apart from none by a busy machine.
pub const SHORTEST_PAUSE_MS: u64 = 5;
/// The smallest buffer, in bytes; the kernel has a minimum of about that (`SOCK_MIN_RCVBUF`).
const SMALLEST_BUFFER: u64 = 2 << 10;
/// The largest buffer that is drawn, in bytes. The kernel's own grow beyond it.
const LARGEST_BUFFER: u64 = 512 << 10;

impl Default for Ranges {
    fn default() -> Self {
        let longest_pause = Duration::from_secs(20);
        let plays = Player::Client;
        Self { plays, longest_pause, largest: 1 << 20, half_closes: true, bodies: true, links: vec![None] }
    }
}

struct Dice(ChaCha8Rng);

impl Dice {
    /// Evenly from 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn is(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    fn below(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count.saturating_sub(1))
    }

    /// Log-uniform from `least` to `most`.
    fn scale(&mut self, least: u64, most: u64) -> u64 {
        let (low, high) = (least.max(1) as f64, most.max(least).max(1) as f64);
        ((low * (high / low).powf(self.unit())) as u64).clamp(least, most.max(least))
    }

    fn buffer(&mut self, probability: f64, smallest: u64) -> Option<u64> {
        self.is(probability).then(|| self.scale(smallest, LARGEST_BUFFER))
    }
}

/// The story of a seed with this index. Equal arguments give equal stories.
pub fn story(seed: u64, index: u64, ranges: &Ranges) -> Story {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    let mut dice = Dice(rng);
    let link = ranges.links.get(dice.below(ranges.links.len())).cloned().flatten();
    let schedule = match ranges.plays {
        Player::Client => client(&mut dice, ranges),
        Player::Server => server::schedule(&mut dice, ranges),
    };
    let merged = schedule.merged();
    debug_assert_eq!(merged.check(), Ok(()), "{merged:?}");
    Story::new(link, merged)
}

fn client(dice: &mut Dice, ranges: &Ranges) -> Schedule {
    let mut schedule = Schedule {
        receive_buffer: dice.buffer(0.6, SMALLEST_BUFFER),
        send_buffer: dice.buffer(0.15, SMALLEST_BUFFER),
        keep_alive: dice.is(0.15),
        ..Schedule::default()
    };
    let requests = [1, 1, 1, 1, 1, 2, 2, 3][dice.below(8)];
    for nth in 1..=requests {
        if dice.is(0.05) {
            pause(dice, ranges, &mut schedule.steps);
        }
        let left = request(dice, ranges, &mut schedule.steps);
        between(dice, ranges, nth == requests, &mut schedule.steps);
        if nth < requests {
            complete(left, &mut schedule.steps);
        }
    }
    if ranges.half_closes && dice.is(0.1) {
        schedule.steps.push(HuntStep::HalfClose);
        if dice.is(0.5) {
            pause(dice, ranges, &mut schedule.steps);
        }
    } else if dice.is(0.01) {
        schedule.steps.push(HuntStep::Close);
    }
    schedule
}

/// Adds a pause, unless the pauses before it have taken all of the time.
fn pause(dice: &mut Dice, ranges: &Ranges, steps: &mut Vec<HuntStep>) {
    let before =
        steps.iter().map(|step| if let HuntStep::Pause { milliseconds } = step { *milliseconds } else { 0 });
    let longest = u64::try_from(ranges.longest_pause.as_millis()).unwrap_or(u64::MAX);
    let left = longest.saturating_sub(before.sum());
    if left >= SHORTEST_PAUSE_MS {
        steps.push(HuntStep::Pause { milliseconds: dice.scale(SHORTEST_PAUSE_MS, left) });
    }
}

/// Adds a request. Returns how much of its body is not sent with it.
fn request(dice: &mut Dice, ranges: &Ranges, steps: &mut Vec<HuntStep>) -> u64 {
    if dice.is(0.55) || !ranges.bodies {
        steps.push(HuntStep::Request { body: 0, sent: 0 });
        return 0;
    }
    let body = dice.scale(1, ranges.largest);
    let sent = match dice.below(3) {
        0 => body,
        1 => dice.scale(1, body),
        _ => 0,
    };
    steps.push(HuntStep::Request { body, sent });
    body - sent
}

/// Adds up to three pauses, bytes and readings.
fn between(dice: &mut Dice, ranges: &Ranges, is_last: bool, steps: &mut Vec<HuntStep>) {
    for _ in 0..dice.below(if is_last { 4 } else { 2 }) {
        let step = match dice.below(10) {
            0..=3 => {
                pause(dice, ranges, steps);
                continue;
            }
            4..=7 => HuntStep::Send { bytes: dice.scale(1, ranges.largest) },
            _ => HuntStep::Read { bytes: dice.scale(1, ranges.largest) },
        };
        // Line ends between two requests are ignored by some servers, and answered by others.
        if is_last || !matches!(step, HuntStep::Send { .. }) {
            steps.push(step);
        }
    }
}

fn complete(left: u64, steps: &mut Vec<HuntStep>) {
    if left > 0 {
        steps.push(HuntStep::Send { bytes: left });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(seed: u64) -> Vec<Story> {
        let ranges = Ranges { links: vec![Some("lan".into()), Some("wifi".into())], ..Ranges::default() };
        (0..4_000).map(|index| story(seed, index, &ranges)).collect()
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        assert_eq!(many(7), many(7));
        assert_ne!(many(7), many(8));
    }

    #[test]
    fn every_schedule_can_be_done_within_the_ranges() {
        let ranges =
            Ranges { half_closes: false, longest_pause: Duration::from_secs(2), ..Ranges::default() };
        for index in 0..4_000 {
            let story = story(3, index, &ranges);
            assert_eq!(story.schedule.check(), Ok(()), "{index}");
            assert!(story.schedule.pauses() <= ranges.longest_pause, "{index}: {story:?}");
            assert!(!story.schedule.steps.contains(&HuntStep::HalfClose), "{index}");
        }
    }

    /// What is to be found must be drawn: each kind of step, each number of requests, and no scale seldom.
    #[test]
    fn nothing_is_drawn_seldom() {
        let stories = many(1);
        let share = |is: &dyn Fn(&Story) -> bool| {
            stories.iter().filter(|story| is(story)).count() as f64 / stories.len() as f64
        };
        let has = |is: fn(&HuntStep) -> bool| share(&|story| story.schedule.steps.iter().any(is));
        assert!(has(|step| matches!(step, HuntStep::HalfClose)) > 0.05);
        assert!(has(|step| matches!(step, HuntStep::Read { .. })) > 0.05);
        assert!(has(|step| matches!(step, HuntStep::Request { body: 1.., .. })) > 0.3);
        for (low, high) in [(5, 50), (50, 500), (500, 5_000), (5_000, 20_000)] {
            let in_decade = |step: &HuntStep| matches!(step, HuntStep::Pause { milliseconds } if (low..high).contains(milliseconds));
            let share = share(&|story| story.schedule.steps.iter().any(in_decade));
            assert!(share > 0.05, "{low} to {high} ms: {share}");
        }
        for requests in 1..=3 {
            assert!(share(&|story| story.schedule.requests() == requests) > 0.08, "{requests}");
        }
        for link in ["lan", "wifi"] {
            assert!(share(&|story| story.link.as_deref() == Some(link)) > 0.4, "{link}");
        }
        assert!(share(&|story| story.schedule.receive_buffer.is_none()) > 0.3);
    }
}
