//! Runs any two programs at the two ends of an emulated link.

use std::io;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linger_netns::{Counters, Namespace};

use crate::bed::{Bed, BedOptions};
use crate::host_names::HostNames;
use crate::ip_version::IpVersion;
use crate::kernel::{Interior, NewUser};
use crate::link::Link;
use crate::link::capture::Capture;
use crate::link::wire::WireReport;
use crate::listening::is_listening;
use crate::network::{HostReport, LiveNetwork, NetworkPlan, NetworkSetting};
use crate::program::{Program, hosts_file, shell};
use crate::program_user::ProgramUser;
use crate::stop::Stop;

/// Two commands and the link between them.
#[derive(Clone, Debug)]
pub struct ExecPlan {
    /// The link between them.
    pub link: Link,
    /// The server's command, for `sh -c`.
    pub server: String,
    /// The client's command, for `sh -c`.
    pub client: String,
    /// How many clients run at a time, and as whom both commands run.
    pub guests: Guests,
    /// The IP version of the addresses in the environment.
    pub ip: IpVersion,
    /// Seed of the link's random decisions.
    pub seed: u64,
    /// Longest wait until a socket in the server's namespace listens; `None` for no wait.
    pub ready: Option<Duration>,
    /// Records what crosses the link.
    pub capture: Option<Arc<Mutex<Capture>>>,
}

/// The clients of a network, and as whom they run.
#[derive(Clone, Copy, Debug)]
pub struct Guests {
    /// How many run at the same time.
    pub count: usize,
    /// As whom; none for this process's own user.
    pub user: Option<ProgramUser>,
}

impl Default for Guests {
    fn default() -> Self {
        Self { count: 1, user: None }
    }
}

/// The result of both programs.
#[derive(Debug)]
pub struct ExecReport {
    /// The client's exit status, of several the first that is not 0; `None` if the run was stopped before.
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
    let server = start(&bed.server, shell(&plan.server), &names, plan.guests.user)?;
    if let Some(ready) = plan.ready {
        wait_until_listening(&server, &bed.server, ready, stop)?;
    }
    let client_status = run_guests(&bed.client, || shell(&plan.client), &names, plan.guests, stop)?;
    server.end()?;
    let server_counters = bed.server.run(Counters::read)??;
    let client_counters = bed.client.run(Counters::read)??;
    Ok(ExecReport { client: client_status, server_counters, client_counters, wire: bed.stop()? })
}

/// Builds the hosts of a plan, starts their programs, runs a command at the clients' host, and ends it all. The plan's own clients do not run.
///
/// The command has the standard streams of this program, and finds the hosts by their names.
///
/// # Errors
/// Returns the errors of [`LiveNetwork::build`] and [`LiveNetwork::start`], and those of starting the command.
pub fn exec_in(
    plan: &NetworkPlan,
    command: impl Fn() -> Command,
    guests: Guests,
    stop: &Stop,
) -> io::Result<(Option<ExitStatus>, Vec<HostReport>, Vec<WireReport>)> {
    let mut stage = LiveNetwork::build(plan, &NetworkSetting::default())?;
    stage.start(stop)?;
    let host = stage.hosts[plan.client.host].clone();
    let status = run_guests(&host, command, &stage.names, guests, stop)?;
    stage.check(stop)?;
    let (counters, wires) = stage.end()?;
    let hosts = plan.hosts.iter().zip(counters);
    let hosts = hosts.map(|(host, counters)| HostReport { name: host.name.clone(), counters }).collect();
    Ok((status, hosts, wires))
}

fn start(
    namespace: &Namespace,
    command: Command,
    names: &HostNames,
    user: Option<ProgramUser>,
) -> io::Result<Program> {
    let interior =
        Interior { names: Some(hosts_file(names)), user: user.map(NewUser::new), ..Interior::default() };
    Program::start_in(namespace, command, names, interior)
}

/// Runs the clients to their end. Returns the first status that is not 0, if there is one; `None` if they were stopped.
fn run_guests(
    namespace: &Namespace,
    command: impl Fn() -> Command,
    names: &HostNames,
    guests: Guests,
    stop: &Stop,
) -> io::Result<Option<ExitStatus>> {
    let mut running = Vec::new();
    for number in 1..=guests.count {
        let mut command = command();
        command.env("LINGER_REQUEST", number.to_string());
        running.push(start(namespace, command, names, guests.user)?);
    }
    let mut told: Option<ExitStatus> = None;
    for guest in &running {
        // Who is stopped has no status.
        let Some(status) = guest.wait(stop, None)? else {
            told = None;
            break;
        };
        if told.is_none_or(|earlier| earlier.success()) {
            told = Some(status);
        }
    }
    running.iter().try_for_each(Program::end)?;
    Ok(told)
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
