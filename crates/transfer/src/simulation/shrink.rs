//! Finds the smallest schedule that still fails.

use super::{Schedule, ScheduledEvent};

/// Leaves out events and makes their numbers smaller, as long as `fails` still returns true. Returns the
/// smallest schedule.
pub fn shrink(schedule: &Schedule, mut fails: impl FnMut(&Schedule) -> bool) -> Schedule {
    let mut least = schedule.clone();
    loop {
        let before = least.clone();
        for at in (0..least.events.len()).rev() {
            let mut fewer = least.clone();
            fewer.events.remove(at);
            if fails(&fewer) {
                least = fewer;
            }
        }
        for at in 0..least.events.len() {
            let mut earlier = least.clone();
            let place = match &mut earlier.events[at] {
                ScheduledEvent::Cut(cut) => &mut cut.after,
                ScheduledEvent::Kill { step, .. }
                | ScheduledEvent::Power { step, .. }
                | ScheduledEvent::GiveUp { step }
                | ScheduledEvent::Full { step, .. }
                | ScheduledEvent::Broken { step, .. }
                | ScheduledEvent::Changes { step, .. } => step,
            };
            if *place == 0 {
                continue;
            }
            *place /= 2;
            if fails(&earlier) {
                least = earlier;
            }
        }
        if least == before {
            return least;
        }
    }
}
