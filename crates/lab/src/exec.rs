//! Runs any two programs at the two ends of an emulated link.

use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linger_netns::{Counters, Namespace};

use crate::bed::{Bed, BedOptions, IpVersion};
use crate::capture::Capture;
use crate::link::Link;
use crate::program::{Program, shell};
use crate::stop::Stop;
use crate::wire::WireReport;

/// Two commands and the link between them.
#[derive(Clone, Debug)]
pub struct ExecPlan {
    /// The link between them.
    pub link: Link,
    /// The server's command, for `sh -c`.
    pub server: String,
    /// The client's command, for `sh -c`.
    pub client: String,
    /// The IP version of the addresses in the environment.
    pub ip: IpVersion,
    /// Seed of the link's random decisions.
    pub seed: u64,
    /// Longest wait until a socket in the server's namespace listens; `None` for no wait.
    pub ready: Option<Duration>,
    /// Records what crosses the link.
    pub capture: Option<Arc<Mutex<Capture>>>,
}

/// The result of both programs.
#[derive(Debug)]
pub struct ExecReport {
    /// The client's exit status; `None` if the run was stopped before.
    pub client: Option<ExitStatus>,
    /// The kernel's counters of the server's namespace.
    pub server_counters: Counters,
    /// The kernel's counters of the client's namespace.
    pub client_counters: Counters,
    /// What the link carried; none for loopback.
    pub wire: Option<WireReport>,
}

/// Starts the server, waits until it listens if [`ExecPlan::ready`] says so, runs the client to its end, and ends the
/// server with SIGTERM.
///
/// Both commands find the addresses in `LINGER_SERVER` and `LINGER_CLIENT` and by the names `server` and `client`, and have the standard streams of this program.
///
/// # Errors
/// Returns an error if the bed cannot be built or a command cannot be started, `TimedOut` if the server does not listen
/// in time, and `BrokenPipe` if the server ended before it listened.
pub fn exec(plan: &ExecPlan, stop: &Stop) -> io::Result<ExecReport> {
    let options =
        BedOptions { ip: plan.ip, seed: plan.seed, capture: plan.capture.clone(), ..BedOptions::default() };
    let bed = Bed::new(&plan.link, options)?;
    let names = bed.names();
    let server = Program::start(&bed.server, shell(&plan.server), &names)?;
    if let Some(ready) = plan.ready {
        wait_until_listening(&server, &bed.server, ready, stop)?;
    }
    let client = Program::start(&bed.client, shell(&plan.client), &names)?;
    let client_status = client.wait(stop, None)?;
    client.end()?;
    server.end()?;
    let server_counters = bed.server.run(Counters::read)??;
    let client_counters = bed.client.run(Counters::read)??;
    Ok(ExecReport { client: client_status, server_counters, client_counters, wire: bed.stop()? })
}

/// Waits until any TCP socket of the server's namespace listens, or until the stop is requested.
fn wait_until_listening(
    server: &Program,
    namespace: &Namespace,
    ready: Duration,
    stop: &Stop,
) -> io::Result<()> {
    let deadline = Instant::now() + ready;
    // The kernel has no event for a new listener, so this polls.
    while !namespace.run(|| is_listening(None))? && !stop.requested() {
        if server.wait(stop, Some(Duration::from_millis(5)))?.is_some() {
            let told = "the server command ended before anything listened in its namespace";
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, told));
        }
        if Instant::now() >= deadline {
            let told = format!(
                "nothing listens in the server's namespace after {} s; is it to listen on $LINGER_SERVER?",
                ready.as_secs()
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, told));
        }
    }
    Ok(())
}

/// Whether a TCP socket of the calling thread's namespace listens (state 0A in `proc_net_tcp`), on this port if one is named.
pub(crate) fn is_listening(port: Option<u16>) -> bool {
    let wanted = port.map(|port| format!(":{port:04X}"));
    ["tcp", "tcp6"].into_iter().any(|file| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state) = (words.next().unwrap_or_default(), words.nth(1));
            state == Some("0A") && wanted.as_ref().is_none_or(|port| local.ends_with(&**port))
        })
    })
}
