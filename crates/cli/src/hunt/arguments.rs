//! What is typed behind `linger hunt`, and the plan that it means.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use linger_hunt::{ExpectedOutput, HuntPlan, HuntedClient, MOST_BYTES, Player, Quarry, StoryFile};
use linger_lab::{Link, Named};
use linger_probe::Target;

use crate::options::{AtRisk, Chance, Family, Json};
use crate::typed::{Bytes, duration, links, positive, target, up_to};

/// The most connections to a server that is hunted, and the most clients, where the user does not say: a client is a process.
const CONNECTIONS: u64 = 256;
const CLIENTS: u64 = 32;
/// The port of a server without one.
const HTTP: u16 = 80;

/// Searches what a client may do for a schedule with which a server loses its response, and shrinks it.
///
/// Random requests, pauses, late bytes and slow readings, hundreds of connections at a time; what is lost is
/// repeated, made as short as it can be, and told with its boundaries. The command is started in a private network
/// and stays in the foreground; it finds its address in LINGER_SERVER. A server that is running already is given as
/// a URL. With --client a client is hunted instead, by random servers.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  linger hunt --path /large -- python3 -m http.server --directory /srv/www\n  \
    linger hunt --link loopback,wifi --time 10m --save story.toml -- nginx -c /etc/nginx/test.conf\n  \
    linger hunt --replay story.toml -- nginx -c /etc/nginx/test.conf\n  \
    linger hunt --html hunt.html --junit hunt.xml --path /large -- ./server\n  \
    linger hunt http://127.0.0.1:8080/large\n  \
    linger hunt --client 'curl -sSf -T $LINGER_UPLOAD http://server/'\n\n\
    A path with a response of more than 64 KB shows most.\n\
    Exit status: 0 nothing lost, 1 a response was lost or at risk, 3 could not tell (the server does not\n\
    start or answer, or has ended; interrupted), 4 if this machine has no namespaces."
)]
pub(crate) struct HuntArguments {
    /// A server that is running already: http://HOST:PORT/PATH
    #[arg(value_parser = target, value_hint = ValueHint::Url, conflicts_with_all = ["client", "command", "link", "path", "port", "ready", "ipv6"])]
    pub(super) url: Option<Target>,
    /// The server's command
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments, required_unless_present_any = ["url", "client"])]
    pub(super) command: Vec<OsString>,
    /// Hunt a client instead, started anew for each trial: CMD for the shell, as an upload to http://server/
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString, conflicts_with_all = ["command", "path"])]
    pub(super) client: Option<String>,
    /// The size of the file whose name the client finds in LINGER_UPLOAD [default: 1M]
    #[arg(long, value_name = "BYTES", value_parser = upload)]
    pub(super) upload: Option<u64>,
    /// The status of the responses that the client gets [default: 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(200..=599))]
    pub(super) status: Option<u16>,
    /// The networks, each with a server of its own [default: loopback; with --client lan]
    #[arg(long, value_delimiter = ',', value_parser = links())]
    pub(super) link: Vec<Link>,
    /// What the requests ask for
    #[arg(long, default_value = "/", value_parser = path)]
    pub(super) path: String,
    /// The server's port [default: the first that answers as HTTP; with --client 80]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: Option<u16>,
    /// How long to search; what is found is shrunk in the rest of it, or in one to four minutes
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = up_to(Duration::from_secs(86_400)))]
    pub(super) time: Duration,
    /// How long a client pauses in all at most
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = pause)]
    pub(super) longest_pause: Duration,
    /// The most connections, or clients, at a time; fewer if that is too much [default: 256; with --client 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4_000))]
    pub(super) connections: Option<u64>,
    /// The length of the response's body, where the server does not tell; of the client's output, or its hash as sha256:HEX
    #[arg(long, value_name = "BYTES", value_parser = expected)]
    pub(super) expect: Option<ExpectedOutput>,
    /// Send this file as each request (with --client: response), instead of HTTP; the response ends with the connection
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) payload: Option<PathBuf>,
    /// How long the server may take to answer, or the client for a plain trial
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive)]
    pub(super) ready: Duration,
    /// Write the story that was found to this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) save: Option<PathBuf>,
    /// Write the story's packets, captured at both ends of its link (of `lan` in the place of loopback), to this file, pcapng
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "url")]
    pub(super) pcap: Option<PathBuf>,
    /// Write the report as one self-contained page as well
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) html: Option<PathBuf>,
    /// Write the report as JUnit XML as well, a test case for each decade of pauses: for CI
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) junit: Option<PathBuf>,
    /// Repeat the story of this file instead of searching
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["save", "path", "port", "link", "time", "longest_pause"])]
    pub(super) replay: Option<PathBuf>,
    /// How often a story is repeated
    #[arg(long, value_name = "N", default_value_t = 10, requires = "replay", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) times: u64,
    /// Allow a URL whose server is not on this machine
    #[arg(long, requires = "url")]
    pub(super) i_own_this_server: bool,
    #[command(flatten)]
    pub(super) family: Family,
    #[command(flatten)]
    pub(super) chance: Chance,
    #[command(flatten)]
    pub(super) at_risk: AtRisk,
    #[command(flatten)]
    pub(super) output: Json,
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

fn upload(text: &str) -> Result<u64, String> {
    let Bytes(bytes) = text.parse()?;
    if bytes <= MOST_BYTES { Ok(bytes) } else { Err(format!("the most are {MOST_BYTES} bytes")) }
}

fn expected(text: &str) -> Result<ExpectedOutput, String> {
    let Some(digits) = text.strip_prefix("sha256:") else {
        return text.parse().map(|Bytes(bytes)| ExpectedOutput::Bytes(bytes));
    };
    let wrong = || "a SHA-256 has 64 hexadecimal digits".to_owned();
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let pair = str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(ExpectedOutput::Sha256(hash))
}

impl HuntArguments {
    /// What is hunted, and how.
    ///
    /// # Errors
    /// Returns what cannot be, in a sentence.
    pub(super) fn plan(
        &self,
        seed: u64,
        file: Option<&StoryFile>,
        payload: Option<Vec<u8>>,
    ) -> Result<HuntPlan, String> {
        let player = if self.client.is_some() { Player::Server } else { Player::Client };
        if let Some(plays) = file.map(|file| file.plays).filter(|plays| *plays != player) {
            let other = if plays == Player::Server {
                "of a server: it is for --client"
            } else {
                "of a client: it is for a server"
            };
            return Err(format!("the story is that {other}"));
        }
        // clap's `requires` says nothing where the option that is required conflicts with one that is there.
        if self.client.is_none() && (self.upload.is_some() || self.status.is_some()) {
            return Err("--upload and --status are for --client".to_owned());
        }
        let mut plan = HuntPlan::new(self.quarry(file)?, seed);
        (plan.time, plan.longest_pause) = (self.time, self.longest_pause);
        let most = if self.client.is_some() { CLIENTS } else { CONNECTIONS };
        plan.connections = usize::try_from(self.connections.unwrap_or(most)).unwrap_or(usize::MAX);
        plan.expect = match self.expect {
            Some(ExpectedOutput::Bytes(bytes)) if self.client.is_none() => Some(bytes),
            Some(_) if self.client.is_none() => {
                return Err("--expect: a hash is for the output of --client".to_owned());
            }
            _ => None,
        };
        plan.payload = payload;
        Ok(plan)
    }

    fn quarry(&self, file: Option<&StoryFile>) -> Result<Quarry, String> {
        if let Some(target) = &self.url {
            let mut target = target.clone();
            if let Some(file) = file {
                target.path.clone_from(&file.path);
            }
            return Ok(Quarry::Running { target, is_own: self.i_own_this_server });
        }
        let usual = if self.client.is_some() { "lan" } else { "loopback" };
        let named = file.and_then(|file| file.link.as_deref()).unwrap_or(usual);
        let mut links = if self.link.is_empty() { vec![Link::named(named)?] } else { self.link.clone() };
        // The simplest first: a story that needs no other is told over it.
        let rank = |link: &Link| linger_lab::PRESETS.iter().position(|name| *name == link.name);
        links.sort_by_key(rank);
        links.dedup_by(|a, b| a.name == b.name);
        let (ip, port) = (self.family.version(), self.port.or(file.and_then(|file| file.port)));
        if let Some(command) = &self.client {
            let mut hunted = HuntedClient::new(command.clone());
            hunted.status = self.status.unwrap_or(hunted.status);
            hunted.upload = self.upload.unwrap_or(hunted.upload);
            (hunted.expect, hunted.ready) = (self.expect, self.ready);
            return Ok(Quarry::Client { hunted, links, ip, port: port.unwrap_or(HTTP) });
        }
        let path = file.map_or_else(|| self.path.clone(), |file| file.path.clone());
        Ok(Quarry::Command { words: self.command.clone(), links, ip, port, path, ready: self.ready })
    }
}
