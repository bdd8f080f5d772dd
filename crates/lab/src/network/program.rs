//! A host's program while it runs: whether it is ready, what it has printed last, and how it ended.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use linger_netns::Namespace;

use super::plan::{HostPlan, HostProgram, Readiness};
use crate::host_names::HostNames;
use crate::kernel::Interior;
use crate::listening::is_listening;
use crate::lock;
use crate::program::{Program, shell};
use crate::stop::Stop;

/// How much of what a program prints is kept, and how many of its lines are told.
const KEPT: usize = 16 << 10;
const TOLD: usize = 5;
/// Time between two looks: the kernel has no event for a new listener.
const LOOK: Duration = Duration::from_millis(5);

/// The last of what a program has printed.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    /// Text that is looked for, and whether it has come.
    wanted: Option<(Vec<u8>, bool)>,
}

impl Tail {
    fn take(&mut self, bytes: &[u8]) {
        if let Some((wanted, has_come)) = self.wanted.as_mut().filter(|(_, has_come)| !has_come) {
            // The text may have begun in what came before.
            let before = wanted.len().saturating_sub(1).min(self.bytes.len());
            let mut seam: Vec<u8> = self.bytes.range(self.bytes.len() - before..).copied().collect();
            seam.extend_from_slice(bytes);
            *has_come = seam.windows(wanted.len()).any(|window| window == &wanted[..]);
        }
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(KEPT);
        self.bytes.drain(..over);
    }

    /// The last lines, each shown so that no letter of it can do harm to a terminal.
    pub(super) fn lines(&self) -> String {
        let text: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(TOLD)..];
        last.iter().map(|line| line.escape_debug().to_string()).collect::<Vec<_>>().join("\n  ")
    }
}

/// Reads a pipe to its end in a thread of its own. Returns how many bytes came.
pub(super) fn follow(mut pipe: io::PipeReader, tail: Arc<Mutex<Tail>>) -> io::Result<JoinHandle<u64>> {
    std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        let (mut buffer, mut all) = ([0; 16 << 10], 0);
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => return all,
                Ok(count) => {
                    all += count as u64;
                    lock(&tail).take(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return all,
            }
        }
    })
}

/// A program of a host that runs.
#[derive(Debug)]
pub(super) struct Running {
    program: Program,
    tail: Arc<Mutex<Tail>>,
    reader: Option<JoinHandle<u64>>,
    /// Host, place and command, for messages.
    who: String,
}

impl Running {
    /// Starts the program of a host.
    pub(super) fn start(
        host: &HostPlan,
        own: &HostProgram,
        namespace: &Namespace,
        names: &HostNames,
        interior: Interior,
        variables: &[(&'static str, String)],
    ) -> io::Result<Self> {
        let line = own.run.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let shown: String = line.chars().take(60).collect();
        let who = format!("{}: host `{}`, run = `{}`", host.place, host.name, shown.escape_debug());
        let (reader, writer) = io::pipe()?;
        let mut command = shell(&own.run);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let program = Program::start_in(namespace, command, names, interior)
            .map_err(|error| io::Error::new(error.kind(), format!("{who}: cannot be started: {error}")))?;
        let wanted = match &own.ready {
            Readiness::Says(text) => Some((text.clone().into_bytes(), false)),
            Readiness::Listens(_) => None,
        };
        let tail = Arc::new(Mutex::new(Tail { wanted, ..Tail::default() }));
        let reader = Some(follow(reader, tail.clone())?);
        Ok(Self { program, tail, reader, who })
    }

    /// Waits until it is ready, or until the stop is requested.
    pub(super) fn wait_until_ready(
        &self,
        own: &HostProgram,
        namespace: &Namespace,
        stop: &Stop,
    ) -> io::Result<()> {
        let deadline = Instant::now() + own.within;
        loop {
            let is_ready = match own.ready {
                Readiness::Listens(port) => namespace.run(|| is_listening(port))?,
                Readiness::Says(_) => lock(&self.tail).wanted.as_ref().is_some_and(|(_, has_come)| *has_come),
            };
            if is_ready || stop.requested() {
                return Ok(());
            }
            if let Some(status) = self.program.wait(stop, Some(LOOK))? {
                return Err(self.ended(status, "before it was ready"));
            }
            if Instant::now() >= deadline {
                let within = humantime::Duration::from(own.within);
                let what = match &own.ready {
                    Readiness::Listens(None) => "nothing listens there".to_owned(),
                    Readiness::Listens(Some(port)) => format!("nothing listens on port {port} there"),
                    Readiness::Says(text) => format!("it has printed no line with `{}`", text.escape_debug()),
                };
                let told =
                    format!("{what} after {within}; `ready` says what is waited for, and `within` how long");
                return Err(self.told(io::ErrorKind::TimedOut, &told));
            }
        }
    }

    /// An error if it has ended.
    pub(super) fn check(&self, stop: &Stop) -> io::Result<()> {
        match self.program.wait(stop, Some(Duration::ZERO))? {
            Some(status) => Err(self.ended(status, "before the clients were done")),
            None => Ok(()),
        }
    }

    fn ended(&self, status: std::process::ExitStatus, when: &str) -> io::Error {
        let how = match status.code() {
            Some(0) => "it ended (status 0)".to_owned(),
            Some(127) => "the command was not found (status 127)".to_owned(),
            Some(code) if code > 128 => format!("signal {} ended it", code - 128),
            Some(code) => format!("it ended with status {code}"),
            None => "a signal ended it".to_owned(),
        };
        let hint = if status.success() { "; is it to stay in the foreground?" } else { "" };
        self.told(io::ErrorKind::BrokenPipe, &format!("{how} {when}{hint}"))
    }

    fn told(&self, kind: io::ErrorKind, told: &str) -> io::Error {
        let lines = lock(&self.tail).lines();
        let printed = if lines.is_empty() {
            "it printed nothing".to_owned()
        } else {
            format!("it printed last:\n  {lines}")
        };
        io::Error::new(kind, format!("{}: {told}; {printed}", self.who))
    }

    /// Ends it, and waits until it and all that it has started are gone.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.program.end()?;
        // The pipe ends with the last process that could write into it.
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_across_reads_and_only_once_it_is_there() {
        let mut tail = Tail { wanted: Some((b"spawned".to_vec(), false)), ..Tail::default() };
        let has_come = |tail: &Tail| tail.wanted.as_ref().unwrap().1;
        for (bytes, expected) in
            [("spa", false), ("spaw", false), ("n", false), ("ed worker", true), ("x", true)]
        {
            tail.take(bytes.as_bytes());
            assert_eq!(has_come(&tail), expected, "{bytes}");
        }
    }

    #[test]
    fn only_the_last_lines_are_kept_and_none_of_them_reaches_a_terminal_raw() {
        let mut tail = Tail::default();
        for number in 0..10_000 {
            tail.take(format!("line {number}\n").as_bytes());
        }
        assert!(tail.bytes.len() <= KEPT);
        tail.take(b"\x1b[31mred\n");
        let told = tail.lines();
        assert_eq!(told.lines().count(), TOLD);
        assert!(told.ends_with("\\u{1b}[31mred") && told.starts_with("line 9996\n"), "{told}");
    }
}
