//! `linger probe`: does this server lose its responses?

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueHint};
use linger_probe::{
    AskedMethod, Check, CheckAnswer, ConnectRule, HeaderField, ProbeConfig, ProbeError, ProbeReport, Proxy,
    ReloadBy, ReloadSignal, ResolveRule, Target,
};
use linger_untrusted::message;

use crate::lines::{self, line};
use crate::options::{AtRisk, Json};
use crate::output::{Stdout, Stopped, say};
use crate::typed::{Bytes, Names, ServerProcess, server_process, target, up_to};
use crate::{exit, interrupt, progress};
use report::{ProbeEnd, ProbeFiles};

mod last;
mod plan;
mod report;
mod text;

/// Asks a server how it closes: does it lose responses, does it stall, does it bound its peers?
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  linger probe http://127.0.0.1:8080/large\n  \
    linger probe fcgi://127.0.0.1:9000/srv/www/index.php --only unread-body,trailing-bytes\n  \
    linger probe http://unix:/run/app.sock:/path --hostile\n  \
    linger probe https://staging.example/large --junit probe.xml\n  \
    linger probe http://127.0.0.1/large --only reload --reload 'nginx -s reload'\n\n\
    A path with a response of more than 64 KB shows most.\n\
    `loses`: bytes are missing. `at risk`: all arrived, and then the server reset the connection.\n\
    Exit status: 0 nothing lost, 1 a fault was found, 3 could not tell.")]
pub(crate) struct ProbeArguments {
    /// http://, https://, fcgi://HOST:PORT/SCRIPT, tcp://HOST:PORT; in place of the host, unix:/PATH:
    #[arg(value_parser = target, value_hint = ValueHint::Url)]
    target: Target,
    /// Ask only these
    #[arg(long, value_name = "CHECK", value_delimiter = ',', value_parser = checks())]
    only: Vec<Check>,
    /// Do not ask these
    #[arg(long, value_name = "CHECK", value_delimiter = ',', value_parser = checks())]
    except: Vec<Check>,
    /// Ask more than a visitor does: POST, large uploads, held connections. On loopback and on unix sockets it is always so;
    /// elsewhere at most 1 MB each way is spent without it, by GET, one connection at a time
    #[arg(long)]
    active: bool,
    /// Print what would be asked, and what it would cost at most; send nothing
    #[arg(long)]
    dry_run: bool,
    /// Also ask what a hostile client would: drip, endless-upload, backlog
    #[arg(long)]
    hostile: bool,
    /// Allow that against an address that is neither loopback nor private
    #[arg(long)]
    i_own_this_server: bool,
    /// A header of each request; may be given often. Certificates are not checked: no secret over a network that is not
    /// trusted
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    header: Vec<HeaderField>,
    /// The method of each request, for a service that knows no GET
    #[arg(long, value_name = "METHOD")]
    method: Option<AskedMethod>,
    /// Ask in HTTP/2: over TLS by ALPN, without it by prior knowledge
    #[arg(long)]
    http2: bool,
    /// Connect to HOST2:PORT2 in place of HOST1:PORT1, as curl does; empty: any, or the same. The URL's host stays in the request
    /// and in TLS. HOST:PORT alone is for all; may be given often
    #[arg(long, value_name = "HOST1:PORT1:HOST2:PORT2")]
    connect_to: Vec<ConnectRule>,
    /// The addresses of a name, as curl has them; `*` is any name; may be given often
    #[arg(long, value_name = "HOST:PORT:ADDRESS[,ADDRESS]")]
    resolve: Vec<ResolveRule>,
    /// Ask through an HTTP proxy: with CONNECT for https://. How connections end is then the proxy's doing
    #[arg(long, value_name = "http://HOST:PORT")]
    proxy: Option<Proxy>,
    /// The length of the response's body, where the protocol does not tell
    #[arg(long, value_name = "BYTES")]
    expect: Option<Bytes>,
    /// The request to send to a tcp:// target
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    payload: Option<PathBuf>,
    /// A process of the server: shows what the kernel counted in its network namespace, and saw of its resets. With a signal,
    /// as 4711:HUP or 4711:TERM, also asks what becomes of requests while the server reloads, or stops
    #[arg(long, value_name = "PID[:SIGNAL]", value_parser = server_process)]
    pid: Option<ServerProcess>,
    /// Also ask what becomes of requests while the server reloads: by this command, for `sh -c`. All users of the server may
    /// notice
    #[arg(long, value_name = "COMMAND", value_parser = NonEmptyStringValueParser::new())]
    reload: Option<String>,
    /// How often each question is asked; the worst answer counts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// How long the server may be silent, as 30s or 2m; a number alone is seconds
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = up_to(Duration::from_secs(600)))]
    patience: Duration,
    /// How long it may take in all, as 10m; a question that is not answered then is given up
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = up_to(Duration::from_secs(86_400)))]
    within: Duration,
    /// How long a connection is held at most, as 35s or 5m; a number alone is seconds
    #[arg(long, value_name = "TIME", default_value = "35s", value_parser = up_to(Duration::from_secs(600)))]
    hold: Duration,
    /// Also write the answers as one HTML page
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Also write the answers as JUnit XML, each check a test case: for CI
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    junit: Option<PathBuf>,
    /// Also write the answers as SARIF 2.1.0, each check a result
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    sarif: Option<PathBuf>,
    #[command(flatten)]
    at_risk: AtRisk,
    #[command(flatten)]
    output: Json,
}

/// Checks, by name.
fn checks() -> Names<Check> {
    Names::new(Check::ALL.map(Check::name), str::parse)
}

impl ProbeArguments {
    /// How the server is told to reload; `None` if it is not.
    fn reload(&self) -> Result<Option<ReloadBy>, ExitCode> {
        let is_named = self.only.contains(&Check::Reload);
        let signal = self.pid.and_then(|ServerProcess { pid, signal }| {
            // Who asks for this alone, and names a process, has said what it is for.
            let signal = signal.or((is_named && self.reload.is_none()).then_some(ReloadSignal::Hup))?;
            Some(ReloadBy::Signal { pid, signal })
        });
        match (&self.reload, signal) {
            (Some(_), Some(_)) => {
                let text =
                    "--reload and the signal of --pid both tell the server to reload: name one of them";
                Err(exit::fail(exit::BAD_USAGE, text))
            }
            (Some(command), None) => Ok(Some(ReloadBy::Command(command.clone()))),
            (None, None) if is_named => {
                let text = "--only names reload: say how, with --reload COMMAND or --pid PID:SIGNAL";
                Err(exit::fail(exit::BAD_USAGE, text))
            }
            (None, signal) => Ok(signal),
        }
    }

    fn config(&self) -> Result<ProbeConfig, ExitCode> {
        let mut config = ProbeConfig::default();
        config.only = self.only.clone();
        config.hostile = self.hostile || config.only.iter().any(|check| check.is_hostile());
        if config.hostile && !self.hostile {
            return Err(exit::fail(exit::BAD_USAGE, "--only names a hostile check: say --hostile too"));
        }
        config.except = self.except.clone();
        (config.patience, config.within) = (self.patience, self.within);
        // The hostile checks ask more than a visitor does, too.
        config.active = (self.active || config.hostile).then_some(true);
        config.own_server = self.i_own_this_server;
        config.headers = self.header.clone();
        config.method = self.method.clone();
        config.http2 = self.http2;
        config.connect_to = self.connect_to.clone();
        config.resolve = self.resolve.clone();
        config.proxy = self.proxy.clone();
        config.expect = self.expect.map(|Bytes(bytes)| bytes);
        config.pid = self.pid.map(|process| process.pid);
        config.reload = self.reload()?;
        config.repeat = self.repeat;
        config.hold = self.hold;
        let Some(path) = &self.payload else { return Ok(config) };
        match payload(path) {
            Ok(payload) if payload.len() as u64 > MOST_PAYLOAD => {
                let text = format_args!("--payload: {} has more than {MOST_PAYLOAD} bytes", path.display());
                Err(exit::fail(exit::BAD_USAGE, text))
            }
            Ok(payload) if payload.is_empty() => {
                Err(exit::fail(exit::BAD_USAGE, format_args!("--payload: {} is empty", path.display())))
            }
            Ok(payload) => {
                config.payload = payload;
                Ok(config)
            }
            Err(error) => Err(exit::file(format_args!("cannot read {}", path.display()), &error)),
        }
    }
}

/// The longest payload, in bytes: as long as the longest response that is read. A device or a pipe may have no end.
const MOST_PAYLOAD: u64 = linger_probe::defaults::MOST;

/// Reads a file, but no more than one byte beyond [`MOST_PAYLOAD`], which shows that it is too long.
pub(crate) fn payload(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    std::fs::File::open(path)?.take(MOST_PAYLOAD + 1).read_to_end(&mut payload)?;
    Ok(payload)
}

/// Why nothing was asked, with what to do about it.
fn refused(error: ProbeError) -> ExitCode {
    match error {
        ProbeError::NoPayload => {
            exit::fail(exit::BAD_USAGE, format_args!("{error}: name a file with --payload"))
        }
        ProbeError::LongPayload { .. } => {
            exit::fail(exit::BAD_USAGE, format_args!("{error}: if it may be asked more, say --active"))
        }
        ProbeError::NotSafe(_) => {
            exit::fail(exit::BAD_USAGE, format_args!("{error}: if it may be asked, say --active"))
        }
        ProbeError::NotYours(_) => {
            let text = format_args!("{error}: if it is yours, say so with --i-own-this-server");
            exit::fail(exit::BAD_USAGE, text)
        }
        ProbeError::OutOfTime { .. } | ProbeError::Unresolved { .. } => {
            exit::fail(exit::COULD_NOT_TELL, format_args!("{error}; --within gives more"))
        }
        ProbeError::NotHttp(_) | ProbeError::NotThroughProxy { .. } => exit::fail(exit::BAD_USAGE, error),
        error if error.is_http2() => {
            exit::fail(exit::COULD_NOT_TELL, format_args!("{error}; --http2 asks in HTTP/2"))
        }
        ProbeError::Silent { .. } => {
            exit::fail(exit::COULD_NOT_TELL, format_args!("{error}; --patience waits longer"))
        }
        error => exit::fail(exit::COULD_NOT_TELL, error),
    }
}

pub(crate) fn run(arguments: ProbeArguments) -> ExitCode {
    let started = Instant::now();
    let mut config = match arguments.config() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let (json, at_risk_ok) = (arguments.output.json, arguments.at_risk.at_risk_ok);
    let plan = match linger_probe::will_ask(&arguments.target, &config) {
        Ok(plan) => plan,
        Err(error) => return refused(error),
    };
    if arguments.dry_run {
        return plan::print(&plan, json);
    }
    let asked: Vec<Check> = plan.costs.iter().map(|(check, _)| *check).collect();
    // Checked before anything is asked.
    let reports = match ProbeFiles::create(&arguments, asked) {
        Ok(reports) => reports,
        Err(code) => return code,
    };
    plan::say(&plan, config.within);
    // The plan has looked for the host, which may have taken some of the time.
    config.within = config.within.saturating_sub(started.elapsed());
    let bar = progress::spinner();
    bar.set_message(format!("asking {}", arguments.target));
    let told = Arc::new(Mutex::new(Told {
        out: Stdout::new(),
        printed: Ok(()),
        report: None,
        reports: Some(reports),
    }));
    let (so_far, line) = (told.clone(), bar.clone());
    // A check may take half a minute; the answers so far are already printed.
    let ended = interrupt::on_first(move || {
        line.finish_and_clear();
        let mut told = so_far.lock().unwrap_or_else(PoisonError::into_inner);
        told.interrupted(json, at_risk_ok)
    });
    if let Err(error) = ended {
        return exit::io("cannot take signals", &error);
    }
    let report = linger_probe::probe(&arguments.target, &config, |report| {
        bar.suspend(|| told.lock().unwrap_or_else(PoisonError::into_inner).print(report, json));
    });
    bar.finish_and_clear();
    // Held to the end: an interrupt from here on waits for this lock, and so prints and writes nothing twice.
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let reports = told.reports.take();
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            let ended = ProbeEnd::Failed(&error.to_string());
            let written = reports.map_or(Ok(()), |reports| reports.write(ended, exit::COULD_NOT_TELL));
            let code = refused(error);
            return written.map_or_else(|refused| refused.end(), |()| code);
        }
    };
    let overall = report.overall();
    if let Some(why) = &report.unwatched {
        say!("linger: causes and processes are not shown: {why}");
    }
    let printed = std::mem::replace(&mut told.printed, Ok(()));
    let printed = printed.and_then(|()| conclude(&mut told.out, &report, json));
    let status = if has_faults(&report, at_risk_ok) { exit::LOSS_FOUND } else { status(overall, at_risk_ok) };
    let written = reports.map_or(Ok(()), |reports| reports.write(ProbeEnd::Whole(&report), status));
    if let Err(refused) = written {
        let code = refused.end();
        // A file that cannot be written does not hide a fault.
        return if status == exit::LOSS_FOUND { ExitCode::from(status) } else { code };
    }
    match printed {
        Ok(()) => ExitCode::from(status),
        Err(stopped) => stopped.end(Some(status)),
    }
}

/// The report so far, and standard output, on which its answers are printed.
struct Told {
    out: Stdout,
    printed: Result<(), Stopped>,
    report: Option<ProbeReport>,
    reports: Option<ProbeFiles>,
}

impl Told {
    /// Ends the program with what was found so far.
    fn interrupted(&mut self, json: bool, at_risk_ok: bool) -> ! {
        say!("linger: interrupted; the other questions were not asked");
        let report = self.report.take();
        if let Some(report) = report.as_ref().filter(|_| json && self.printed.is_ok()) {
            // An error is ignored: stderr says already that questions are missing, and the status does not depend on it.
            let _ = summary(&mut self.out, report, true);
        }
        let found = report.as_ref().is_some_and(|report| has_faults(report, at_risk_ok));
        let status = if found { exit::LOSS_FOUND } else { exit::COULD_NOT_TELL };
        if let Some(reports) = self.reports.take()
            && let Err(refused) = reports.write(ProbeEnd::Interrupted(report.as_ref()), status)
        {
            refused.end();
        }
        std::process::exit(i32::from(status))
    }

    /// Prints the last answer of a report.
    fn print(&mut self, report: &ProbeReport, json: bool) {
        let head = !json && self.report.is_none();
        self.report = Some(report.clone());
        if let (Ok(()), Some(finding)) = (&self.printed, report.findings.last()) {
            let heading = if head { text::heading(&mut self.out, report) } else { Ok(()) };
            self.printed = heading.and_then(|()| text::print(&mut self.out, finding, json));
        }
    }
}

/// Whether any answer is a fault. A risk that is accepted is none, and does not hide a fault.
fn has_faults(report: &ProbeReport, at_risk_ok: bool) -> bool {
    report.counting().any(|finding| status(finding.answer, at_risk_ok) == exit::LOSS_FOUND)
}

fn summary(out: &mut Stdout, report: &ProbeReport, interrupted: bool) -> Result<(), Stopped> {
    out.json(&line(lines::Probe::new(report, last::sentences(report), interrupted)))?;
    out.flush()
}

fn conclude(out: &mut Stdout, report: &ProbeReport, json: bool) -> Result<(), Stopped> {
    if json {
        return summary(out, report, false);
    }
    let server = report.server.as_ref().map(|server| server.terminal().to_string());
    let server = match &report.proxy {
        Some(proxy) => format!("the proxy {}", message(proxy)),
        None => server.unwrap_or("this server".to_owned()),
    };
    let overall = report.overall();
    out.text(format_args!("\n{server}: {}{overall}{:#}\n", text::style(overall), text::style(overall)))?;
    for sentence in last::sentences(report) {
        out.text(format_args!("{}\n", textwrap::fill(&message(&sentence), 100)))?;
    }
    out.flush()
}

fn status(answer: CheckAnswer, at_risk_ok: bool) -> u8 {
    match answer {
        CheckAnswer::AtRisk if at_risk_ok => exit::NOTHING_LOST,
        CheckAnswer::Keeps => exit::NOTHING_LOST,
        CheckAnswer::CannotTell => exit::COULD_NOT_TELL,
        _ => exit::LOSS_FOUND,
    }
}
