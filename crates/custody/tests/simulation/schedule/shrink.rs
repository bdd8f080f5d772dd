//! Shrinks a schedule to the smallest that still fails.

use super::{Step, What, run};
use crate::driver::Fault;

/// In schedules longer than this, pairs of steps are not left out.
const PAIRS: usize = 70;

/// A schedule that fails, and the fault.
#[derive(Clone, Debug)]
pub(crate) struct Shrunk {
    pub(crate) hold: bool,
    pub(crate) steps: Vec<Step>,
    pub(crate) fault: Fault,
}

impl Shrunk {
    /// The number of steps of the program, its processes and its peers. The other steps only say who continues when.
    pub(crate) fn events(&self) -> usize {
        self.steps
            .iter()
            .filter(|step| !matches!(step.what, What::Supervise | What::Run | What::Wait))
            .count()
    }

    /// Replaces the steps by others if these fail, too.
    fn attempt(&mut self, steps: Vec<Step>) -> bool {
        match run(self.hold, &steps, false).fault {
            Some(fault) => {
                (self.steps, self.fault) = (steps, fault);
                true
            }
            None => false,
        }
    }

    /// Leaves out runs of steps: the half, a quarter, and so on down to one.
    fn leave_out(&mut self) {
        let mut size = self.steps.len().max(1);
        while size > 0 {
            let mut at = 0;
            while at < self.steps.len() {
                let mut fewer = self.steps.clone();
                fewer.drain(at..(at + size).min(self.steps.len()));
                if !self.attempt(fewer) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Leaves out each pair of steps, or one step while the supervisor does another thing later.
    fn leave_out_pairs(&mut self) {
        let mut at = 0;
        'next: while at < self.steps.len() && self.steps.len() <= PAIRS {
            for second in at + 1..self.steps.len() {
                let mut fewer = self.steps.clone();
                fewer.remove(second);
                fewer.remove(at);
                if self.attempt(fewer) {
                    continue 'next;
                }
                for choice in 0..4 {
                    let mut fewer = self.steps.clone();
                    fewer[second].a = choice;
                    fewer.remove(at);
                    if self.steps[second].what == What::Supervise && self.attempt(fewer) {
                        continue 'next;
                    }
                }
            }
            at += 1;
        }
    }

    /// Gives the steps small parameters.
    fn simplify(&mut self) {
        for at in 0..self.steps.len() {
            for change in [
                |step: &mut Step| step.who = 0,
                |step: &mut Step| step.who &= 2,
                |step: &mut Step| step.a = 0,
                |step: &mut Step| step.a = 1,
                |step: &mut Step| step.b = 0,
                |step: &mut Step| step.b = 1,
            ] {
                let mut simpler = self.steps.clone();
                change(&mut simpler[at]);
                if simpler[at] != self.steps[at] {
                    self.attempt(simpler);
                }
            }
        }
    }
}

/// The smallest schedule that fails in some way: without needless steps, and with small parameters.
pub(crate) fn shrink(hold: bool, steps: &[Step]) -> Shrunk {
    let fault = run(hold, steps, false).fault.unwrap_or_default();
    let mut best = Shrunk { hold, steps: steps.to_vec(), fault };
    if let Some(fault) = run(false, steps, false).fault {
        (best.hold, best.fault) = (false, fault);
    }
    loop {
        let before = best.steps.clone();
        best.leave_out();
        best.simplify();
        best.leave_out_pairs();
        if best.steps == before {
            return best;
        }
    }
}
