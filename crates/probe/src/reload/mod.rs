//! A server that is told to reload, or to stop, while requests are made: which of them are kept?
//!
//! Plain requests go on all the time, each on a connection of its own, and on kept connections; and a few responses have begun when
//! the server is told, and are read when it has done what it was told. What cannot be shown to have happened is not called kept.

mod around;
mod attempt;
pub(crate) mod by;
mod conclude;
mod connection;
pub(crate) mod counted;
mod listening;
mod load;
mod trigger;

use crate::budget::reloads;
use crate::check::Check;
use crate::finding::CheckFinding;
use crate::prober::Prober;
use around::around;
use conclude::conclude;

/// Reloads the server as often as configured, and tells what became of the requests meanwhile.
pub(crate) fn reload(prober: &Prober) -> CheckFinding {
    let check = Check::Reload;
    let Some(by) = &prober.config.reload else {
        return CheckFinding::undecided(check, "nothing says how it is told to reload");
    };
    let mut runs = Vec::new();
    for _ in 0..reloads(&prober.config) {
        match around(prober, by) {
            Ok(run) => runs.push(run),
            // What the runs before have shown to be lost stays lost.
            Err(sentence) => {
                let found = conclude(prober, by, &runs);
                if found.answer.is_fault() {
                    return found;
                }
                let reload = found.reload.filter(|found| found.times > 0);
                return CheckFinding { reload, ..CheckFinding::undecided(check, &sentence) };
            }
        }
    }
    conclude(prober, by, &runs)
}
