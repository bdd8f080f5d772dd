//! Checks commands of cargo that a document or a comment shows: every word of a task, package, target, feature.
//!
//! The tables by which the tasks run decide which names exist. A word that is no name, such as `CRATE`, `[NAME …]` or
//! `{name}`, is a placeholder.

use linger_testing::servers::SERVERS;

use crate::workspace::Package;
use crate::{bench, kernels, mutants, orderings, setups, suites};

/// What commands may name.
pub(crate) struct Known<'a> {
    pub(crate) packages: &'a [&'a Package],
    /// The steps of `cargo xtask test`.
    pub(crate) steps: &'a [&'a str],
}

/// What is wrong with a command: the words after `cargo`.
pub(crate) fn faults(command: &str, known: &Known<'_>) -> Vec<String> {
    let words: Vec<&str> = command.split_whitespace().take_while(|word| *word != "--").collect();
    match words[..] {
        ["xtask", ref task @ ..] => known.task(task).into_iter().collect(),
        _ => known.cargo(&words),
    }
}

/// Whether a word is a name, and not a placeholder such as `CRATE`.
fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
}

/// Whether a server of the matrix has this word in its name.
fn is_row(word: &str) -> bool {
    SERVERS.iter().any(|server| server.name.contains(word)) || setups::knows_row(word)
}

impl Known<'_> {
    /// What is wrong with the words after `cargo xtask`.
    fn task(&self, words: &[&str]) -> Option<String> {
        let (task, names) = words.split_first()?;
        // A list of tasks, `test | setup`, is checked as far as its first word.
        let mut names = names.iter().copied().take_while(|word| *word != "|").filter(|word| is_name(word));
        let wrong = |what: &str, name: &str| format!("`cargo xtask {task}` knows no {what} `{name}`");
        match *task {
            "test" => {
                let names: Vec<&str> = names.collect();
                // A step stands alone; several words are crates.
                let is_step = matches!(names[..], [one] if self.steps.contains(&one));
                let unknown = names.into_iter().find(|name| !is_step && self.package(name).is_none());
                unknown.map(|name| wrong("step or crate", name))
            }
            // What follows the bench's name is the bench's own.
            "bench" => names
                .next()
                .filter(|name| !bench::names().any(|one| one == *name))
                .map(|name| wrong("bench", name)),
            "matrix" => names
                .find(|name| {
                    !["--install", "--runs"].contains(name) && name.parse::<u32>().is_err() && !is_row(name)
                })
                .map(|name| wrong("server", name)),
            "setups" => names
                .find(|name| *name != "install" && !setups::knows(name))
                .map(|name| wrong("set-up", name)),
            "kernels" => names.find(|name| !kernels::knows(name)).map(|name| wrong("kernel", name)),
            "suites" => names.find(|name| !suites::knows(name)).map(|name| wrong("suite", name)),
            "mutants" => {
                let unknown = names.next().filter(|name| *name != orderings::WORD && !mutants::knows(name));
                unknown.map(|name| wrong("crate", name))
            }
            // Folders, of any name.
            "corpus" => None,
            "setup" => names.next().map(|name| wrong("word", name)),
            _ => is_name(task).then(|| format!("there is no `cargo xtask {task}`")),
        }
    }

    fn package(&self, name: &str) -> Option<&Package> {
        let full = format!("linger-{name}");
        self.packages.iter().find(|package| package.name == name || package.name == full).copied()
    }

    /// What is wrong with the packages, targets and features of one of cargo's own commands.
    fn cargo(&self, words: &[&str]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut package = None;
        for pair in words.windows(2) {
            let [option, name] = *pair else { continue };
            // Without `-p`, any package may have the target.
            let has = |of: fn(&Package) -> Vec<&String>| {
                let one = |package: &Package| of(package).into_iter().any(|own| own == name);
                package.map_or_else(|| self.packages.iter().any(|package| one(package)), one)
            };
            match option {
                "-p" | "--package" => {
                    package = self.packages.iter().find(|package| package.name == name).copied();
                    if package.is_none() && is_name(name) {
                        wrong.push(format!("there is no package `{name}`"));
                    }
                }
                "--features" => {
                    let features = name.split(',').filter(|name| is_name(name));
                    for feature in features.filter(|feature| !self.has_feature(package, feature)) {
                        wrong.push(format!("there is no feature `{feature}`"));
                    }
                }
                "--test" if is_name(name) && !has(|one| one.fast.iter().chain(&one.guarded).collect()) => {
                    wrong.push(format!("there is no test `{name}`"));
                }
                "--bin" | "--example" if is_name(name) && !has(|one| one.programs.iter().collect()) => {
                    wrong.push(format!("there is no program `{name}`"));
                }
                "--bench" if is_name(name) && !has(|one| one.benches.iter().collect()) => {
                    wrong.push(format!("there is no bench `{name}`"));
                }
                _ => {}
            }
        }
        wrong
    }

    fn has_feature(&self, package: Option<&Package>, feature: &str) -> bool {
        let one = |package: &Package| package.features.iter().any(|own| own == feature);
        package.map_or_else(|| self.packages.iter().any(|package| one(package)), one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(command: &str) -> Vec<String> {
        let package = Package {
            name: "linger-lab".into(),
            version: String::new(),
            oldest: String::new(),
            is_published: false,
            fast: vec!["cells".into()],
            guarded: vec!["random".into()],
            programs: vec!["walk".into()],
            examples: Vec::new(),
            tested_programs: Vec::new(),
            untested: Vec::new(),
            benches: vec!["link".into()],
            features: vec!["world".into()],
            folder: crate::root().join("crates/lab"),
        };
        faults(command, &Known { packages: &[&package], steps: &["format", "rooms"] })
    }

    #[test]
    fn every_word_of_a_task_is_known() {
        for right in [
            "xtask",
            "xtask test",
            "xtask test CRATE ...",
            "xtask test lab",
            "xtask test linger-lab lab",
            "xtask test rooms",
            "xtask test | setup | bench",
            "xtask bench",
            "xtask bench run close",
            "xtask bench [NAME]",
            "xtask corpus captures more",
            "xtask matrix nginx httpd",
            "xtask matrix --install",
            "xtask matrix --runs 3 hypercorn nghttpx",
            "xtask setups nginx dovecot",
            "xtask setups install",
            "xtask suites hyper tonic",
            "xtask mutants fastcgi 0/4",
            "xtask mutants orderings",
            "xtask mutants CRATE [K/N]",
            "xtask setup",
            "xtask {task}",
        ] {
            assert_eq!(faults_of(right), [""; 0], "{right}");
        }
        for wrong in [
            "xtask tests",
            "xtask test lap",
            "xtask test room",
            // With two words or more, each has to be a crate, and `rooms` is only a step.
            "xtask test rooms lab",
            "xtask bench runs",
            "xtask bench lab",
            "xtask matrix nginy",
            "xtask setups nginy",
            "xtask suites hiper",
            "xtask mutants lab",
            "xtask mutants ordering",
            "xtask setup lab",
        ] {
            assert_eq!(faults_of(wrong).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn packages_targets_and_features_are_known() {
        for right in [
            "test -p linger-lab --test random -- --test nothing",
            "test -p linger-lab --test cells",
            "test -p CRATE --test NAME",
            "run --release -p linger-lab --features world --example walk -- 1",
            "run --example walk --features WORD,world",
            "bench -p linger-lab --bench link",
            "run --release -- lab",
        ] {
            assert_eq!(faults_of(right), [""; 0], "{right}");
        }
        for wrong in [
            "test -p linger-labs",
            "test -p linger-lab --test cell",
            "test -p linger-lab --test walk",
            "run -p linger-lab --example random",
            "run --example walk --features world,worlds",
            "bench -p linger-lab --bench cells",
        ] {
            assert_eq!(faults_of(wrong).len(), 1, "{wrong}");
        }
    }
}
