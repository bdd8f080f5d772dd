//! Tasks of the project itself: `cargo xtask test | setup | setups | suites | bench | corpus | matrix | kernels | mutants`.

mod bench;
mod circles;
mod commands;
mod docs;
mod doors;
mod fuzz;
mod kernels;
mod loom;
mod machine;
#[cfg(feature = "matrix")]
mod matrix;
mod mutants;
mod names;
mod orderings;
mod package;
mod packaged;
mod portable;
mod programs;
mod rooms;
mod runner;
mod setup;
mod setups;
mod shared;
mod sources;
mod suites;
mod test;
mod workspace;

use std::path::Path;
use std::process::{Command, ExitCode};

const USAGE: &str = "cargo xtask test               all that CI runs: format, lints, documents, licences, features, tests, models, fuzzing
cargo xtask test CRATE ...     all tests of some crates, those that cargo test leaves out included
cargo xtask test STEP          one of format, rooms, documents, licences, clippy, features, portable, rustdoc, loom, ahead, build, tests, elsewhere, package, doors, fuzz
cargo xtask setup              installs what the tests use, and records what this machine lacks
cargo xtask bench [NAME]       performance, as ratios within one run
cargo xtask corpus FOLDER ...  the causes of all resets in captures, each sentence checked against the packets (--labelled: against counters)
cargo xtask matrix [--runs N] [NAME ...]  probes real servers, writes docs/matrix.md and docs/matrix.json (matrix --install: the servers)
cargo xtask kernels [NAME ...]  the lab inside the kernels of Debian's releases, writes docs/kernels.md and docs/kernels.json
cargo xtask setups [NAME ...]  real servers, bare and under linger run; writes the table of docs/run.md (setups install: the servers)
cargo xtask suites [NAME ...]  the tests of hyper, axum, tonic and tokio-tungstenite, bare and on lingering streams
cargo xtask mutants CRATE [K/N]  which faults in the deciding code would no test notice
cargo xtask mutants orderings  which memory orderings does no loom model demand";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["test", ref crates @ ..] => test::run(crates),
        ["bench"] => bench::all(),
        ["bench", name, ref more @ ..] => bench::run(name, more),
        ["corpus", first, ref more @ ..] => corpus(first, more),
        #[cfg(feature = "matrix")]
        ["matrix", ref only @ ..] => matrix::run(only),
        #[cfg(not(feature = "matrix"))]
        ["matrix", ref only @ ..] => {
            let again = ["run", "--quiet", "--package", "xtask", "--features", "matrix", "--", "matrix"];
            call(cargo(&again).args(only))
        }
        ["kernels", ref only @ ..] => kernels::run(only),
        ["setup"] => setup::run(),
        ["setups", ref only @ ..] => setups::run(only),
        ["suites", ref only @ ..] => suites::run(only),
        [packaged::WORD, project, programs] => packaged::run(project, programs),
        ["mutants", orderings::WORD] => orderings::run(),
        ["mutants", name] => mutants::run(name, None),
        ["mutants", name, shard] => mutants::run(name, Some(shard)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the diagnosis and its independent checker over folders of captures.
fn corpus(first: &str, more: &[&str]) -> anyhow::Result<()> {
    let mut command =
        cargo(&["run", "--release", "--package", "linger-why", "--example", "corpus", "--", first]);
    call(command.args(more))
}

/// The workspace's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Prints a command and runs it with this program's standard streams. A failure is an error that names the command in short.
fn call(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("xtask: {}", shown(command));
    let status = command.status().map_err(|error| anyhow::anyhow!("{}: {error}", short(command)))?;
    anyhow::ensure!(status.success(), "{}: {status}", short(command));
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A command up to its first option: `cargo nextest run`.
fn short(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    let words = words.take_while(|word| !word.starts_with('-'));
    std::iter::once(program.to_string_lossy().into_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_in_short() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        assert_eq!(call(&mut command).unwrap_err().to_string(), "sh: exit status: 3");
        let command = cargo(&["nextest", "run", "--no-fail-fast", "--package", "linger-cli"]);
        assert!(short(&command).ends_with("nextest run"), "{}", short(&command));
        assert!(shown(&command).ends_with("--package linger-cli"), "{}", shown(&command));
    }
}
