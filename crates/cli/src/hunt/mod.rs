//! `linger hunt`: is there anything that a client can do, with which this server loses its response?

mod ci;
mod files;
mod packets;
mod text;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueHint};
use files::HuntFiles;
use linger_hunt::html::Replayed;
use linger_hunt::{
    HuntError, HuntPlan, HuntProgress, HuntReport, Quarry, SearchEnd, Story, StoryFile, hunt, replay,
};
use linger_lab::{Link, Named, Stop};
use linger_netns::Isolation;
use linger_probe::Target;
use linger_untrusted::message;
use packets::Packets;

use crate::lab::again;
use crate::lines::{self, line};
use crate::options::{AtRisk, Chance, Family, Json};
use crate::output::{NewFile, Stdout, Stopped, say};
use crate::typed::{Bytes, duration, links, positive, target, up_to};
use crate::{exit, interrupt, progress};

/// Searches what a client may do for a schedule with which a server loses its response, and shrinks it.
///
/// Random requests, pauses, late bytes and slow readings, hundreds of connections at a time; what is lost is
/// repeated, made as short as it can be, and told with its boundaries. The command is started in a private network
/// and stays in the foreground; it finds its address in LINGER_SERVER. A server that is running already is given as
/// a URL.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  linger hunt --path /large -- python3 -m http.server --directory /srv/www\n  \
    linger hunt --link loopback,wifi --time 10m --save story.toml -- nginx -c /etc/nginx/test.conf\n  \
    linger hunt --replay story.toml -- nginx -c /etc/nginx/test.conf\n  \
    linger hunt --html hunt.html --junit hunt.xml --path /large -- ./server\n  \
    linger hunt http://127.0.0.1:8080/large\n\n\
    A path with a response of more than 64 KB shows most.\n\
    Exit status: 0 nothing lost, 1 a response was lost or at risk, 3 could not tell (the server does not\n\
    start or answer, or has ended; interrupted), 4 if this machine has no namespaces."
)]
pub(crate) struct HuntArguments {
    /// A server that is running already: http://HOST:PORT/PATH
    #[arg(value_parser = target, value_hint = ValueHint::Url, conflicts_with_all = ["command", "link", "path", "port", "ready", "ipv6"])]
    url: Option<Target>,
    /// The server's command
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments, required_unless_present = "url")]
    command: Vec<OsString>,
    /// The networks, each with a server of its own [default: loopback]
    #[arg(long, value_delimiter = ',', value_parser = links())]
    link: Vec<Link>,
    /// What the requests ask for
    #[arg(long, default_value = "/", value_parser = path)]
    path: String,
    /// The server's port [default: the first that answers as HTTP]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// How long to search; what is found is shrunk in the rest of it, or in one to four minutes
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = up_to(Duration::from_secs(86_400)))]
    time: Duration,
    /// How long a client pauses in all at most
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = pause)]
    longest_pause: Duration,
    /// The most connections at a time; fewer if the server does not answer as many
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=4_000))]
    connections: u64,
    /// The length of the response's body, where the server does not tell
    #[arg(long, value_name = "BYTES")]
    expect: Option<Bytes>,
    /// Send this file as each request, instead of HTTP; the response ends with the connection
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    payload: Option<PathBuf>,
    /// How long the server may take to answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive)]
    ready: Duration,
    /// Write the story that was found to this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    save: Option<PathBuf>,
    /// Write the story's packets, captured at both ends of its link (of `lan` in the place of loopback), to this file, pcapng
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "url")]
    pcap: Option<PathBuf>,
    /// Write the report as one self-contained page as well
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Write the report as JUnit XML as well, a test case for each decade of pauses: for CI
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    junit: Option<PathBuf>,
    /// Repeat the story of this file instead of searching
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["save", "path", "port", "link", "time", "longest_pause"])]
    replay: Option<PathBuf>,
    /// How often a story is repeated
    #[arg(long, value_name = "N", default_value_t = 10, requires = "replay", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    times: u64,
    /// Allow a URL whose server is not on this machine
    #[arg(long, requires = "url")]
    i_own_this_server: bool,
    #[command(flatten)]
    family: Family,
    #[command(flatten)]
    chance: Chance,
    #[command(flatten)]
    at_risk: AtRisk,
    #[command(flatten)]
    output: Json,
}

fn path(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("it begins with /");
    }
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err("spaces and control characters are written as %20 and the like");
    }
    Ok(text.to_owned())
}

fn pause(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let shortest = Duration::from_millis(linger_hunt::generate::SHORTEST_PAUSE_MS);
    if (shortest..=linger_hunt::LONGEST_PAUSE).contains(&time) {
        Ok(time)
    } else {
        Err("it must be 5ms to 1h".to_owned())
    }
}

impl HuntArguments {
    fn plan(
        &self,
        seed: u64,
        file: Option<&StoryFile>,
        payload: Option<Vec<u8>>,
    ) -> Result<HuntPlan, String> {
        let quarry = match &self.url {
            Some(target) => {
                let mut target = target.clone();
                if let Some(file) = file {
                    target.path.clone_from(&file.path);
                }
                Quarry::Running { target, is_own: self.i_own_this_server }
            }
            None => {
                let named = file.and_then(|file| file.link.as_deref()).unwrap_or("loopback");
                let mut links =
                    if self.link.is_empty() { vec![Link::named(named)?] } else { self.link.clone() };
                // The simplest first: a story that needs no other is told over it.
                let rank = |link: &Link| linger_lab::PRESETS.iter().position(|name| *name == link.name);
                links.sort_by_key(rank);
                links.dedup_by(|a, b| a.name == b.name);
                Quarry::Command {
                    words: self.command.clone(),
                    links,
                    ip: self.family.version(),
                    port: self.port.or(file.and_then(|file| file.port)),
                    path: file.map_or_else(|| self.path.clone(), |file| file.path.clone()),
                    ready: self.ready,
                }
            }
        };
        let mut plan = HuntPlan::new(quarry, seed);
        (plan.time, plan.longest_pause) = (self.time, self.longest_pause);
        plan.connections = usize::try_from(self.connections).unwrap_or(usize::MAX);
        plan.expect = self.expect.map(|Bytes(bytes)| bytes);
        plan.payload = payload;
        Ok(plan)
    }
}

pub(crate) fn run(arguments: HuntArguments) -> ExitCode {
    // Before the first thread: unshare(CLONE_NEWUSER) refuses a process with several (unshare(2)).
    if arguments.url.is_none()
        && let Err(refused) = Isolation::prepare().enter()
    {
        return exit::fail(exit::NOT_POSSIBLE_HERE, refused);
    }
    let file = match arguments.replay.as_deref().map(read).transpose() {
        Ok(file) => file,
        Err(status) => return status,
    };
    let payload = match arguments.payload.as_deref().map(payload).transpose() {
        Ok(payload) => payload,
        Err(status) => return status,
    };
    let seed = arguments.chance.seed();
    let plan = match arguments.plan(seed, file.as_ref(), payload) {
        Ok(plan) => plan,
        Err(error) => return exit::fail(exit::BAD_USAGE, error),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    match file {
        Some(file) => run_again(&arguments, &plan, &file, &stop),
        None => search(&arguments, &plan, &stop),
    }
}

fn read(path: &Path) -> Result<StoryFile, ExitCode> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| exit::file(format_args!("cannot read {}", path.display()), &error))?;
    StoryFile::parse(&text)
        .map_err(|error| exit::fail(exit::BAD_USAGE, format_args!("{}: {error}", path.display())))
}

/// Reads what is sent as each request.
fn payload(path: &Path) -> Result<Vec<u8>, ExitCode> {
    match crate::probe::payload(path) {
        Ok(payload) if payload.is_empty() => {
            Err(exit::fail(exit::BAD_USAGE, format_args!("--payload: {} is empty", path.display())))
        }
        Ok(payload) => Ok(payload),
        Err(error) => Err(exit::file(format_args!("cannot read {}", path.display()), &error)),
    }
}

fn refused(error: &HuntError) -> ExitCode {
    match error {
        HuntError::Machine { what, source } => exit::io(what, source),
        HuntError::NotYours { .. } => {
            let text = format_args!("{error}: if it is yours, say so with --i-own-this-server");
            exit::fail(exit::BAD_USAGE, text)
        }
        HuntError::Target { .. } => exit::fail(exit::BAD_USAGE, error),
        _ => exit::fail(exit::COULD_NOT_TELL, error),
    }
}

/// The packets of a story whose server this program has started; `None` for another. That there are none is said, and changes
/// nothing else.
fn packets(
    plan: &HuntPlan,
    story: &Story,
    pcap: Option<NewFile>,
    stop: &Stop,
) -> Option<Result<Packets, String>> {
    if !matches!(plan.quarry, Quarry::Command { .. }) {
        return None;
    }
    let packets = if stop.requested() {
        Err("interrupted before they were captured".to_owned())
    } else {
        let bar = progress::spinner();
        bar.set_message("lost; capturing its packets");
        let packets = packets::packets(plan, story, pcap, stop);
        bar.finish_and_clear();
        packets
    };
    Some(packets.inspect_err(|why| say!("linger: no packets of the story: {}", message(why))))
}

fn search(arguments: &HuntArguments, plan: &HuntPlan, stop: &Stop) -> ExitCode {
    let again = again(plan.seed);
    let mut files = match HuntFiles::begin(arguments, plan, again.clone()) {
        Ok(files) => files,
        Err(status) => return status,
    };
    let bar = progress::spinner();
    let mut told = |progress: HuntProgress| match progress {
        HuntProgress::Searching(schedules) => bar.set_message(format!("{schedules} schedules")),
        HuntProgress::Repeating => bar.set_message("lost; does it repeat?"),
        HuntProgress::Shrinking(trials) => bar.set_message(format!("lost; shrinking it, {trials} trials")),
        _ => {}
    };
    let report = hunt(plan, stop, &mut told);
    bar.finish_and_clear();
    let report = match report {
        Ok(report) => report,
        Err(error) => return not_begun(files, &error),
    };
    let packets =
        report.found.as_ref().and_then(|found| packets(plan, &found.story, files.take_pcap(), stop));
    if let Some(found) = &report.found {
        files.write_story(|| text::file(&found.story, plan, arguments.port));
    }
    let at_risk_ok = arguments.at_risk.at_risk_ok;
    let status = status(&report, at_risk_ok);
    files.write_report(&report, packets.as_ref(), plan, status, at_risk_ok);
    let packets = packets.as_ref().and_then(|packets| packets.as_ref().ok());
    let mut out = Stdout::new();
    let printed = if arguments.output.json {
        out.json(&line(lines::Hunt::new(&report, packets.map(Packets::told), plan, again)))
    } else {
        text::report(&mut out, &report, packets, &again)
    };
    end(printed.and_then(|()| out.flush()), files.end(packets, status))
}

/// A hunt that could not begin is a report for CI, too.
fn not_begun(mut files: HuntFiles, error: &HuntError) -> ExitCode {
    files.write_failure(&error.to_string());
    let status = refused(error);
    files.end(None, exit::COULD_NOT_TELL);
    status
}

fn end(printed: Result<(), Stopped>, status: u8) -> ExitCode {
    match printed {
        Ok(()) => ExitCode::from(status),
        Err(stopped) => stopped.end(Some(status)),
    }
}

/// What was found counts however the hunt ended.
fn status(report: &HuntReport, at_risk_ok: bool) -> u8 {
    let at_risk = report.at_risk.is_some() && !at_risk_ok;
    if report.found.is_some() || !report.unrepeated.is_empty() || at_risk {
        exit::LOSS_FOUND
    } else if report.ended == SearchEnd::Time {
        exit::NOTHING_LOST
    } else {
        exit::COULD_NOT_TELL
    }
}

fn run_again(arguments: &HuntArguments, plan: &HuntPlan, file: &StoryFile, stop: &Stop) -> ExitCode {
    let mut files = match HuntFiles::begin(arguments, plan, again(plan.seed)) {
        Ok(files) => files,
        Err(status) => return status,
    };
    let mut story: Story = file.story();
    if arguments.url.is_some() {
        story.link = None;
    } else if story.link.is_none() {
        story.link = Some("loopback".to_owned());
    }
    let (repeats, lost, _) = match replay(plan, &story, arguments.times, stop) {
        Ok(repeated) => repeated,
        Err(error) => return not_begun(files, &error),
    };
    let replayed = Replayed::new(&story, repeats, arguments.times, lost.as_ref());
    if let Some(so_far) = replayed.interrupted() {
        say!("linger: {so_far}");
    }
    let packets = lost.as_ref().and_then(|_| packets(plan, &story, files.take_pcap(), stop));
    let at_risk_ok = arguments.at_risk.at_risk_ok;
    let status = if repeats.lost > 0 || (repeats.at_risk > 0 && !at_risk_ok) {
        exit::LOSS_FOUND
    } else if repeats.judged < arguments.times {
        exit::COULD_NOT_TELL
    } else {
        exit::NOTHING_LOST
    };
    files.write_replay(&replayed, packets.as_ref(), status, at_risk_ok);
    let packets = packets.as_ref().and_then(|packets| packets.as_ref().ok());
    let mut out = Stdout::new();
    let printed = if arguments.output.json {
        out.json(&line(lines::Replay::new(&replayed, packets.map(Packets::told), plan)))
    } else {
        text::repeated(&mut out, &replayed, packets)
    };
    end(printed.and_then(|()| out.flush()), files.end(packets, status))
}
