//! `linger run`: an unmodified program, every close of an accepted connection a lingering close.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueHint};
use linger::Policy;
use linger_run::{Notice, Options, RunError, RunReport, Via};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::exit;
use crate::lines::{self, line};
use crate::options::{JsonBeside, MetricsAt};
use crate::output::{say, say_json};
use crate::tools::gap_remedy;
use crate::typed::{Bytes, Names, duration, one_of, port};

/// Runs an unmodified program with every close of its accepted connections made a lingering close.
///
/// Nothing in the program, its configuration or the kernel changes. Where possible, the program takes this process's
/// place: pid, signals, terminal and exit status are its own, and a separate process, `linger-run`, ends its
/// connections and outlives it. Otherwise this process stays its parent, and passes everything on. -v says which.
/// SIGUSR1 to `linger-run`, or to the parent, prints a report.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  linger run -- uwsgi --ini app.ini\n  \
    linger run --ports 80,443 --metrics 127.0.0.1:9188 -- nginx -g 'daemon off;'\n\
    before and after: linger probe http://127.0.0.1:8000/\n\n\
    Exit status: the program's own; 2 bad usage, 3 no such command, it cannot be executed, or the\n\
    metrics' address cannot be used; 4 the program or this machine does not allow it.")]
pub(crate) struct RunArguments {
    /// How closes are seen: preload is cheap and for dynamic programs; seccomp is for static ones, too (Go, musl)
    /// [default: what fits the program].
    #[arg(long, value_name = "WAY", value_parser = ways())]
    via: Option<Via>,
    /// Longest silence of a peer before it is given up.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    idle: Duration,
    /// Longest time for one connection's end.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    total: Duration,
    /// How long a peer that has everything may stay silent before it is closed.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "500ms")]
    grace: Duration,
    /// Most bytes of one peer to read and throw away.
    #[arg(long, value_name = "BYTES")]
    max_discard: Option<Bytes>,
    /// Most connections that linger at once; one more evicts another.
    #[arg(long, value_name = "N")]
    sockets: Option<usize>,
    /// How long connections may linger after the program has ended [default: as --total].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    linger_at_exit: Option<Duration>,
    /// Only connections of these local ports.
    #[arg(long, value_name = "PORT,...", value_delimiter = ',', value_parser = port)]
    ports: Vec<u16>,
    /// No connections of these local ports.
    #[arg(long, value_name = "PORT,...", value_delimiter = ',', value_parser = port)]
    exclude_ports: Vec<u16>,
    /// Outgoing TCP connections, too; otherwise they end as the program says.
    #[arg(long)]
    outgoing: bool,
    /// Take connections when they are accepted, so that a killed program loses nothing either.
    #[arg(long)]
    hold: bool,
    /// Stay the program's parent until its last connection has ended, instead of letting it take this process's place.
    #[arg(long)]
    stay: bool,
    /// Where systemd starts a supervisor in a unit of its own, if linger.socket is installed.
    #[arg(long, value_name = "SOCKET", default_value = SOCKET, value_hint = ValueHint::FilePath)]
    lingerd: PathBuf,
    #[command(flatten)]
    counts: MetricsAt,
    #[command(flatten)]
    output: JsonBeside,
    /// No report at the end, and no hold on the program's stderr after its end.
    #[arg(long)]
    quiet: bool,
    /// Write the library that is preloaded to DIR, and end: in an image, /usr/lib/linger is where programs find it that can unpack it
    /// nowhere.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, exclusive = true)]
    unpack: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required_unless_present = "unpack", value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

fn ways() -> Names<Via> {
    const WAYS: [(&str, Via); 2] = [("preload", Via::Preload), ("seccomp", Via::Seccomp)];
    Names::new(WAYS.map(|(name, _)| name), |name| one_of(&WAYS, name))
}

pub(crate) fn run(arguments: RunArguments) -> ExitCode {
    if let Some(directory) = &arguments.unpack {
        return match linger_run::install(directory) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => exit::io(format_args!("run: cannot unpack into {}", directory.display()), &error),
        };
    }
    let metrics = match arguments.counts.metrics.as_ref().map(|address| address.resolve()).transpose() {
        Ok(metrics) => metrics,
        Err(error) => return exit::io("run: cannot find the address of --metrics", &error),
    };
    let manner = Manner { json: arguments.output.json, quiet: arguments.quiet };
    let mut options = options(&arguments, metrics);
    options.manner = manner.to_string();
    let Some((command, rest)) = arguments.command.split_first() else {
        return exit::fail(exit::BAD_USAGE, "run: name a command after `--`");
    };
    tell_of_few_descriptors();
    match linger_run::run(command, rest, &options, |notice| manner.tell(&notice)) {
        Ok(ended) => {
            manner.tell_end(&ended.report);
            // If there is no status, this process is the supervisor, apart from the program and its starter: nobody waits for it.
            let Some(status) = ended.status else { return ExitCode::SUCCESS };
            if let Some(signal) = status.signal() {
                // Die by the same signal as the program: the parent sees the same wait status.
                linger_run::die_of(signal);
            }
            // A process with pid 1, as in a container, does not die of every signal. 128 plus the number is how shells
            // report a signal.
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
        }
        Err(error) => exit::fail(code(&error), format_args!("run: {error}{}", remedy(&error))),
    }
}

/// What follows is rare and hard to find out: connections that do not linger, and are counted as `refused`.
fn tell_of_few_descriptors() {
    if let Some(most) = getrlimit(Resource::Nofile).maximum.filter(|most| *most < linger_run::FEW_DESCRIPTORS)
    {
        say!(
            "linger: run: {most} descriptors at most (the hard limit) are too few for connections to linger, which are closed \
             plainly then: raise it (`ulimit -Hn`, systemd's `LimitNOFILE=`)"
        );
    }
}

fn options(arguments: &RunArguments, metrics: Option<SocketAddr>) -> Options {
    let mut policy = Policy::default();
    policy.idle = arguments.idle;
    policy.total = arguments.total;
    policy.grace = arguments.grace;
    policy.max_discard = arguments.max_discard.map(|Bytes(bytes)| bytes);
    let mut options = Options::default();
    options.policy = policy;
    options.via = arguments.via;
    options.budget.sockets = arguments.sockets.unwrap_or(options.budget.sockets);
    options.linger_at_exit = arguments.linger_at_exit.unwrap_or(arguments.total);
    options.ports.clone_from(&arguments.ports);
    options.exclude_ports.clone_from(&arguments.exclude_ports);
    options.outgoing = arguments.outgoing;
    options.hold = arguments.hold;
    options.lingerd = Some(arguments.lingerd.clone());
    options.stay = arguments.stay;
    options.metrics = metrics;
    options.unpack_into = std::env::var_os("TMPDIR").map(Into::into);
    options.search = std::env::var_os("PATH").unwrap_or(options.search);
    options.sanitizer_options = std::env::var_os("ASAN_OPTIONS").unwrap_or_default();
    options.environment = std::env::vars_os().collect();
    options.preloaded = std::env::var_os("LD_PRELOAD").unwrap_or_default();
    options
}

/// Words the remedy with this program's options.
fn remedy(error: &RunError) -> &'static str {
    match error {
        RunError::NoLoader { .. } => "; leave --via preload out, or give --via seccomp",
        RunError::FileSizeLimit { .. } => {
            ", install the library once without it (`linger run --unpack /usr/lib/linger`), or use --via seccomp, which needs none"
        }
        RunError::CallsForbidden { optional: true, .. } => ", or use --via preload, which does without",
        // EBUSY: another supervisor gets the seccomp notifications of this process, and a process can have only one.
        RunError::SeccompRefused { source, .. }
            if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) =>
        {
            ", or use --via preload for a program that has a loader"
        }
        RunError::Metrics { source, .. } => match exit::address_hint(source) {
            "" => "; choose an address of this host and a free port for --metrics",
            hint => hint,
        },
        RunError::System { source, .. } => exit::machine_hint(source),
        _ => "",
    }
}

fn code(error: &RunError) -> u8 {
    match error {
        RunError::NotFound { .. } | RunError::NotExecutable { .. } | RunError::Metrics { .. } => {
            exit::COULD_NOT_TELL
        }
        RunError::Options(_) => exit::BAD_USAGE,
        _ => exit::NOT_POSSIBLE_HERE,
    }
}

/// How reports are printed, wherever the supervisor runs.
#[derive(Clone, Copy)]
struct Manner {
    json: bool,
    quiet: bool,
}

impl fmt::Display for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.json { "json" } else { "text" })?;
        f.write_str(if self.quiet { " quiet" } else { "" })
    }
}

impl Manner {
    /// Parses the text that `Display` writes.
    fn of(text: &str) -> Self {
        let has = |wanted| text.split(' ').any(|word| word == wanted);
        Self { json: has("json"), quiet: has("quiet") }
    }

    fn tell(self, notice: &Notice<'_>) {
        match notice {
            Notice::Report(report) => self.report(report),
            // With `--quiet` only faults are reported: a listener that is covered is none.
            Notice::Coverage(coverage) if self.quiet && !coverage.has_gaps() => {}
            Notice::Coverage(coverage) if self.json => say_json(&line(lines::Coverage::from(*coverage))),
            Notice::Coverage(coverage) => say_each(&coverage.text(gap_remedy)),
            Notice::Refused(refusal) if self.json => say_json(&line(lines::Refused::from(*refusal))),
            Notice::Refused(refusal) => say!("linger: {refusal}"),
            // Nothing is to follow, and whoever started the program may read its output to the end. With -v something follows.
            Notice::ProgramEnded if self.quiet && !tracing::enabled!(tracing::Level::INFO) => {
                let_go_of_output()
            }
            _ => {}
        }
    }

    fn tell_end(self, report: &RunReport) {
        if !self.quiet {
            self.report(report);
        }
    }

    /// stdout belongs to the supervised program, so reports go to stderr.
    fn report(self, report: &RunReport) {
        if self.json {
            return say_json(&line(lines::Report::from(report)));
        }
        say_each(report);
    }
}

/// Closes what this process has of the program's stdout and stderr.
fn let_go_of_output() {
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        // They stay valid fds in any case.
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn say_each(what: &impl fmt::Display) {
    for text in what.to_string().lines() {
        say!("linger: {text}");
    }
}

/// Where the unit linger.socket listens.
const SOCKET: &str = "/run/linger.sock";

/// Supervises one program of `linger run` for the service manager; its socket is stdin.
///
/// systemd starts it for each program if linger.socket and linger@.service are installed. `linger run` finds it at
/// /run/linger.sock, and the program's unit can be stopped and restarted without waiting for lingering connections.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0 the program and its connections have ended; 3 stdin is not the socket of a\n\
    `linger run`; 4 this machine does not allow it."
)]
pub(crate) struct LingerdArguments {}

pub(crate) fn serve(LingerdArguments {}: LingerdArguments) -> ExitCode {
    let connection = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(connection) => connection,
        Err(error) => return exit::io("lingerd: stdin", &error),
    };
    match linger_run::serve(connection, |manner, notice| Manner::of(manner).tell(&notice)) {
        Ok(served) => {
            if let Some(report) = &served.report {
                Manner::of(&served.manner).tell_end(report);
            }
            ExitCode::SUCCESS
        }
        Err(error) => exit::fail(exit::COULD_NOT_TELL, format_args!("lingerd: {error}")),
    }
}
