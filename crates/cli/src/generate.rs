//! Man pages and completions, from the same definitions as `--help`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, Args, Command, ValueHint};
use clap_complete::Shell;

use crate::exit;
use crate::output::Stdout;

/// Prints a completion script for a shell.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
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
        let script = script(self.shell, &mut program);
        let mut out = Stdout::new();
        match out.text(format_args!("{script}")).and_then(|()| out.flush()) {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(stopped) => stopped.end(None),
        }
    }
}

fn script(shell: Shell, program: &mut Command) -> String {
    // `generate` panics if its writer fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, program, "linger", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if shell == Shell::Fish {
        for verb in program.get_subcommands() {
            script.extend(verb.get_positionals().filter_map(|arg| fish_values(verb.get_name(), arg)));
        }
    }
    script
}

/// The values of an argument that has no `--`: clap_complete leaves them out for fish.
fn fish_values(verb: &str, arg: &Arg) -> Option<String> {
    let values = arg.get_possible_values();
    let names: Vec<_> = values.iter().map(|value| value.get_name()).collect();
    if names.is_empty() {
        return None;
    }
    let names = names.join(" ");
    Some(format!("complete -c linger -n \"__fish_linger_using_subcommand {verb}\" -f -a \"{names}\"\n"))
}

impl Man {
    pub(crate) fn run(self, program: Command) -> ExitCode {
        match pages(program, &self.directory) {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(error) => exit::file(format_args!("cannot write to {}", self.directory.display()), &error),
        }
    }
}

/// Writes to a temporary directory and renames, so that no page is ever incomplete.
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

#[cfg(test)]
mod tests {
    use std::process::{Command as Process, Stdio};

    use clap::CommandFactory;
    use linger_testing::skip;

    use super::*;

    /// A place where a value is chosen: what stands before it on the command line, and the values.
    struct Choice {
        before: Vec<String>,
        values: Vec<String>,
    }

    fn choices(command: &Command, before: &[String], found: &mut Vec<Choice>) {
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let mut before = before.to_vec();
            before.extend(arg.get_long().map(|long| format!("--{long}")));
            let values = names(arg);
            if !values.is_empty() && arg.get_action().takes_values() {
                found.push(Choice { before, values });
            }
        }
        for verb in command.get_subcommands() {
            let before = [before, &[verb.get_name().to_owned()]].concat();
            choices(verb, &before, found);
        }
    }

    fn names(arg: &Arg) -> Vec<String> {
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
    }

    fn all() -> Vec<Choice> {
        let mut found = Vec::new();
        choices(&crate::args::Arguments::command(), &["linger".to_owned()], &mut found);
        let options: Vec<_> = found.iter().filter_map(|choice| choice.before.last()).collect();
        for option in
            ["--peer", "--link", "--ending", "--via", "--durability", "--only", "--consume", "schema"]
        {
            assert!(options.iter().any(|known| *known == option), "{option} has no values");
        }
        found
    }

    fn script(shell: Shell) -> String {
        super::script(shell, &mut crate::args::Arguments::command())
    }

    /// Returns what a shell prints when it runs a script; nothing if there is no such shell.
    fn run(shell: &str, arguments: &[&str]) -> Option<String> {
        let home = tempfile::tempdir().unwrap();
        let mut process = Process::new(shell);
        process.args(arguments).env("HOME", home.path()).env("XDG_CONFIG_HOME", home.path());
        match process.stdin(Stdio::null()).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.is_empty(), "{shell}: {said}");
                Some(String::from_utf8(output.stdout).unwrap())
            }
            Err(error) => {
                skip(shell, &error.to_string());
                None
            }
        }
    }

    #[test]
    fn bash_completes_every_value() {
        let script = script(Shell::Bash);
        for Choice { before, values } in all() {
            // As bash calls a function for completion: the command, the word, the word before it.
            let ask = "eval \"$0\"; COMP_WORDS=(\"$@\" ''); COMP_CWORD=$#; \
                       _linger linger '' \"${@: -1}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
            let words: Vec<_> = before.iter().map(String::as_str).collect();
            let Some(told) = run("bash", &[&["--norc", "-c", ask, &script], &words[..]].concat()) else {
                return;
            };
            let told: Vec<_> = told.lines().collect();
            for value in values {
                assert!(told.contains(&value.as_str()), "{before:?}: no {value} among {told:?}");
            }
        }
    }

    #[test]
    fn fish_completes_every_value() {
        let script = script(Shell::Fish);
        for Choice { before, values } in all() {
            let ask = format!("{script}\ncomplete -C '{} '", before.join(" "));
            let Some(told) = run("fish", &["--no-config", "-c", &ask]) else { return };
            let told: Vec<_> = told.lines().map(|line| line.split('\t').next().unwrap_or(line)).collect();
            for value in values {
                assert!(told.contains(&value.as_str()), "{before:?}: no {value} among {told:?}");
            }
        }
    }

    /// zsh completes only on a terminal. So the test looks for the values in the script.
    #[test]
    fn zsh_lists_every_value() {
        let script = script(Shell::Zsh);
        for Choice { before, values } in all() {
            let listed = format!(":({})'", values.join(" "));
            let option = before.last().filter(|word| word.starts_with("--"));
            let is_listed = script.lines().any(|line| {
                line.contains(&listed) && option.is_none_or(|option| line.contains(option.as_str()))
            });
            // Values with a description stand one on a line.
            let is_described = script.split("))'").any(|part| {
                let of_option = option.and_then(|option| part.rsplit_once(&format!("{option}=[")));
                of_option
                    .is_some_and(|(_, list)| values.iter().all(|value| list.contains(&format!("{value}\\:"))))
            });
            assert!(is_listed || is_described, "{before:?}: no {listed}");
        }
        run("zsh", &["-f", "-n", "-c", &script]);
    }
}
