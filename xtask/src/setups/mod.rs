//! `cargo xtask setups [NAME ...]`: starts real servers bare, under `linger run` and with `--via seccomp`, asks each
//! honestly and with uploads that are answered early, stops it, and writes the table of docs/run.md.
//!
//! For a run by hand: the servers are many, and `cargo xtask setups install` installs them. With names, only set-ups whose
//! names contain one of them are run, and the rows are printed instead of written. `LINGER` names another program than
//! `target/release/linger`.

mod client;
mod install;
mod place;
#[cfg(feature = "matrix")]
mod serve;
mod start;
mod table;

#[cfg(feature = "matrix")]
pub(crate) use self::serve::{Serving, for_matrix, matrix_install, serve};
#[cfg(feature = "matrix")]
pub(crate) use self::table::Setup as MatrixSetup;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use linger_netns::{Isolation, Namespace, net};

use self::client::UploadCounts;
use self::start::{Observed, StartWay};
use self::table::{Asking, Setup};
use crate::root;

/// Set-ups that run at a time. Most of the time is spent waiting.
const AT_ONCE: usize = 3;

/// How much longer than bare a supervised stop may take: the supervisor ends itself, and there is other load.
const LATE: Duration = Duration::from_secs(1);

/// What the three ways have shown, and the disturbances found in both of two tries; or the reason why there is nothing.
type TriedSetup = Result<([Observed; 3], Vec<String>), String>;

pub(crate) fn run(only: &[&str]) -> anyhow::Result<()> {
    let table = table::read(table::SETUPS)?;
    if only == ["install"] {
        return install::all(&[&table.install]);
    }
    let linger =
        std::env::var_os("LINGER").map_or_else(|| root().join("target/release/linger"), PathBuf::from);
    anyhow::ensure!(linger.is_file(), "{}: cargo build --release -p linger-cli", linger.display());
    if let Err(refused) = Isolation::prepare().enter() {
        anyhow::bail!("{refused}");
    }
    net::up("lo").context("cannot set up lo in a namespace of one's own")?;
    let is_asked = |setup: &&Setup| only.is_empty() || only.iter().any(|part| setup.name.contains(part));
    let asked: Vec<&Setup> = table.setup.iter().filter(is_asked).collect();
    anyhow::ensure!(!asked.is_empty(), "no set-up is called anything like {}", only.join(", "));
    let rows = try_all(&asked, &linger);
    let text = markdown(&asked, &rows);
    if !only.is_empty() {
        println!("{text}");
        return Ok(());
    }
    write(&text)
}

/// Whether a set-up has this word in its name.
pub(crate) fn knows(word: &str) -> bool {
    table::read(table::SETUPS).is_ok_and(|table| table.setup.iter().any(|setup| setup.name.contains(word)))
}

/// Whether a set-up of the matrix alone has this word in its name.
pub(crate) fn knows_row(word: &str) -> bool {
    knows(word)
        || table::read(table::MATRIX)
            .is_ok_and(|table| table.setup.iter().any(|setup| setup.name.contains(word)))
}

/// Replaces the table between its two marks.
fn write(text: &str) -> anyhow::Result<()> {
    const MARKS: [&str; 2] = ["<!-- written by `cargo xtask setups` -->\n", "<!-- end of what it writes -->"];
    let file = root().join("docs/run.md");
    let old = fs::read_to_string(&file)?;
    let (before, rest) = old.split_once(MARKS[0]).context("docs/run.md has no place for the table")?;
    let (_, after) = rest.split_once(MARKS[1]).context("docs/run.md: the table has no end")?;
    fs::write(&file, [before, MARKS[0], text, MARKS[1], after].concat())?;
    println!("setups: the table of docs/run.md is written");
    Ok(())
}

fn try_all(asked: &[&Setup], linger: &std::path::Path) -> Vec<TriedSetup> {
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<Option<TriedSetup>>> = Mutex::new(asked.iter().map(|_| None).collect());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((index, setup)) = {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    asked.get(index).map(|setup| (index, setup))
                } {
                    let row = try_one(setup, linger);
                    match &row {
                        Ok((outcomes, found)) => eprintln!(
                            "setups: {}: {}",
                            setup.name,
                            verdict(setup, outcomes, found).lines().next().unwrap_or_default()
                        ),
                        Err(why) => eprintln!("setups: {}: not tried: {why}", setup.name),
                    }
                    rows.lock().expect("no thread panics with it")[index] = Some(row);
                }
            });
        }
    });
    let rows = rows.into_inner().expect("no thread panicked");
    rows.into_iter().map(|row| row.unwrap_or_else(|| Err("was not tried".into()))).collect()
}

fn try_one(setup: &Setup, linger: &std::path::Path) -> TriedSetup {
    if let Some(why) = place::lacks(setup) {
        return Err(format!("{why} (`cargo xtask setups install`)"));
    }
    let outcomes = try_ways(setup, linger)?;
    let mut found = disturbances(&outcomes);
    if !found.is_empty() {
        eprintln!("setups: {}: once more, for {}", setup.name, found.join("; "));
        // Two runs of the same kind may differ as well, for example under load: only what shows up again is a disturbance.
        // The row's counts are those of the first try.
        let again = disturbances(&try_ways(setup, linger)?);
        found.retain(|one| again.contains(one));
    }
    Ok((outcomes, found))
}

fn try_ways(setup: &Setup, linger: &std::path::Path) -> Result<[Observed; 3], String> {
    let [bare, run, seccomp] = StartWay::ALL.map(|way| {
        // A namespace for each run: counters and ports are its own.
        let own = Namespace::new().and_then(|own| own.run(|| start::run(setup, way, linger)));
        let outcome = own.map_err(anyhow::Error::from).and_then(|outcome| outcome);
        outcome.map_err(|error| format!("{way:?}: {error:#}"))
    });
    Ok([bare?, run?, seccomp?])
}

/// How the supervised runs differ from the bare one, apart from the responses that they no longer lose.
fn disturbances(outcomes: &[Observed; 3]) -> Vec<String> {
    let [bare, supervised @ ..] = outcomes;
    let mut found = Vec::new();
    for (name, other) in ["run", "seccomp"].iter().zip(supervised) {
        if let Err(why) = &other.honest {
            found.push(format!("{name}: an honest request failed: {}", why.trim()));
        } else if bare.honest.is_ok() && bare.honest != other.honest {
            found.push(format!("{name}: a session printed something else"));
        }
        if other.status != bare.status {
            found.push(format!("{name}: {} (bare {})", other.status, bare.status));
        }
        if other.stop > bare.stop + LATE {
            found.push(format!("{name}: stopped late"));
        }
        let (lost, bare_lost) = (other.uploads.lost, bare.uploads.lost);
        if lost > bare_lost {
            found.push(format!("{name}: more lost than bare"));
        }
        for line in other.stderr.difference(&bare.stderr) {
            found.push(format!("{name}: only here on stderr: {line}"));
        }
        // If bare runs lost responses, their messages about the reset may be missing when there is none.
        let is_of_reset =
            |line: &&String| ["reset by peer", "Broken pipe", "EPIPE"].iter().any(|word| line.contains(word));
        for line in bare.stderr.difference(&other.stderr).filter(|line| bare_lost == 0 || !is_of_reset(line))
        {
            found.push(format!("{name}: not on stderr: {line}"));
        }
    }
    found
}

fn verdict(setup: &Setup, outcomes: &[Observed; 3], found: &[String]) -> String {
    if let Err(why) = &outcomes[0].honest {
        return format!("**honest requests fail bare**: {}", why.lines().last().unwrap_or_default());
    }
    if !found.is_empty() {
        return format!("**disturbed**: {}", found.join("; "));
    }
    let [bare, run, seccomp] = outcomes.each_ref().map(|outcome| outcome.uploads);
    let has_faults = |tally: UploadCounts| tally.lost + tally.at_risk > 0;
    let word = match (has_faults(bare), has_faults(run) || has_faults(seccomp)) {
        _ if matches!(setup.ask, Asking::Session { .. }) => "undisturbed",
        (false, false) => "undisturbed",
        (true, false) => "cured",
        (_, true) => "**not cured**",
    };
    word.to_owned()
}

fn tally(setup: &Setup, tally: UploadCounts) -> String {
    if matches!(setup.ask, Asking::Session { .. }) {
        return "session".into();
    }
    let parts = [(tally.lost, "lost"), (tally.at_risk, "at risk"), (tally.kept, "kept")];
    let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    format!("{} of {}", parts.collect::<Vec<_>>().join(", "), tally.total())
}

fn markdown(asked: &[&Setup], rows: &[TriedSetup]) -> String {
    let day = Command::new("date").arg("+%Y-%m-%d").output().map(|output| output.stdout).unwrap_or_default();
    let mut text = format!(
        "{}, Linux {}. Uploads of which the server need not read anything, by a client that reads 0.4 s later: `lost` (cut short), \
         `at risk` (complete, and reset), `kept`. In front and behind them honest requests, whose bytes are compared, or a session. Then a \
         stop by SIGTERM (or as the program documents it): the seconds that it took, bare, by `linger run` and by `--via seccomp`. `cured` \
         and `undisturbed` mean also that honest answers, exit status and stderr are the same; what differs is tried again, and counts \
         if it differs twice.\n\n\
         | set-up | version | bare | `linger run` | `--via seccomp` | stop, s | listeners covered | |\n|{}\n",
        String::from_utf8_lossy(&day).trim(),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "---|".repeat(8),
    );
    for (setup, row) in asked.iter().zip(rows) {
        let Ok((outcomes, found)) = row else { continue };
        let [bare, run, seccomp] = outcomes.each_ref().map(|outcome| tally(setup, outcome.uploads));
        let stops =
            outcomes.each_ref().map(|outcome| format!("{:.1}", outcome.stop.as_secs_f64())).join(" / ");
        let covered = [outcomes[1].coverage(), outcomes[2].coverage()];
        let covered = covered.join("; ");
        let mut verdict = verdict(setup, outcomes, found).replace('|', "/");
        if !setup.note.is_empty() {
            verdict = format!("{verdict}: {}", setup.note);
        }
        let cells = [setup.name.clone(), version(setup), bare, run, seccomp, stops, covered, verdict];
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    let missing: Vec<String> = asked
        .iter()
        .zip(rows)
        .filter_map(|(setup, row)| Some(format!("- {}: {}", setup.name, row.as_ref().err()?.lines().next()?)))
        .collect();
    if !missing.is_empty() {
        let _ = writeln!(text, "\nNot tried:\n\n{}", missing.join("\n"));
    }
    text
}

/// The first number with a dot that the version's command prints, or the first number.
pub(crate) fn version(setup: &Setup) -> String {
    let mut command = Command::new("sh");
    let folder = |name: &str| table::installed().join(name).to_string_lossy().into_owned();
    let script = setup.version.replace("UNPACKED", &folder("unpacked"));
    let script = script.replace("NODE", &folder("node/node_modules"));
    command.args(["-c", &script]).env("PATH", table::search_path()).current_dir(table::folder().join("apps"));
    let Ok(output) = command.output() else { return String::new() };
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let is_part = |letter: char| letter.is_ascii_digit() || letter == '.';
    let numbers: Vec<&str> =
        text.split(|letter| !is_part(letter)).map(|number| number.trim_matches('.')).collect();
    let dotted = numbers.iter().find(|number| number.contains('.'));
    dotted
        .or_else(|| numbers.iter().find(|number| !number.is_empty()))
        .copied()
        .unwrap_or_default()
        .to_owned()
}
