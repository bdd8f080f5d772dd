//! What shows that a process has the preloaded library of this program.

use std::collections::HashSet;
use std::fs;

use linger_preload::protocol::VARIABLE;

/// The trace of the library in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The name that the memory maps of every process with the library contain.
    pub(crate) maps: String,
    /// What LD_PRELOAD contains in the environment of every program that is to load it.
    pub(crate) preloaded: String,
    /// If the library is one file for all programs: the prefix of [`VARIABLE`] that only this program's processes have.
    pub(crate) owner: Option<String>,
}

/// What a process shows of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// The process has it, or is about to load it: its `execve` has just been.
    Has,
    HasNot,
    /// Its `execve` is under way, and it has no environment yet. That lasts a moment.
    NotYet,
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
        self.is_mapped(process) == Some(true) && !self.is_anothers(&environment(process))
    }

    /// As [`may_be_on`](Self::may_be_on), and told apart from a process that is about to load the library: until its loader has
    /// done so it has nothing mapped but itself and the loader, and only its environment says what is to come.
    ///
    /// Of a process that this one may not look at, [`Sight::HasNot`].
    pub(crate) fn look(&self, process: u32) -> Sight {
        // Read once: a second look may find another program.
        let Ok(maps) = fs::read(format!("/proc/{process}/maps")) else { return Sight::HasNot };
        let is_mapped = contains(&maps, self.maps.as_bytes());
        // A process that ends, or one of the kernel's, has no executable.
        let executes = || fs::read_link(format!("/proc/{process}/exe")).is_ok();
        let may_load = is_mapped || (has_no_libraries(&maps) && executes());
        if !may_load {
            return Sight::HasNot;
        }
        let environment = environment(process);
        if self.is_anothers(&environment) {
            return Sight::HasNot;
        }
        if is_mapped || contains(&environment, self.preloaded.as_bytes()) {
            return Sight::Has;
        }
        // The kernel gives a process its arguments and its environment at once (`create_elf_tables`).
        let has_arguments =
            fs::read(format!("/proc/{process}/cmdline")).map_or(true, |line| !line.is_empty());
        if environment.is_empty() && !has_arguments { Sight::NotYet } else { Sight::HasNot }
    }

    fn is_anothers(&self, environment: &[u8]) -> bool {
        let is_anothers =
            |owner: &String| owner_in(environment).is_some_and(|value| !value.starts_with(owner.as_bytes()));
        self.owner.as_ref().is_some_and(is_anothers)
    }
}

/// Empty of a process that does not let itself be looked at, too.
fn environment(process: u32) -> Vec<u8> {
    fs::read(format!("/proc/{process}/environ")).unwrap_or_default()
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
    !part.is_empty() && all.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};
    use std::thread;

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
        let mark = Mark { maps: own, preloaded: "no such".to_owned(), owner };
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

    /// A loader that waits for its program, a FIFO, with nothing mapped but itself.
    struct Loading {
        process: Child,
        _fifo: tempfile::TempDir,
    }

    impl Loading {
        fn begin(environment: &[(&str, &str)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let fifo = directory.path().join("fifo");
            assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
            let mut command = Command::new(loader());
            command.arg(fifo).env_clear().envs(environment.iter().copied());
            Self { process: command.spawn().unwrap(), _fifo: directory }
        }
    }

    impl Drop for Loading {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    /// The loader of this process, as its own maps name it.
    fn loader() -> String {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut paths = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
        paths
            .find(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with("ld-")))
            .unwrap()
            .to_owned()
    }

    #[test]
    fn a_process_that_is_about_to_load_the_library_has_it() {
        let mark = |owner: Option<&str>| Mark {
            maps: "/a/linger-x".to_owned(),
            preloaded: "/a/linger-x/library.so".to_owned(),
            owner: owner.map(str::to_owned),
        };
        let ours = [("LD_PRELOAD", "/b.so:/a/linger-x/library.so"), (VARIABLE, "name=ab;token=1")];
        for (environment, owner, expected) in [
            (&ours[..], None, Sight::Has),
            (&ours[..1], None, Sight::Has),
            (&[("LD_PRELOAD", "/a/linger-y/library.so"), ours[1]], None, Sight::HasNot),
            (&[("A", "b")], None, Sight::HasNot),
            // A cleared environment, but there are arguments: `execve` is over.
            (&[], None, Sight::HasNot),
            (&ours, Some("name=ab;"), Sight::Has),
            (&ours, Some("name=abc;"), Sight::HasNot),
        ] {
            let loading = Loading::begin(environment);
            let mark = mark(owner);
            // Its `execve` may still be under way.
            let sight = loop {
                match mark.look(loading.process.id()) {
                    Sight::NotYet => thread::yield_now(),
                    sight => break sight,
                }
            };
            assert_eq!(sight, expected, "{environment:?} {owner:?}");
        }
    }

    #[test]
    fn who_has_libraries_is_about_to_load_nothing() {
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", "echo; read line"]).env("THESE", "/a/library.so");
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        shell.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let mark = Mark { maps: "/a".to_owned(), preloaded: "/a/library.so".to_owned(), owner: None };
        assert_eq!(mark.look(shell.id()), Sight::HasNot);
        // Ended, and not waited for: it has no memory any more.
        drop(shell.stdin.take());
        let pid = rustix::process::Pid::from_child(&shell);
        rustix::process::waitid(
            rustix::process::WaitId::Pid(pid),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert_eq!(mark.look(shell.id()), Sight::HasNot);
        shell.wait().unwrap();
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
