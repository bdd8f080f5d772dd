//! The smallest schedule that goes wrong.

use super::{Step, run};
use crate::driver::Fault;

/// The smallest schedule that goes wrong in some way: without steps that are not needed, then with small parameters.
pub(crate) fn shrink(hold: bool, steps: &[Step]) -> (bool, Vec<Step>, Fault) {
    let wrong = |hold: bool, steps: &[Step]| run(hold, steps, false).fault;
    let mut best = steps.to_vec();
    let mut hold = hold;
    let mut fault = wrong(hold, &best).unwrap_or_default();
    if let Some(same) = wrong(!hold, &best).filter(|_| hold) {
        (hold, fault) = (false, same);
    }
    loop {
        let before = best.clone();
        let mut size = best.len().max(1);
        while size > 0 {
            let mut at = 0;
            while at < best.len() {
                let mut fewer = best.clone();
                fewer.drain(at..(at + size).min(best.len()));
                match wrong(hold, &fewer) {
                    Some(found) => (best, fault) = (fewer, found),
                    None => at += size,
                }
            }
            size /= 2;
        }
        for at in 0..best.len() {
            for change in [
                |step: &mut Step| step.who = 0,
                |step: &mut Step| step.who &= 2,
                |step: &mut Step| step.a = 0,
                |step: &mut Step| step.a = 1,
                |step: &mut Step| step.b = 0,
                |step: &mut Step| step.b = 1,
            ] {
                let mut simpler = best.clone();
                change(&mut simpler[at]);
                if simpler[at] != best[at]
                    && let Some(found) = wrong(hold, &simpler)
                {
                    (best, fault) = (simpler, found);
                }
            }
        }
        if best == before {
            return (hold, best, fault);
        }
    }
}
