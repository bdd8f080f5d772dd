//! `linger share`, `put`, `get`, `ls`, `peers` and `receipt`: what they have in common.

mod address;
pub(crate) mod get;
pub(crate) mod hint;
mod names;
pub(crate) mod peers;
pub(crate) mod put;
pub(crate) mod receipt;
mod several;
pub(crate) mod share;
mod show;
mod standing;

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, ValueHint};
use linger_transfer::session::Deadlines;
use linger_transfer::{
    AskCode, Chmod, Client, ClientKeys, ClientOptions, Durability, Error, Identity, IfExists, ItemVerdict,
    Keyring, LinkMode, Security, Selection, Summary,
};

use crate::input::read_text;
use crate::options::{Json, Silence};
use crate::output::say;
use crate::typed::{Names, Rate, duration, one_of, port, rate};
use crate::{exit, interrupt};
use address::{Remote, ServerPlace};

/// How to reach the other machine.
#[derive(Args, Debug)]
pub(crate) struct Connect {
    /// The port of `linger share` there, 7117 if nothing is said; HOST:PORT:PATH says it too.
    #[arg(long, short_alias = 'P', value_name = "N", value_parser = port)]
    port: Option<u16>,
    /// Talk without encryption: whoever is in between can read and change everything.
    #[arg(long, conflicts_with = "tls")]
    insecure: bool,
    /// Encrypt even to this machine itself.
    #[arg(long)]
    tls: bool,
    /// Read the pairing code from a file instead of asking for it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "insecure")]
    code_file: Option<PathBuf>,
    /// How long to go on trying after the connection was lost; 0 for not at all.
    #[arg(long = "retry-for", value_name = "TIME", default_value = "2m", value_parser = duration)]
    patience: Duration,
    /// Connections side by side, 1 to 16: for long paths that one connection does not fill.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=16))]
    streams: u64,
    #[command(flatten)]
    silence: Silence,
    #[command(flatten)]
    output: Json,
}

/// How to copy, in either direction.
#[derive(Args, Debug)]
pub(crate) struct Copying {
    /// Overwrite what has the final name already: --if-exists replace.
    #[arg(long, conflicts_with = "if_exists")]
    replace: bool,
    /// Where other content has the final name: `fail`, `skip`, `replace`, or `keep-both` as `name (1)`.
    #[arg(long, value_name = "WHAT", default_value = "fail", value_parser = if_exists())]
    if_exists: IfExists,
    /// Links: `keep` those that stay inside, `follow` to what they lead to, or `skip`.
    #[arg(long, value_name = "WHAT", default_value = "keep", value_parser = links())]
    links: LinkMode,
    /// Leave out devices, named pipes, sockets and links that lead out, and do not fail for them.
    #[arg(long)]
    skip_special: bool,
    /// Send growing files, such as logs, with what they have when their turn comes.
    #[arg(long)]
    live: bool,
    /// Where a transfer goes on, read again what was sent before, and compare it with what arrived.
    #[arg(long, conflicts_with = "no_verify")]
    reread: bool,
    /// Modes of the copies, as 644, u=rwX,go=rX or D755,F644, whatever the umask is.
    #[arg(long, value_name = "MODE")]
    chmod: Option<Chmod>,
    /// Directories are copied with all that is in them anyway.
    #[arg(long, short, short_alias = 'a', hide = true)]
    recursive: bool,
    /// Do not hash: the kernel moves the bytes, and the receipt is for the length alone.
    #[arg(long)]
    no_verify: bool,
    /// Say what would be copied, and copy nothing.
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// What the receiver does before its receipt: `disk` syncs, `memory` does not.
    #[arg(long, value_name = "LEVEL", default_value = "disk", value_parser = durabilities())]
    durability: Durability,
    /// Leave out what matches, as in .gitignore; may be given often.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Take back what --exclude left out.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Patterns from a file, as .gitignore has them.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    exclude_from: Option<PathBuf>,
    /// Most bytes a second, as 500k or 10MiB; 80Mbit are bits.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit: Option<Rate>,
    /// Keep the receipts in a file, one JSON object a line.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    receipt: Option<PathBuf>,
}

fn deadlines(silence: Silence) -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.stall = silence.timeout;
    deadlines.ping = deadlines.ping.min(deadlines.stall / 3);
    deadlines
}

fn durabilities() -> Names<Durability> {
    const LEVELS: [(&str, Durability); 2] = [("disk", Durability::Disk), ("memory", Durability::Memory)];
    Names::new(LEVELS.map(|(name, _)| name), |name| one_of(&LEVELS, name))
}

fn if_exists() -> Names<IfExists> {
    const WAYS: [(&str, IfExists); 4] = [
        ("fail", IfExists::Fail),
        ("skip", IfExists::Skip),
        ("replace", IfExists::Replace),
        ("keep-both", IfExists::KeepBoth),
    ];
    Names::new(WAYS.map(|(name, _)| name), |name| one_of(&WAYS, name))
}

fn links() -> Names<LinkMode> {
    const WAYS: [(&str, LinkMode); 3] =
        [("keep", LinkMode::Keep), ("follow", LinkMode::Follow), ("skip", LinkMode::Skip)];
    Names::new(WAYS.map(|(name, _)| name), |name| one_of(&WAYS, name))
}

impl Copying {
    fn if_exists(&self) -> IfExists {
        if self.replace { IfExists::Replace } else { self.if_exists }
    }

    fn selection(&self) -> Selection {
        let mut selection = Selection::default();
        selection.links = self.links;
        selection.skip_special = self.skip_special;
        selection.live = self.live;
        selection.reread = self.reread;
        selection
    }

    /// The lines of a .gitignore that the options amount to.
    fn patterns(&self) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        if let Some(file) = &self.exclude_from {
            let text = read_text(file).map_err(|error| unusable("read", file, &error))?;
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.extend(self.exclude.iter().cloned());
        lines.extend(self.include.iter().map(|pattern| format!("!{pattern}")));
        Ok(lines)
    }

    fn limit(&self) -> u64 {
        self.limit.map_or(0, |Rate(bytes)| bytes)
    }
}

/// Whether an operand is a place on another machine: as with scp(1), what has a `:` before any `/`.
fn is_remote(operand: &std::ffi::OsStr) -> bool {
    let bytes = operand.as_bytes();
    bytes.starts_with(b"[") || bytes.iter().find(|byte| matches!(byte, b':' | b'/')) == Some(&b':')
}

impl Connect {
    fn remote(&self, text: &OsString) -> Result<Remote, Error> {
        Remote::parse(text.as_bytes(), self.port)
    }

    fn client(&self, remote: &Remote) -> Result<Client, Error> {
        let mut options = ClientOptions::default();
        options.retry.patience = self.patience;
        options.streams = self.streams as usize;
        options.deadlines = deadlines(self.silence);
        options.security = if self.insecure {
            Security::Never
        } else {
            let home = home()?;
            let identity = Arc::new(Identity::load_or_create(&home.join("key"))?);
            let keys = ClientKeys::new(identity, Keyring::new(home.join("known_hosts")), self.ask()?);
            if self.tls { Security::Always(keys) } else { Security::Remote(keys) }
        };
        match &remote.at {
            ServerPlace::Port(port) => Client::new(remote.host.clone(), *port, options),
            ServerPlace::Socket(_) if self.tls => {
                let told =
                    "nothing is encrypted over a unix socket, and no other machine hears it: leave out --tls";
                Err(Error::Usage(told.into()))
            }
            ServerPlace::Socket(path) => Client::unix(path, options),
        }
    }

    fn ask(&self) -> Result<AskCode, Error> {
        let file = self
            .code_file
            .as_ref()
            .map(|path| read_text(path).map_err(|error| unusable("read", path, &error)));
        let code = file.transpose()?.map(|code| code.trim().to_owned());
        Ok(Arc::new(move |host, fingerprint| match &code {
            Some(code) => Some(code.clone()),
            None => ask_terminal(host, fingerprint).ok().filter(|code| !code.is_empty()),
        }))
    }
}

/// Waits up to 100 ms for input. Returns whether there is some.
fn is_ready(terminal: &std::fs::File) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    match rustix::event::poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&moment)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        other => Ok(other? > 0),
    }
}

/// Asks on /dev/tty, so standard input may be a pipe. Ctrl-C gives the attempt up.
fn ask_terminal(host: &str, fingerprint: &str) -> io::Result<String> {
    let interrupted = interrupt::seen()?;
    let mut terminal = std::fs::File::options().read(true).write(true).open("/dev/tty")?;
    write!(
        terminal,
        "{host} is not known yet. Its key is {fingerprint}\nThe code that `linger share` shows there: "
    )?;
    let mut code = Vec::new();
    let mut byte = [0];
    // A code has nine characters; stop at something much longer.
    while code.len() < 64 {
        // poll(2) first: read(2) is restarted after a signal (`SA_RESTART`).
        while !is_ready(&terminal)? {
            if interrupted.load(Ordering::Relaxed) {
                writeln!(terminal)?;
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        if terminal.read(&mut byte)? == 0 || byte == *b"\n" {
            break;
        }
        code.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&code).trim().to_owned())
}

/// The directory of keys and configuration. The environment names it; otherwise it is in the user's home directory from the
/// passwd database, because a service of systemd without `User=` has no `HOME`.
fn home() -> Result<PathBuf, Error> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(absolute);
    let config = config.or_else(|| std::env::home_dir().filter(absolute).map(|home| home.join(".config")));
    config.map(|config| config.join("linger")).ok_or_else(|| {
        let told =
            "this user has no home directory, and neither XDG_CONFIG_HOME nor HOME says where to keep keys";
        Error::NotPossibleHere(told.into())
    })
}

/// The error for a file named by an option that cannot be used.
fn unusable(doing: &str, path: &Path, error: &io::Error) -> Error {
    Error::Usage(format!("cannot {doing} {}: {error}{}", path.display(), exit::file_hint(error)).into())
}

/// Makes Ctrl-C end the session in order, and end the program if that takes too long.
fn end_on_signal(client: &Client) -> Result<(), Error> {
    let cancel = client.canceller();
    let failed = |source| Error::Io { doing: "take", what: "signals".into(), source };
    let overdue = || {
        say!("linger: {}", Error::Cancelled);
        std::process::exit(exit::COULD_NOT_TELL.into());
    };
    interrupt::on_first_and_overdue(move || cancel.cancel(), overdue).map_err(failed)
}

/// The exit status of a transfer.
fn status(summary: &Summary, error: Option<&Error>) -> u8 {
    match error {
        Some(Error::Usage(_)) => exit::BAD_USAGE,
        Some(Error::NotPossibleHere(_)) => exit::NOT_POSSIBLE_HERE,
        _ => match summary.verdict(error) {
            ItemVerdict::Confirmed => exit::NOTHING_LOST,
            ItemVerdict::NotDelivered => exit::LOSS_FOUND,
            _ => exit::COULD_NOT_TELL,
        },
    }
}

/// The exit status of a transfer. If it is not 0, says the reason on stderr.
fn conclude(summary: &Summary, error: Option<&Error>) -> ExitCode {
    let code = status(summary, error);
    match (error, code) {
        (Some(error @ Error::Io { source, .. }), _) => {
            return exit::fail(code, format_args!("{error}{}", exit::file_hint(source)));
        }
        (Some(error), _) => return exit::fail(code, hint::error_with_hint(error)),
        (None, exit::NOTHING_LOST) => {}
        (None, _) if summary.failed > 1 => {
            say!("linger: {} entries were not delivered", summary.failed);
        }
        (None, _) => {}
    }
    ExitCode::from(code)
}

/// Does what [`conclude`] does. `told` is the error of printing or keeping the results, which loses nothing of what was
/// sent.
fn conclude_told(summary: &Summary, error: Option<&Error>, told: Result<(), Error>) -> ExitCode {
    match told {
        Err(told) if summary.verdict(error) == ItemVerdict::Confirmed => {
            let hint = if let Error::Io { source, .. } = &told { exit::file_hint(source) } else { "" };
            exit::fail(exit::COULD_NOT_TELL, format_args!("everything is confirmed, but {told}{hint}"))
        }
        Err(told) => {
            say!("linger: {told}");
            conclude(summary, error)
        }
        Ok(()) => conclude(summary, error),
    }
}

/// Reports an error before anything was sent.
fn refuse(error: &Error) -> ExitCode {
    conclude(&Summary::default(), Some(error))
}

/// Reports an error of `share`, `ls` or `receipt ask`, which deliver nothing themselves.
fn cannot_tell(error: &Error) -> ExitCode {
    match error {
        Error::Io { doing: "listen on", what, source } => exit::listening(what, source),
        Error::Io { doing, what, source } => exit::file(format_args!("cannot {doing} {what}"), source),
        Error::Usage(_) | Error::NotPossibleHere(_) => refuse(error),
        error => exit::fail(exit::COULD_NOT_TELL, hint::error_with_hint(error)),
    }
}

fn is_stdio(path: &Path) -> bool {
    path.as_os_str() == "-"
}
