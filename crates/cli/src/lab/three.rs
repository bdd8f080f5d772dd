//! The default run's results for people: a table of three rows, and what to do next.

use std::fmt::Write;

use linger_lab::CellReport;

use super::look::{WIDTH, network, style};

/// Columns of the first column.
const NAME: usize = 32;

pub(super) fn rows(text: &mut String, cells: &[&CellReport]) {
    let Some(first) = cells.first() else { return };
    let plan = &first.plan;
    let network = network(plan);
    let _ = writeln!(
        text,
        "A server leaves {} bytes of each request unread and answers {} bytes, {network}.\n",
        plan.extra, plan.response
    );
    let _ = writeln!(
        text,
        "{:<NAME$}{:<18}{:<14}write() and close() said",
        "server ends with", "responses lost", "at risk"
    );
    for cell in cells {
        let tally = &cell.tally;
        let worst = style(tally);
        let lost = format!("{} of {}", tally.lost, tally.trials);
        let _ = writeln!(
            text,
            "{:<NAME$}{worst}{lost:<18}{worst:#}{:<14}{}",
            cell.plan.ending.calls(),
            tally.at_risk,
            said(cell)
        );
    }
    let lost: u64 = cells.iter().map(|cell| cell.tally.lost).sum();
    if lost > 0 {
        let _ = writeln!(
            text,
            "\n{}",
            textwrap::fill(
                "The kernel finds unread bytes at the close, sends a reset and throws away what it has not sent. No call \
                 reports that. The lingering close half-closes first, reads until the client closes, then closes.",
                WIDTH
            )
        );
    }
    let _ = writeln!(text, "{}", NEXT.trim_end());
}

/// What the server learnt of a loss from its own system calls, in words.
fn said(cell: &CellReport) -> String {
    if cell.errors.is_empty() {
        return "no error".to_owned();
    }
    let errors: Vec<String> = cell.errors.iter().map(|(error, count)| format!("{count} x {error}")).collect();
    errors.join(", ")
}

const NEXT: &str = "
next
  one connection, step by step         linger lab --one
  your server                          linger probe http://HOST:PORT/A/LARGE/PAGE
  a gateway that answers 502           linger watch --port GATEWAY,APPLICATION
  a server that you cannot change      linger run -- COMMAND
  every ending, client and network     linger lab --all
";
