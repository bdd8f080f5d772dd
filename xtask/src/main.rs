//! Tasks of the project itself: `cargo xtask test | bench NAME | matrix | setup`.

mod bench;
mod machine;
mod matrix;
mod rooms;
mod setup;
mod test;

use std::path::Path;
use std::process::{Command, ExitCode};

const USAGE: &str = "cargo xtask test          format, lints, all tests, documentation
cargo xtask bench [NAME]  performance, as ratios within one run
cargo xtask matrix        probes real servers, writes docs/matrix.md and docs/matrix.json
cargo xtask setup         installs what the tests talk to (Debian and PyPI packages; needs root)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["test"] => test::run(),
        ["bench"] => bench::all(),
        ["bench", name, ref more @ ..] => bench::run(name, more),
        ["matrix", ref only @ ..] => matrix::run(only),
        ["setup"] => setup::run(),
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

/// The workspace's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Runs a command with this program's streams; failing is an error that names it.
fn call(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("xtask: {}", shown(command));
    let status = command.status().map_err(|error| anyhow::anyhow!("{}: {error}", shown(command)))?;
    anyhow::ensure!(status.success(), "{} failed: {status}", shown(command));
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}
