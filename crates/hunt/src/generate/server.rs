//! What a server may do to a client: it reads some of a request or all of it, answers before, between or after, in pieces and with pauses, and
//! ends well or badly. No timer of any client is in it.

use super::{Dice, Ranges, pause};
use crate::schedule::{HuntStep, Schedule};

/// The smallest buffer, in bytes. An upload of a megabyte through a smaller one takes as many round trips, and delays of acknowledgements, that a trial
/// would be nothing else.
const SMALLEST_BUFFER: u64 = 16 << 10;

/// Draws a schedule.
pub(super) fn schedule(dice: &mut Dice, ranges: &Ranges) -> Schedule {
    let mut schedule = Schedule {
        receive_buffer: dice.buffer(0.3, SMALLEST_BUFFER),
        send_buffer: dice.buffer(0.15, SMALLEST_BUFFER),
        keep_alive: dice.is(0.35),
        ..Schedule::of_server([])
    };
    let steps = &mut schedule.steps;
    if dice.is(0.03) {
        // A server that does not answer.
        read(dice, ranges, steps);
        steps.push(HuntStep::Close);
        return schedule;
    }
    let responses = if dice.is(0.85) { 1 } else { 2 };
    for nth in 1..=responses {
        for _ in 0..dice.below(3) {
            read(dice, ranges, steps);
        }
        let left = respond(dice, ranges, steps);
        if nth < responses {
            complete(left, steps);
        } else {
            between(dice, ranges, left, steps);
        }
    }
    end(dice, ranges, steps);
    schedule
}

/// Adds a reading or a pause.
fn read(dice: &mut Dice, ranges: &Ranges, steps: &mut Vec<HuntStep>) {
    match dice.below(4) {
        0 => pause(dice, ranges, steps),
        1 => steps.push(HuntStep::ReadRequest),
        _ => steps.push(HuntStep::Read { bytes: dice.scale(1, ranges.largest) }),
    }
}

/// Adds the head of a response. Returns how much of its body is not sent with it.
fn respond(dice: &mut Dice, ranges: &Ranges, steps: &mut Vec<HuntStep>) -> u64 {
    let body = if ranges.bodies { dice.scale(1, ranges.largest) } else { 0 };
    let sent = match dice.below(4) {
        0 => 0,
        1 => dice.scale(1, body).min(body),
        _ => body,
    };
    steps.push(HuntStep::Respond { body, sent });
    body - sent
}

/// Adds up to three pauses, readings and pieces of the body; in most schedules all of what is left of it.
fn between(dice: &mut Dice, ranges: &Ranges, left: u64, steps: &mut Vec<HuntStep>) {
    for _ in 0..dice.below(3) {
        match dice.below(3) {
            0 => pause(dice, ranges, steps),
            1 => read(dice, ranges, steps),
            _ if left > 0 => steps.push(HuntStep::Send { bytes: dice.scale(1, left) }),
            _ => {}
        }
    }
    if dice.is(0.8) {
        complete(left, steps);
    }
}

fn complete(left: u64, steps: &mut Vec<HuntStep>) {
    if left > 0 {
        steps.push(HuntStep::Send { bytes: left });
    }
}

/// Adds the end: that of a good server in two of five schedules.
fn end(dice: &mut Dice, ranges: &Ranges, steps: &mut Vec<HuntStep>) {
    match dice.below(10) {
        0..=3 => return,
        4 => {
            steps.push(HuntStep::HalfClose);
            if dice.is(0.5) {
                pause(dice, ranges, steps);
            }
            if dice.is(0.5) {
                return;
            }
        }
        5..=7 => pause(dice, ranges, steps),
        _ => {}
    }
    steps.push(if dice.is(0.8) { HuntStep::Close } else { HuntStep::Abort });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Ranges, story};
    use crate::schedule::{HuntStep, Player};

    /// What is to be found must be drawn: early answers and late ones, whole and cut, each ending, and no scale seldom.
    #[test]
    fn nothing_is_drawn_seldom_and_everything_can_be_done() {
        let ranges =
            Ranges { plays: Player::Server, longest_pause: Duration::from_secs(20), ..Ranges::default() };
        let stories: Vec<_> = (0..4_000).map(|index| story(5, index, &ranges)).collect();
        assert_eq!(stories, (0..4_000).map(|index| story(5, index, &ranges)).collect::<Vec<_>>());
        for story in &stories {
            assert_eq!(story.schedule.check(), Ok(()), "{story:?}");
            assert_eq!(story.schedule.plays, Player::Server);
            assert!(story.schedule.pauses() <= ranges.longest_pause, "{story:?}");
        }
        let share = |is: &dyn Fn(&[HuntStep]) -> bool| {
            stories.iter().filter(|story| is(&story.schedule.steps)).count() as f64 / stories.len() as f64
        };
        let has = |is: fn(&HuntStep) -> bool| share(&|steps| steps.iter().any(is));
        assert!(has(|step| matches!(step, HuntStep::Close)) > 0.3);
        assert!(has(|step| matches!(step, HuntStep::Abort)) > 0.05);
        assert!(has(|step| matches!(step, HuntStep::HalfClose)) > 0.05);
        assert!(has(|step| matches!(step, HuntStep::ReadRequest)) > 0.2);
        assert!(has(|step| matches!(step, HuntStep::Read { .. })) > 0.2);
        let first = |is: fn(&HuntStep) -> bool| share(&|steps| steps.first().is_some_and(is));
        assert!(first(|step| matches!(step, HuntStep::Respond { .. })) > 0.2, "at once");
        assert!(
            share(&|steps| !steps.iter().any(|step| matches!(step, HuntStep::Close | HuntStep::Abort))) > 0.2
        );
        for (low, high) in [(5, 50), (50, 500), (500, 5_000), (5_000, 20_000)] {
            let share = share(&|steps| {
                steps.iter().any(|step| matches!(step, HuntStep::Pause { milliseconds } if (low..high).contains(milliseconds)))
            });
            assert!(share > 0.05, "{low} to {high} ms: {share}");
        }
        for (low, high) in [(1, 100), (100, 10_000), (10_000, 1 << 20)] {
            let share = share(&|steps| {
                steps
                    .iter()
                    .any(|step| matches!(step, HuntStep::Respond { body, .. } if (low..high).contains(body)))
            });
            assert!(share > 0.2, "{low} to {high} bytes: {share}");
        }
    }
}
