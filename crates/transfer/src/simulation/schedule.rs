//! What happens in one run of a simulation: all of it follows from the seed.

use super::random::Random;
use super::{Cut, EndOfTransfer, Manner, Scenario, ScheduledEvent};

/// What is transferred, and which faults happen meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schedule {
    /// Decides which thread runs next, when bytes arrive, and what a power cut loses.
    pub seed: u64,
    /// What is transferred.
    pub scenario: Scenario,
    /// Whether receipts are asked for once a file is on disk. Otherwise once it is in memory.
    pub to_disk: bool,
    /// The faults that happen.
    pub events: Vec<ScheduledEvent>,
}

impl Schedule {
    /// Makes the schedule of a seed.
    pub fn random(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x006c_696e_6765_7221);
        let scenario = match random.below(128) {
            0..40 => Scenario::File,
            40..62 => Scenario::Replace,
            62..84 => Scenario::Tree,
            84 => Scenario::Large,
            85..109 => Scenario::Sink,
            _ => Scenario::Get,
        };
        let to_disk = !random.once_in(4);
        let mut events: Vec<_> = (0..random.below(5)).map(|_| event(&mut random, scenario)).collect();
        // From a generator of their own, so that the other events of a seed do not depend on these.
        let mut random = Random::new(seed ^ 0x0067_6976_6573_7570);
        if random.once_in(if scenario == Scenario::Sink { 2 } else { 16 }) {
            events.push(ScheduledEvent::GiveUp { step: 1 + random.below(100) as u32 });
        }
        if random.once_in(8) {
            let (step, calls) = (1 + random.below(80) as u32, 1 + random.below(12) as u32);
            events.push(ScheduledEvent::Full { step, calls });
        }
        let mut random = Random::new(seed ^ 0x0062_726f_6b65_6e21);
        if random.once_in(8) {
            let (step, calls) = (1 + random.below(80) as u32, 1 + random.below(6) as u32);
            events.push(ScheduledEvent::Broken { step, calls });
        }
        if scenario != Scenario::Sink && random.once_in(8) {
            let (step, renamed) = (1 + random.below(80) as u32, random.once_in(2));
            events.push(ScheduledEvent::Changes { step, renamed });
        }
        Self { seed, scenario, to_disk, events }
    }

    /// Whether a client whose user has given up is followed by another one at once.
    pub(super) fn puts_at_once(&self) -> bool {
        self.scenario == Scenario::Sink && self.seed & 1 == 0
    }

    /// Makes a schedule with these faults alone.
    pub fn new(seed: u64, scenario: Scenario, events: Vec<ScheduledEvent>) -> Self {
        Self { seed, scenario, to_disk: true, events }
    }
}

fn event(random: &mut Random, scenario: Scenario) -> ScheduledEvent {
    let end = if random.once_in(2) { EndOfTransfer::Client } else { EndOfTransfer::Server };
    let most = match scenario {
        Scenario::Large => 200,
        Scenario::Tree | Scenario::Get => 120,
        _ => 80,
    };
    let step = 1 + random.below(most) as u32;
    match random.below(4) {
        0 => ScheduledEvent::Kill { end, step },
        1 => ScheduledEvent::Power { end, step },
        _ => {
            let bytes = match scenario {
                Scenario::Large if random.once_in(2) => 2_300_000,
                Scenario::Tree | Scenario::Get => 2000,
                _ => 1000,
            };
            let manner = match random.below(4) {
                0 => Manner::Reset,
                1 => Manner::Silence,
                2 => Manner::SenderHears,
                _ => Manner::ReceiverHears,
            };
            let after = random.below(bytes) as u32;
            ScheduledEvent::Cut(Cut { sender: end, after, arrives: random.once_in(2), manner })
        }
    }
}
