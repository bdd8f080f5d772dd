//! What shows that a process has the preloaded library of this program.

use std::collections::HashSet;
use std::fs;

use linger_preload::protocol::VARIABLE;

/// The trace of the library in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The name that the memory maps of every process with the library contain.
    pub(crate) maps: String,
    /// If the library is one file for all programs: the prefix of [`VARIABLE`] that only this program's processes have.
    pub(crate) owner: Option<String>,
}

impl Mark {
    /// Whether a process has the library; `None` where it does not let itself be looked at.
    pub(crate) fn is_mapped(&self, process: u32) -> Option<bool> {
        let maps = fs::read(format!("/proc/{process}/maps")).ok()?;
        Some(contains(&maps, self.maps.as_bytes()))
    }

    /// Whether a process without the library may have it in a moment, or had it a moment ago.
    pub(crate) fn is_between(process: u32) -> bool {
        fs::read(format!("/proc/{process}/maps")).is_ok_and(|maps| has_no_libraries(&maps))
    }

    /// Whether a process of which nothing else is known may be the program's: it has the library, and not another program's.
    ///
    /// A process may have written over its environment, as servers do that change their title. Such a process counts as
    /// the program's.
    pub(crate) fn may_be_on(&self, process: u32) -> bool {
        let is_anothers = |owner: &String| {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            owner_in(&environment).is_some_and(|value| !value.starts_with(owner.as_bytes()))
        };
        self.is_mapped(process) == Some(true) && !self.owner.as_ref().is_some_and(is_anothers)
    }
}

/// Whether these are the memory maps of a process that ends, whose memory goes before its files (`do_exit`); or of one whose
/// `execve` has just been, with nothing but the program and its loader. On a busy machine it may stay so for long.
fn has_no_libraries(maps: &[u8]) -> bool {
    let lines = maps.split(|byte| *byte == b'\n');
    let paths: HashSet<_> =
        lines.filter_map(|line| line.iter().position(|byte| *byte == b'/').map(|at| &line[at..])).collect();
    paths.len() <= 2
}

/// The value of [`VARIABLE`].
fn owner_in(environment: &[u8]) -> Option<&[u8]> {
    let value =
        |pair: &'_ [u8]| pair.starts_with(VARIABLE.as_bytes()) && pair.get(VARIABLE.len()) == Some(&b'=');
    let pair = environment.split(|byte| *byte == 0).find(|pair| value(pair))?;
    pair.get(VARIABLE.len() + 1..)
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_programs_process_is_told_by_its_variable() {
        assert_eq!(owner_in(b"A=1\0LINGER_RUN=name=ab;token=1\0B=2\0"), Some(&b"name=ab;token=1"[..]));
        assert_eq!(owner_in(b"A=LINGER_RUN=\0LINGER_RUNS=name=ab\0"), None);
        assert_eq!(owner_in(b"nginx: worker process"), None);
    }

    /// This process has its own executable mapped, and no such variable.
    #[test]
    fn a_process_without_the_variable_may_be_the_programs() {
        let own = std::env::current_exe().unwrap().display().to_string();
        let owner = Some("name=ab;".to_owned());
        let mark = Mark { maps: own, owner };
        assert_eq!(
            (mark.is_mapped(std::process::id()), mark.may_be_on(std::process::id())),
            (Some(true), true)
        );
        let another = Mark { maps: "/no/such/library.so".to_owned(), ..mark };
        assert_eq!(
            (another.is_mapped(std::process::id()), another.may_be_on(std::process::id())),
            (Some(false), false)
        );
        assert_eq!(another.is_mapped(u32::MAX), None);
    }

    #[test]
    fn between_two_programs_there_are_no_libraries() {
        let line = |path: &str| format!("7f0000000000-7f0000001000 r--p 00000000 fe:01 12    {path}\n");
        let maps = |paths: &[&str]| paths.iter().map(|path| line(path)).collect::<String>();
        let begins = ["/bin/acts", "/bin/acts", "/lib64/ld-linux-x86-64.so.2", "[stack]", "[vdso]", ""];
        assert!(has_no_libraries(maps(&begins).as_bytes()) && has_no_libraries(b""));
        let runs = ["/bin/acts", "/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2", "[stack]"];
        assert!(!has_no_libraries(maps(&runs).as_bytes()));
        assert!(!Mark::is_between(std::process::id()) && !Mark::is_between(u32::MAX));
    }
}
