//! Man pages and completions, from the same definitions as `--help`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, ValueHint};

use crate::exit;
use crate::output::Stdout;

/// Prints a completion script for a shell.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Writes the man pages, one for each verb.
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// The directory to write them to; it must exist.
    #[arg(value_hint = ValueHint::DirPath)]
    directory: PathBuf,
}

impl Completions {
    pub(crate) fn run(self, mut program: Command) -> ExitCode {
        // It panics if what it writes to refuses.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "linger", &mut script);
        let mut out = Stdout::new();
        match out.text(format_args!("{}", String::from_utf8_lossy(&script))).and_then(|()| out.flush()) {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(stopped) => stopped.end(None),
        }
    }
}

impl Man {
    pub(crate) fn run(self, program: Command) -> ExitCode {
        match pages(program, &self.directory) {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(error) => exit::file(format_args!("cannot write to {}", self.directory.display()), &error),
        }
    }
}

/// Writes the pages beside their final names first, so that none is ever half a page.
fn pages(program: Command, directory: &Path) -> io::Result<()> {
    let beside = tempfile::Builder::new().prefix(".linger-").tempdir_in(directory);
    let beside = beside.map_err(|error| error.raw_os_error().map_or(error, io::Error::from_raw_os_error))?;
    clap_mangen::generate_to(program, beside.path())?;
    for page in std::fs::read_dir(beside.path())? {
        let page = page?;
        std::fs::rename(page.path(), directory.join(page.file_name()))?;
    }
    Ok(())
}
