//! `linger fcgi serve`: an application for a gateway.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueHint};
use linger_fastcgi::{Address, Responder, apps, responder};
use linger_lab::{Consume, listen};

use super::endings::{Answered, Application, BACKLOG, FcgiEnding};
use super::journal::{AccessLog, ServeJournal};
use crate::options::ListenAt;
use crate::output::{Stdout, Stopped, say};
use crate::server::consume;
use crate::typed::{Bytes, ListenOn, Names, positive};
use crate::{exit, interrupt};

/// Most connections that an application with an ending of its own serves at once, each in a thread of its own.
const WORKERS: usize = 32;

const LISTEN: &str = "Where to listen: HOST:PORT, :PORT for all addresses, or unix:/PATH; `inherited` is the socket that a \
    service manager passes (LISTEN_FDS), else the one that a parent left as descriptor 0";

/// Serves FastCGI requests until Ctrl-C.
#[derive(Args, Debug)]
#[command(mut_arg("listen", |arg| arg.default_value("inherited").help(LISTEN)))]
#[command(after_help = "Examples:\n  linger fcgi serve --echo --listen 127.0.0.1:9000\n  \
    spawn-fcgi -n -p 9000 -- linger fcgi serve --root /srv/www\n\
    and to see how others lose responses (docs/fastcgi.md):\n  \
    linger fcgi serve --ending close --listen 127.0.0.1:9000")]
#[command(group(ArgGroup::new("what").args(["root", "echo", "ending"]).required(true)))]
#[group(skip)]
pub(super) struct ServeArguments {
    /// Serve the files of this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    root: Option<PathBuf>,
    /// Answer with the request
    #[arg(long)]
    echo: bool,
    /// Answer each request with so many bytes, and end the connection in a way that loses them, or in the one that does not
    #[arg(long, value_enum, conflicts_with = "multiplex")]
    ending: Option<FcgiEnding>,
    /// Size of these responses
    #[arg(long, value_name = "BYTES", default_value = "67051", conflicts_with_all = ["root", "echo"])]
    response: Bytes,
    /// How much of a request's body is read before; `all` is CONTENT_LENGTH, and never the empty record behind it
    #[arg(long, value_name = "BYTES|all", default_value = "all", conflicts_with_all = ["root", "echo"], value_parser = Names::new(["all"], consume), hide_possible_values = true)]
    consume: Consume,
    #[command(flatten)]
    at: ListenAt,
    /// Most connections at once; with --ending never more than 32
    #[arg(long, value_name = "N", default_value_t = 256)]
    connections: usize,
    /// Let connections carry several requests at once
    #[arg(long)]
    multiplex: bool,
    /// Write a line for each request: time, client, method, target, status, bytes of the response and of the body, seconds, end
    #[arg(long, conflicts_with = "ending")]
    access_log: bool,
    /// Longest time for a request's body; without it the gateway decides
    #[arg(long, value_name = "TIME", conflicts_with = "ending", value_parser = positive)]
    body_within: Option<Duration>,
}

/// The addresses of a list with commas between. The error is the first word that is no address.
fn addresses(list: &str) -> Result<Vec<IpAddr>, &str> {
    list.split(',').map(|word| word.trim().parse().map_err(|_| word.trim())).collect()
}

/// A responder on the socket that a service manager passes (`sd_listen_fds(3)`), else on descriptor 0.
fn inherited(config: responder::Config) -> io::Result<Responder> {
    let mut passed = listenfd::ListenFd::from_env();
    match passed.len() {
        0 => Responder::inherited(config),
        1 => {
            // `take_tcp_listener` leaves a unix socket where it is.
            if let Ok(Some(tcp)) = passed.take_tcp_listener(0) {
                return Responder::from_listener(tcp, config);
            }
            let unix = passed.take_unix_listener(0)?.ok_or(io::ErrorKind::NotFound)?;
            Responder::from_listener(unix, config)
        }
        many => {
            let text = format!("the service manager passes {many} sockets, and one can be served");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

impl ServeArguments {
    pub(super) fn run(self) -> ExitCode {
        if let Some(ending) = self.ending {
            let Bytes(response) = self.response;
            let application = Application { ending, response, consume: self.consume };
            return show(application, &self.at, self.connections.clamp(1, WORKERS));
        }
        let mut config = responder::Config::default();
        config.connections = self.connections.max(1);
        (config.multiplex, config.body_within) = (self.multiplex, self.body_within);
        // Addresses that may connect, as the web server says (FastCGI specification, section 3.2).
        // By an empty list, servers mean that there is no restriction.
        // A list that is no text has words that are no addresses, and must not pass for an empty one.
        let list = std::env::var_os("FCGI_WEB_SERVER_ADDRS").unwrap_or_default();
        let list = list.to_string_lossy();
        if !list.trim().is_empty() {
            match addresses(&list) {
                Ok(addresses) => config.allowed = Some(addresses),
                Err(word) => {
                    let text = format_args!("FCGI_WEB_SERVER_ADDRS: `{word}` is no IP address");
                    return exit::fail(exit::BAD_USAGE, text);
                }
            }
        }
        if let Some(root) = &self.root
            && let Err(error) = std::fs::read_dir(root)
        {
            return exit::file(format_args!("cannot serve {}", root.display()), &error);
        }
        let (journal, access_log) = if self.access_log {
            match ServeJournal::with_access_log() {
                Ok((journal, log)) => (journal, Some(log)),
                Err(error) => return exit::io("cannot start a thread for the access log", &error),
            }
        } else {
            (ServeJournal::new(), None)
        };
        config.journal = Some(journal.clone());
        let served = serve(self.root, self.at.listen, config);
        journal.end();
        match access_log.map(AccessLog::end) {
            Some(Err(stopped)) if served.is_ok() => stopped.end(Some(exit::NOTHING_LOST)),
            _ => served.err().unwrap_or(ExitCode::from(exit::NOTHING_LOST)),
        }
    }
}

/// Serves until it is told to end.
fn serve(root: Option<PathBuf>, listen: ListenOn, config: responder::Config) -> Result<(), ExitCode> {
    let address = match listen {
        ListenOn::Tcp(address) => Some(Address::Tcp(address.to_string())),
        ListenOn::Unix(path) => Some(Address::Unix(path)),
        ListenOn::Inherited => None,
    };
    let responder = match &address {
        Some(address) => {
            Responder::bind(address, config).map_err(|error| exit::listening(address, &error))?
        }
        None => inherited(config).map_err(|error| exit::io("cannot listen", &error))?,
    };
    match responder.local_address() {
        Ok(address) => say!("serving FastCGI on {address} (Ctrl-C to end)"),
        Err(error) => return Err(exit::io("cannot tell where it listens", &error)),
    }
    let stop = responder.stopper();
    interrupt::on_first(move || stop.stop()).map_err(|error| exit::io("cannot take signals", &error))?;
    let served = match root {
        Some(root) => responder.run(apps::Files::new(root)),
        None => responder.run(apps::Echo::default()),
    };
    served.map_err(|error| exit::io("cannot go on accepting", &error))
}

/// Serves an application that ends in a given way, and says what its system calls said.
fn show(application: Application, at: &ListenAt, workers: usize) -> ExitCode {
    let wanted = match at.listen.tcp() {
        Ok(address) => address,
        Err(why) => return exit::fail(exit::BAD_USAGE, format_args!("--ending: {why} with --listen")),
    };
    let listener = wanted.resolve().and_then(|address| {
        let listener = listen(address, BACKLOG, None)?;
        Ok((listener.local_addr()?, listener))
    });
    let (address, listener) = match listener {
        Ok(listener) => listener,
        Err(error) => return exit::listening(wanted, &error),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    say!("serving FastCGI on {address}, responses of {} bytes (Ctrl-C to end)", application.response);
    let answered = match application.serve(listener, workers, &stop) {
        Ok(answered) => answered,
        Err(error) => return exit::io("cannot go on accepting", &error),
    };
    let mut out = Stdout::new();
    match print(&mut out, &answered).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(exit::NOTHING_LOST),
        Err(stopped) => stopped.end(Some(exit::NOTHING_LOST)),
    }
}

fn print(out: &mut Stdout, answered: &Answered) -> Result<(), Stopped> {
    out.text(format_args!("answered       {} requests\n", answered.requests))?;
    if answered.errors.is_empty() {
        out.text(format_args!("socket errors  none\n"))?;
    }
    for (error, count) in &answered.errors {
        out.text(format_args!("socket errors  {count} x {error}\n"))?;
    }
    Ok(())
}
