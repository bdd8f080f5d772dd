//! Where kernels differ by more than chance, and whether it is the release or the machine under it.

use linger_lab::wilson;

use super::result::{KernelResult, VerdictCounts};
use super::{CLIENTS, ENDINGS, PEERS};

/// One of the counts in which kernels may differ.
type Measure = (&'static str, fn(VerdictCounts) -> u64);

const MEASURES: [Measure; 2] = [("lost", |counted| counted.2), ("not kept", |counted| counted.1 + counted.2)];

/// The sentences on it: how many cells differ, and each of them.
pub(super) fn differences(kernels: &[&KernelResult]) -> Vec<String> {
    let (mut cells, mut found) = (0, Vec::new());
    for peer in PEERS {
        for (ending, client) in ENDINGS.iter().flat_map(|ending| CLIENTS.map(|client| (ending, client))) {
            let counted: Vec<(&KernelResult, VerdictCounts)> = kernels
                .iter()
                .filter_map(|kernel| Some((*kernel, kernel.cell(peer, ending, client)?)))
                .collect();
            cells += 1;
            // What is lost is not kept: the first that differs is told.
            let told = MEASURES.iter().find_map(|measure| difference(&counted, *measure));
            found.extend(told.map(|told| format!("`{peer}`, `{ending}`, `{client}`: {told}")));
        }
    }
    let head = match found.len() {
        0 => format!("The kernels agree in all {cells} cells: no two shares have disjoint 95% intervals."),
        some => format!(
            "In {} of {cells} cells the kernels agree: no two shares have disjoint 95% intervals (Wilson). In {some} they differ:",
            cells - some
        ),
    };
    [vec![head], found].concat()
}

/// How the kernels differ in one count, if the intervals of any two are disjoint.
fn difference(counted: &[(&KernelResult, VerdictCounts)], (word, measure): Measure) -> Option<String> {
    let share = |counted: VerdictCounts| measure(counted) as f64 / counted.trials().max(1) as f64;
    let interval = |counted: VerdictCounts| wilson(measure(counted), counted.trials());
    let least = counted.iter().map(|(_, one)| *one).min_by(|a, b| share(*a).total_cmp(&share(*b)))?;
    let most = counted.iter().map(|(_, one)| *one).max_by(|a, b| share(*a).total_cmp(&share(*b)))?;
    if interval(least).1 >= interval(most).0 {
        return None;
    }
    let above: Vec<_> = counted.iter().filter(|(_, one)| interval(*one).0 > interval(least).1).collect();
    let below: Vec<_> = counted.iter().filter(|(_, one)| interval(*one).1 < interval(most).0).collect();
    let listed = |some: &[&(&KernelResult, VerdictCounts)]| {
        let shown = some
            .iter()
            .map(|(kernel, one)| format!("{} {} of {}", kernel.column(), measure(*one), one.trials()));
        shown.collect::<Vec<_>>().join(", ")
    };
    // A line of releases on both sides: the same code, another machine under it.
    let both = above.iter().find(|(kernel, _)| below.iter().any(|(other, _)| other.line() == kernel.line()));
    let cause = match both {
        Some((kernel, _)) => {
            format!("; {} is on both sides: the machine's speed, not the release", kernel.line())
        }
        None => String::new(),
    };
    Some(format!("{word} on {}; on {}{cause}.", listed(&above), listed(&below)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str, release: &str, counted: VerdictCounts) -> KernelResult {
        let cells = [(KernelResult::key("unread", "close", "usual"), counted)].into();
        KernelResult { name: name.into(), release: release.into(), cells, ..KernelResult::default() }
    }

    fn told(kernels: &[KernelResult]) -> Vec<String> {
        differences(&kernels.iter().collect::<Vec<_>>())
    }

    #[test]
    fn shares_that_chance_explains_are_no_difference() {
        let old = kernel("uml bullseye", "5.10.46", VerdictCounts(3, 0, 5));
        let new = kernel("uml sid", "7.2.7", VerdictCounts(0, 0, 8));
        let told = told(&[old, new]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("The kernels agree in all"), "{told:?}");
    }

    #[test]
    fn a_release_that_differs_is_named_with_its_counts() {
        let old = kernel("uml bullseye", "5.10.46", VerdictCounts(8, 0, 0));
        let new = kernel("uml sid", "7.2.7", VerdictCounts(0, 0, 8));
        let told = told(&[old, new]);
        assert_eq!(told[1], "`unread`, `close`, `usual`: lost on 7.2 uml 8 of 8; on 5.10 uml 0 of 8.");
    }

    #[test]
    fn one_release_on_both_sides_is_the_machine() {
        let slow = kernel("qemu bullseye", "5.10.0-32-cloud-amd64", VerdictCounts(8, 0, 0));
        let fast = kernel("uml bullseye", "5.10.46", VerdictCounts(0, 0, 8));
        let told = told(&[slow, fast]);
        assert!(
            told[1].ends_with("5.10 is on both sides: the machine's speed, not the release."),
            "{told:?}"
        );
    }

    #[test]
    fn what_is_at_risk_here_and_kept_there_is_a_difference() {
        let safe = kernel("uml bullseye", "5.10.46", VerdictCounts(8, 0, 0));
        let risky = kernel("uml sid", "7.2.7", VerdictCounts(0, 8, 0));
        assert!(told(&[safe, risky])[1].contains("not kept on 7.2 uml 8 of 8"));
    }
}
