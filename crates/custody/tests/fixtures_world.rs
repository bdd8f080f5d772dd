//! Replays recordings of supervisors of real programs that did not use `World`: it must decide the same.
//!
//! The recorded supervisor kept its knowledge and its hands in one object. `fixtures/seccomp.txt` says how it was
//! recorded, and how it is read. Each difference has an entry in [`DIFFERENCES`] that says why it is right.

#[path = "fixtures_world/recorded.rs"]
mod recorded;
#[path = "fixtures_world/replay.rs"]
mod replay;

use std::collections::{BTreeMap, BTreeSet};

use linger_custody::Count;
use recorded::{Handed, Outcome, Said, Step, Trace};

/// Outcomes of one connection that only one of the two supervisors had, each with the step of its trace.
struct Difference<'a> {
    steps: &'a [Step],
    cookie: u64,
    recorded: Vec<(usize, Outcome)>,
    decided: Vec<(usize, Outcome)>,
}

/// A kind of difference.
struct Kind {
    name: &'static str,
    is: fn(&Difference<'_>) -> bool,
    why: &'static str,
}

const DIFFERENCES: &[Kind] = &[
    Kind {
        name: "drained",
        is: |one| {
            let [(at, Outcome::HandOver(Handed::Close, unread)), (_, Outcome::Count(Count::Handed, None))] =
                one.recorded[..]
            else {
                return false;
            };
            let said = one.said(at);
            let finished = said.is_tcp && said.socket.peer_finished && !said.failed;
            finished && unread > 0 && one.decided == [(at, Outcome::Count(Count::Drained, None))]
        },
        why: "The peer had finished, and bytes were unread. All that will ever come is there, so that \
              discarding it makes a plain close safe: nothing can arrive later and be answered with a \
              reset. One rule for both ways in.",
    },
    Kind {
        name: "reset by the peer",
        is: |one| {
            let [
                (at, Outcome::Count(Count::Unread, None)),
                (_, Outcome::HandOver(Handed::Close, unread)),
                (_, Outcome::Count(Count::Handed, None)),
            ] = one.recorded[..]
            else {
                return false;
            };
            let reset = one.said(at).failed && unread > 0;
            reset && one.decided == [(at, Outcome::Count(Count::Gone, None))]
        },
        why: "The peer has reset the connection while bytes were unread: there is nobody to linger for, \
              and nothing unsent that a reset of ours could throw away, so that it counts as over and \
              its bytes not as a danger.",
    },
    Kind {
        name: "kept after shutdown",
        is: |one| {
            let first = one.decided.first().map_or(0, |(at, _)| *at);
            let handed = |(cookie, outcome): &(u64, Outcome)| {
                *cookie == one.cookie && matches!(outcome, Outcome::HandOver(Handed::Shutdown, _))
            };
            one.recorded.is_empty()
                && one.steps[..first].iter().any(|step| step.done.iter().any(handed))
                && one.decided.iter().all(|(_, outcome)| matches!(outcome, Outcome::Keep(_)))
        },
        why: "`shutdown` has handed the connection over, and its last fd is closed. That it is handed \
              was forgotten before the call, and of two threads that close one fd the second ended it \
              again. Now it is forgotten once the fd is gone.",
    },
];

impl Difference<'_> {
    /// What the connection's socket said at a step.
    fn said(&self, at: usize) -> &Said {
        &self.steps[at].truth.sockets[&self.cookie]
    }
}

/// The outcomes that are among `these` and not among `those`.
fn besides(these: &[(usize, Outcome)], those: &[(usize, Outcome)]) -> Vec<(usize, Outcome)> {
    let mut those = those.to_vec();
    let is_new = |one: &&(usize, Outcome)| match those.iter().position(|other| other == *one) {
        Some(at) => {
            those.remove(at);
            false
        }
        None => true,
    };
    these.iter().filter(is_new).cloned().collect()
}

#[test]
fn what_was_recorded_is_decided_again() {
    let text = include_str!("fixtures/seccomp.txt");
    let traces = recorded::read(text);
    let mut unexplained = Vec::new();
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut events, mut connections, mut outcomes) = (0, 0, 0);
    for Trace { name, steps } in &traces {
        events += steps.len();
        let recorded = recorded::outcomes(steps);
        let decided = replay::replay(steps);
        let cookies: BTreeSet<u64> = recorded.keys().chain(decided.keys()).copied().collect();
        connections += cookies.len();
        for cookie in cookies {
            let [old, new] = [&recorded, &decided].map(|all| all.get(&cookie).cloned().unwrap_or_default());
            outcomes += new.len();
            let (recorded, decided) = (besides(&old, &new), besides(&new, &old));
            if recorded.is_empty() && decided.is_empty() {
                continue;
            }
            let difference = Difference { steps, cookie, recorded, decided };
            match DIFFERENCES.iter().find(|kind| (kind.is)(&difference)) {
                Some(kind) => *used.entry(kind.name).or_default() += 1,
                None => unexplained.push(format!(
                    "{name}: connection {cookie}: recorded {:?}, decided {:?}",
                    difference.recorded, difference.decided
                )),
            }
        }
    }
    eprintln!(
        "{} traces, {events} events, {connections} connections, {outcomes} decisions; different: {used:?}",
        traces.len()
    );
    assert!(
        unexplained.is_empty(),
        "{} without an explanation:\n{}",
        unexplained.len(),
        unexplained.join("\n")
    );
    for kind in DIFFERENCES {
        assert!(used.contains_key(kind.name), "{}: never met: {}", kind.name, kind.why);
    }
}
