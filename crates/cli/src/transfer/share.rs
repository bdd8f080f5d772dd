//! `linger share`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueHint};
use linger_transfer::{
    Displays, Durability, Error, Identity, Keyring, PathListener, Served, Server, ServerKeys, Serving,
    ShareEnding, ShareOptions, StreamsConfig, confine,
};

use super::{cannot_tell, conclude, durabilities, home, unusable};
use crate::input::read_text;
use crate::lines::{self, line};
use crate::options::{Json, ListenAt, Silence};
use crate::output::{Stdout, Stopped, queue_stderr, say};
use crate::typed::{HostPort, ListenOn, Names, duration, one_of};
use crate::{exit, interrupt};

/// Shares a directory: `put`, `get` and `ls` on other machines reach it, and nothing outside of it.
#[derive(Args, Debug)]
#[command(
    mut_arg("listen", |arg| arg.default_value(EVERYWHERE).help(LISTEN)),
    after_help = "The first connection from another machine needs the code that is shown; afterwards both know\n\
    each other's keys (~/.config/linger). A unix socket serves its own user and root, without a code.\n\
    Sinks and sources: see docs/transfer.md.\n\n\
    Examples:\n  linger share\n  linger share --writable --listen [::]:7117 incoming/\n  \
    linger share --listen unix:/run/user/1000/linger\n\n\
    Exit status: 0 ended on request, 2 bad usage, 3 the directory or the address cannot be used,\n\
    4 not possible here; with --once that of the one request, as with `put`."
)]
pub(crate) struct ShareArguments {
    /// The directory.
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    directory: PathBuf,
    #[command(flatten)]
    at: ListenAt,
    /// Let peers write into it.
    #[arg(long)]
    writable: bool,
    /// Sinks and sources [default: ~/.config/linger/share.toml].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Accept unencrypted connections from other machines too.
    #[arg(long)]
    insecure: bool,
    /// Accept unencrypted connections over loopback or a unix socket from every user, and from whoever comes through a
    /// forward.
    #[arg(long)]
    insecure_loopback: bool,
    /// The least that is done before a receipt: `disk` syncs, `memory` does not.
    #[arg(long, value_name = "LEVEL", default_value = "memory", value_parser = durabilities())]
    durability: Durability,
    #[command(flatten)]
    silence: Silence,
    /// Serve one request and end, with its exit status; connections that ask for nothing do not count.
    #[arg(long)]
    once: bool,
    /// With --once: how long to wait for a client whose connection was lost; 0 for not at all.
    #[arg(long = "retry-for", value_name = "TIME", default_value = "2m", value_parser = duration, requires = "once")]
    patience: Duration,
    #[command(flatten)]
    output: Json,
    /// How a connection ends: `lingering`, or `close` to see receipts lost.
    #[arg(long, value_name = "HOW", default_value = "lingering", hide = true, value_parser = endings())]
    ending: ShareEnding,
}

/// [`linger_transfer::PORT`] on all addresses.
const EVERYWHERE: &str = ":7117";
const LISTEN: &str = "Where to listen: HOST:PORT, :PORT for all addresses, or unix:/PATH; systemd's socket is used if there is one";

fn endings() -> Names<ShareEnding> {
    const ENDINGS: [(&str, ShareEnding); 2] =
        [("lingering", ShareEnding::Lingering), ("close", ShareEnding::Close)];
    Names::new(ENDINGS.map(|(name, _)| name), |name| one_of(&ENDINGS, name))
}

pub(crate) fn run(arguments: &ShareArguments) -> ExitCode {
    share(arguments).unwrap_or_else(|error| cannot_tell(&error))
}

fn share(arguments: &ShareArguments) -> Result<ExitCode, Error> {
    let home = home()?;
    let options = options(arguments, &home)?;
    let has_ports = !(options.config.sink.is_empty() && options.config.source.is_empty());
    let listener =
        ShareListener::new(&arguments.at.listen, arguments.insecure || arguments.insecure_loopback)?;
    let address = listener.address()?;
    let server = Arc::new(Server::new(options)?);
    stop_on_signal(&server, arguments.once)?;
    // The server's thread that starts commands is older than this, so Landlock does not confine it.
    let confined = confine(&arguments.directory, &home, arguments.writable);
    let told = |text: &str| {
        if !arguments.output.json {
            say!("{text}");
        }
    };
    told(&format!(
        "sharing {} on {address}{}",
        arguments.directory.display(),
        if arguments.writable { ", writable" } else { "" }
    ));
    told(confinement(confined, has_ports));
    let code = listener.takes_codes().then(|| server.code());
    if let Some(code) = &code {
        told(&format!("code for a new machine: {code}"));
    }
    let out = Mutex::new(Lines::start());
    let finisher = server.finisher();
    // Once the reader of the JSON lines has gone, what is under way is finished and nothing new is begun.
    let print = |print: &dyn Fn(&mut Stdout) -> Result<(), Stopped>| {
        if arguments.output.json && !out.lock().unwrap_or_else(PoisonError::into_inner).print(print) {
            finisher.cancel();
        }
    };
    let listening = lines::Listening { address: address.clone(), code };
    print(&|out| out.json(&line(&listening)));
    let last = Mutex::new(None);
    let most = arguments.once.then_some(1);
    let served = listener.serve(&server, most, &|serving| match serving {
        Serving::Code(code) => {
            told(&format!("code for a new machine: {code}"));
            print(&|out| out.json(&line(lines::Code { code: code.clone(), address: None })));
        }
        Serving::CodeFor(address, code) => {
            told(&format!("code for a new machine at {address}: {code}"));
            print(&|out| {
                out.json(&line(lines::Code { code: code.clone(), address: Some(address.to_string()) }))
            });
        }
        Serving::Progress(peer, progress) => {
            print(&|out| lines::progress(progress, &peer.host(), out));
        }
        Serving::Served(served) => {
            print(&|out| out.json(&line(lines::ServedLine::from(&*served))));
            if !arguments.output.json {
                report(&served);
                if arguments.once && served.may_return() && !arguments.patience.is_zero() {
                    say!("waiting for the other side to come back (--retry-for)");
                }
            }
            if served.has_asked() {
                *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(served);
            }
        }
        _ => {}
    });
    served?;
    let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
    let stopped = out.into_inner().unwrap_or_else(PoisonError::into_inner).finish(!arguments.once);
    let known = last.filter(|_| arguments.once);
    match (stopped, known) {
        (Some(stopped), None) => Ok(stopped.end(None)),
        (Some(stopped @ Stopped::Failed(_)), _) => Ok(stopped.end(None)),
        // The verdict does not depend on whether anybody reads the output.
        (_, Some(served)) => Ok(status(&served)),
        (None, None) => Ok(ExitCode::from(exit::NOTHING_LOST)),
    }
}

fn options(arguments: &ShareArguments, home: &Path) -> Result<ShareOptions, Error> {
    let mut options = ShareOptions::new(&arguments.directory);
    options.writable = arguments.writable;
    options.config = configuration(arguments)?;
    options.displays = Displays::new(is_set("WAYLAND_DISPLAY"), is_set("DISPLAY"));
    options.durability = arguments.durability;
    options.insecure = arguments.insecure;
    options.insecure_loopback = arguments.insecure_loopback;
    options.ending = arguments.ending;
    options.patience = arguments.patience;
    if !options.config.sink.is_empty() {
        options.memory = Some(home.to_owned());
    }
    options.deadlines = super::deadlines(arguments.silence);
    let identity = Arc::new(Identity::load_or_create(&home.join("key"))?);
    options.keys = Some(ServerKeys::new(identity, Keyring::new(home.join("known_clients"))));
    Ok(options)
}

fn confinement(confined: Option<bool>, has_ports: bool) -> &'static str {
    match (confined, has_ports) {
        (Some(true), false) => "confined by Landlock",
        (Some(true), true) => "confined by Landlock; commands of sinks and sources by what `writes` says",
        (Some(false), _) => "not confined by Landlock: this kernel has none",
        (None, _) => "not confined by Landlock: its rules cannot be made",
    }
}

/// Standard output, and why it failed.
struct Lines {
    out: Stdout,
    stopped: Option<Stopped>,
    /// Its reader is behind.
    is_late: bool,
}

/// How long a line may take to be read. Whoever has left is noticed at the first line that he does not read.
const MOMENT: Duration = Duration::from_millis(200);

impl Lines {
    /// Starts the threads that write: clients are not to wait for whoever reads this program's output.
    fn start() -> Self {
        queue_stderr();
        Self { out: Stdout::queued(lines::left_out), stopped: None, is_late: false }
    }

    /// Waits for the reader; only for a moment if the program `is_asked` to end. Returns why stdout has failed.
    fn finish(mut self, is_asked: bool) -> Option<Stopped> {
        self.stopped.or_else(|| self.out.finish(|| is_asked).err())
    }

    /// False once stdout has failed.
    fn print(&mut self, print: &dyn Fn(&mut Stdout) -> Result<(), Stopped>) -> bool {
        if self.stopped.is_none() {
            self.stopped = print(&mut self.out).and_then(|()| self.written()).err();
        }
        self.stopped.is_none()
    }

    /// Waits until the lines are written; not for a reader that was waited for before.
    fn written(&mut self) -> Result<(), Stopped> {
        self.out.flush()?;
        let is_late = self.is_late;
        self.is_late = self.out.settle(|still| !is_late && still < MOMENT)? > 0;
        Ok(())
    }
}

/// The exit status of `--once`. It is not 0 if the files are in place and the sender never said that it has the receipts.
fn status(served: &Served) -> ExitCode {
    let summary = &served.summary;
    if summary.failed == 0 && summary.unsent == 0 && summary.confirmed > 0 && !summary.peer_knows {
        return exit::fail(
            exit::COULD_NOT_TELL,
            "everything is in place, but the sender never said that it knows",
        );
    }
    match &served.error {
        // The remedy is for the other side; see `report`.
        Some(error) if error.remedy().is_some() => exit::fail(super::status(summary, Some(error)), error),
        error => conclude(summary, error.as_ref()),
    }
}

fn report(served: &Served) {
    let Served { peer, request, summary, error, .. } = served;
    let ended = match (error, summary.peer_knows) {
        // The remedy is for whoever sits at the other end, who has been told.
        (Some(error), _) => format!("ended early: {error}"),
        (None, true) => "both sides know".to_owned(),
        (None, false) => "the other side never said that it knows".to_owned(),
    };
    let why = summary.first_failure.as_deref().and_then(|why| why.lines().next());
    let failed = match summary.failed {
        0 => String::new(),
        1 => format!(", 1 failed ({})", why.unwrap_or_default()),
        more => format!(", {more} failed (the first: {})", why.unwrap_or_default()),
    };
    let request = if request.is_empty() { "asked nothing" } else { request };
    say!("{peer} {request}: {} confirmed, {} bytes{failed}; {ended}", summary.confirmed, summary.bytes);
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

fn configuration(arguments: &ShareArguments) -> Result<StreamsConfig, Error> {
    let (path, named) = match &arguments.config {
        Some(path) => (path.clone(), true),
        None => (home()?.join("share.toml"), false),
    };
    match read_text(&path) {
        Ok(text) => StreamsConfig::parse(&text)
            .map_err(|error| Error::Usage(format!("{}: {error}", path.display()).into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => Ok(StreamsConfig::default()),
        Err(error) => Err(unusable("read", &path, &error)),
    }
}

/// Where a share listens.
enum ShareListener {
    Tcp(TcpListener),
    /// A unix socket that this process has made.
    Path(PathListener, PathBuf),
    /// The unix socket of a service manager.
    Unix(UnixListener),
}

impl ShareListener {
    /// systemd's socket if it gave one (`sd_listen_fds(3)`), else one of our own.
    fn new(wanted: &ListenOn, everybody: bool) -> Result<Self, Error> {
        let mut given = listenfd::ListenFd::from_env();
        if given.len() > 0 {
            let failed = |source| Error::Io { doing: "listen on", what: "the given socket".into(), source };
            // `take_tcp_listener` leaves a unix socket where it is.
            return match given.take_tcp_listener(0).ok().flatten() {
                Some(tcp) => Ok(Self::Tcp(tcp)),
                None => {
                    let unix = given.take_unix_listener(0).map_err(failed)?;
                    unix.map(Self::Unix).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
                }
            };
        }
        let failed = |source| Error::Io { doing: "listen on", what: shown(wanted), source };
        match wanted {
            ListenOn::Tcp(address) => tcp(address).map(Self::Tcp).map_err(failed),
            ListenOn::Unix(path) => {
                let listener = PathListener::bind(path, everybody).map_err(failed)?;
                Ok(Self::Path(listener, path.clone()))
            }
            ListenOn::Inherited => {
                Err(Error::Usage("--listen: write HOST:PORT, or unix:/PATH for a socket".into()))
            }
        }
    }

    /// The address, as it is shown.
    fn address(&self) -> Result<String, Error> {
        let failed = |source| Error::Io { doing: "use", what: "the listener".into(), source };
        match self {
            Self::Tcp(listener) => listener.local_addr().map(|address| address.to_string()).map_err(failed),
            Self::Path(_, path) => Ok(format!("unix:{}", path.display())),
            Self::Unix(listener) => {
                let address = listener.local_addr().map_err(failed)?;
                Ok(format!("unix:{}", address.as_pathname().unwrap_or(Path::new("?")).display()))
            }
        }
    }

    /// Whether clients pair by code; over a unix socket the kernel says who they are.
    fn takes_codes(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    fn serve(
        &self,
        server: &Server,
        most: Option<usize>,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Result<(), Error> {
        match self {
            Self::Tcp(listener) => server.serve(listener, most, observe),
            Self::Path(listener, _) => server.serve_unix(listener.listener(), most, observe),
            Self::Unix(listener) => server.serve_unix(listener, most, observe),
        }
    }
}

fn shown(wanted: &ListenOn) -> String {
    match wanted {
        ListenOn::Tcp(address) => address.to_string(),
        ListenOn::Unix(path) => format!("unix:{}", path.display()),
        ListenOn::Inherited => "inherited".to_owned(),
    }
}

fn tcp(address: &HostPort) -> io::Result<TcpListener> {
    let to_bind = address.resolve()?;
    match TcpListener::bind(to_bind) {
        // A machine without IPv6 can still serve over IPv4.
        Err(_) if to_bind.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, to_bind.port()))
        }
        other => other,
    }
}

fn stop_on_signal(server: &Arc<Server>, once: bool) -> Result<(), Error> {
    let (cancel, server) = (server.canceller(), server.clone());
    let overdue = move || {
        match server.left_behind() {
            0 => say!("linger: connections are still being closed, and are left"),
            threads => {
                say!("linger: the disk does not answer: {threads} threads that wait for it are left behind")
            }
        }
        // How much of the transfer is on the disk is not known.
        let code = if once { exit::COULD_NOT_TELL } else { exit::NOTHING_LOST };
        std::process::exit(code.into());
    };
    interrupt::on_first_and_overdue(move || cancel.cancel(), overdue).map_err(|source| Error::Io {
        doing: "take",
        what: "signals".into(),
        source,
    })
}
