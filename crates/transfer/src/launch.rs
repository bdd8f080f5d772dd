//! Starts and ends the commands of sinks and sources.
//!
//! The server confines itself (`confine.rs`), and what a confined thread starts is confined as well. So commands are started
//! by a thread that is older than the confinement, each within bounds of its own. Each gets a mark in its environment, by which
//! all processes that it has started are found again, also those that have left its process group by setsid(2) or have lost
//! their parent. A process that was executed without the mark (`env -i`), or runs as another user by now, is not found.

mod marked;

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, mpsc};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::confine::confine_writes;
use crate::hash::hex;
use marked::Marked;

/// The variable in a command's environment that marks it, and what it starts.
const MARK: &str = "LINGER_COMMAND";
/// For so long what a command has started is looked for: it may start more meanwhile.
const ENDING: Duration = Duration::from_secs(5);
/// Between two looks, for those that were killed to end.
const PAUSE: Duration = Duration::from_millis(1);

/// Starts commands in a thread of its own; without that thread (`None`), in the calling thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launcher(Option<mpsc::Sender<Order>>);

/// Something to do for the thread.
type Order = Box<dyn FnOnce() + Send>;

/// A command that was started.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    marked: Arc<Marked>,
    launcher: Launcher,
}

impl Launcher {
    /// Starts the thread. Commands that it starts are confined as the calling thread is now.
    pub(crate) fn start() -> Self {
        let (orders, queue) = mpsc::channel::<Order>();
        let started =
            Builder::new().name("commands".into()).spawn(move || queue.into_iter().for_each(|order| order()));
        Self(started.is_ok().then_some(orders))
    }

    /// Runs `work` on the thread, and returns its result.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let Some(orders) = &self.0 else { return Ok(work()) };
        let (told, hears) = mpsc::sync_channel(1);
        let order: Order = Box::new(move || drop(told.send(work())));
        let ended = |_| io::Error::other("the thread that starts commands has ended");
        orders.send(order).map_err(|_| io::Error::other("the thread that starts commands has ended"))?;
        hears.recv().map_err(ended)
    }

    /// Starts a command in a process group of its own. With `writes`, it can write below these directories alone; see
    /// [`confine_writes`].
    pub(crate) fn launch(&self, mut command: Command, writes: Option<Vec<PathBuf>>) -> io::Result<Launched> {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let mark = hex(&random);
        command.env(MARK, &mark).process_group(0);
        let child = self.run(move || spawn(command, writes))??;
        let marked = Marked::new(format!("{MARK}={mark}").into_bytes(), Pid::from_child(&child));
        Ok(Launched { child, marked: Arc::new(marked), launcher: self.clone() })
    }
}

fn spawn(mut command: Command, writes: Option<Vec<PathBuf>>) -> io::Result<Child> {
    let Some(writes) = writes else { return command.spawn() };
    // Landlock confines a thread for good: this one is for one command.
    let confined = Builder::new().name("command".into()).spawn(move || {
        let places: Vec<_> = writes.iter().map(PathBuf::as_path).collect();
        match confine_writes(&places) {
            Some(_) => command.spawn(),
            None => Err(io::Error::other("its bounds cannot be set")),
        }
    })?;
    confined.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has ended")))
}

impl Launched {
    /// Kills the command and all processes that it has started, and reaps it.
    pub(crate) fn end(&mut self) {
        // The command is not reaped yet, so its pid still names its process group.
        if let Ok(None) = self.child.try_wait() {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
        let _ = self.child.wait();
        let (marked, end) = (self.marked.clone(), Instant::now() + ENDING);
        let _ = self.launcher.run(move || {
            while marked.kill() && Instant::now() < end {
                thread::sleep(PAUSE);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;

    use super::*;

    /// Each of the three processes holds the pipe open, so that its end is the end of all of them.
    #[test]
    fn what_has_left_the_group_ends_with_it() {
        let launcher = Launcher::start();
        let mut command = Command::new("sh");
        let script = "setsid sh -c 'echo 1; exec sleep 1000' & (setsid sh -c 'echo 2; exec sleep 1000' &); echo 3; wait";
        command.args(["-c", script]).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut launched = launcher.launch(command, None).unwrap();
        let mut later = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut out = launched.child.stdout.take().unwrap();
        let mut said = [0; 6];
        out.read_exact(&mut said).unwrap();
        launched.end();
        let mut rest = Vec::new();
        assert_eq!(out.read_to_end(&mut rest).unwrap(), 0, "all writers have gone");
        for other in [&mut other, &mut later] {
            assert!(other.try_wait().unwrap().is_none(), "what has no mark stays");
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }

    /// A process has no environment that others can read while it executes another program. Each of these does that all the
    /// time, and says so if it comes to its end.
    #[test]
    fn what_executes_another_program_meanwhile_ends_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("again");
        let text = "#!/bin/sh\n[ $1 = 0 ] && exec echo survived\n[ $1 = 5000 ] && echo begins\nexec \"$0\" $(($1 - 1))\n";
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let launcher = Launcher::start();
        for round in 0..40 {
            let mut command = Command::new("sh");
            let starts = format!("for n in 1 2 3 4; do setsid {} 5000 & done; wait", script.display());
            // The larger the environment, the longer it takes to place it.
            command.envs((0..5000).map(|number| (format!("V{number}"), "")));
            command.args(["-c", &starts]).stdout(Stdio::piped()).stdin(Stdio::null());
            let mut launched = launcher.launch(command, None).unwrap();
            let mut out = launched.child.stdout.take().unwrap();
            let mut said = [0; 4 * 7];
            out.read_exact(&mut said).unwrap();
            launched.end();
            let mut rest = String::new();
            out.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "", "round {round}");
        }
    }

    #[test]
    fn a_command_writes_where_it_may_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (mine, others) = (dir.path().join("mine"), dir.path().join("others"));
        std::fs::create_dir(&mine).unwrap();
        std::fs::create_dir(&others).unwrap();
        if confined_elsewhere() {
            return linger_testing::skip("Landlock", "this kernel has none");
        }
        let launcher = Launcher::start();
        let run = |writes: Option<Vec<PathBuf>>, into: &std::path::Path| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("echo x > {}/file", into.display())]).stderr(Stdio::null());
            launcher.launch(command, writes).unwrap().child.wait().unwrap().success()
        };
        assert!(run(Some(vec![mine.clone()]), &mine));
        assert!(!run(Some(vec![mine.clone()]), &others));
        assert!(run(None, &others), "the bounds of one command are not those of the next");
    }

    /// Whether the kernel does not enforce Landlock; asked in a thread of its own, which is confined for good.
    fn confined_elsewhere() -> bool {
        thread::spawn(|| confine_writes(&[]) != Some(true)).join().unwrap()
    }
}
