//! `linger fcgi`: one request to a FastCGI application, or an application to try a gateway with.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueHint};
use linger_fastcgi::gateway::{self, Client, Error, GatewayRequest};
use linger_fastcgi::{Address, Responder, apps, responder};

use crate::lines::{self, line};
use crate::options::{JsonBeside, ListenAt, Silence};
use crate::output::{Stopped, say, say_json};
use crate::typed::{ListenOn, fastcgi};
use crate::{exit, interrupt};

/// Speaks FastCGI: one request to an application, or an application for a gateway.
#[derive(Args, Debug)]
pub(crate) struct FcgiArguments {
    #[command(subcommand)]
    verb: FcgiVerb,
}

#[derive(Debug, Subcommand)]
enum FcgiVerb {
    Get(Get),
    Serve(ServeArguments),
}

/// Sends one request; headers and body go to stdout, the application's log to stderr.
#[derive(Args, Debug)]
#[command(mut_arg("timeout", |arg| arg.default_value("60s")))]
#[command(after_help = "Examples:\n  linger fcgi get 127.0.0.1:9000 /srv/www/index.php\n  \
    linger fcgi get unix:/run/php/php-fpm.sock /srv/www/form.php --param CONTENT_TYPE=text/plain --body form.txt\n\n\
    Exit status: 0 the response is complete, 1 it was cut or the application failed, 3 there was none.")]
struct Get {
    /// HOST:PORT, or unix:/PATH.
    #[arg(value_parser = fastcgi)]
    address: Address,
    /// The script's file name, as the application sees it
    script: String,
    /// A parameter, in place of the usual one of that name
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    param: Vec<(String, String)>,
    /// The request's body; `-` is stdin. Makes it a POST
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    body: Option<PathBuf>,
    #[command(flatten)]
    silence: Silence,
    #[command(flatten)]
    output: JsonBeside,
}

const LISTEN: &str = "Where to listen: HOST:PORT, :PORT for all addresses, or unix:/PATH; `inherited` is the socket that a \
    service manager passes (LISTEN_FDS), else the one that a parent left as descriptor 0";

/// Serves FastCGI requests until Ctrl-C.
#[derive(Args, Debug)]
#[command(mut_arg("listen", |arg| arg.default_value("inherited").help(LISTEN)))]
#[command(after_help = "Examples:\n  linger fcgi serve --echo --listen 127.0.0.1:9000\n  \
    spawn-fcgi -n -p 9000 -- linger fcgi serve --root /srv/www")]
#[group(skip)]
struct ServeArguments {
    /// Serve the files of this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, required_unless_present = "echo", conflicts_with = "echo")]
    root: Option<PathBuf>,
    /// Answer with the request
    #[arg(long)]
    echo: bool,
    #[command(flatten)]
    at: ListenAt,
    /// Most connections at once
    #[arg(long, value_name = "N", default_value_t = 256)]
    connections: usize,
    /// Let connections carry several requests at once
    #[arg(long)]
    multiplex: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(arguments: FcgiArguments) -> ExitCode {
    match arguments.verb {
        FcgiVerb::Get(get) => get.run(),
        FcgiVerb::Serve(serve) => serve.run(),
    }
}

impl Get {
    fn run(self) -> ExitCode {
        let method = if self.body.is_some() { "POST" } else { "GET" };
        let (file, query) = self.script.split_once('?').unwrap_or((&self.script, ""));
        let mut request =
            GatewayRequest::new(method, file).param("QUERY_STRING", query).param("REQUEST_URI", &self.script);
        match self.body.as_deref().map(|path| (path, path.as_os_str() == "-")) {
            None => {}
            Some((_, true)) => {
                // CONTENT_LENGTH precedes the body, so read all of it first.
                let mut body = Vec::new();
                if let Err(error) = io::stdin().read_to_end(&mut body) {
                    return exit::io("cannot read stdin", &error);
                }
                request = request.body(body);
            }
            Some((path, false)) => match File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)))
            {
                Ok((length, file)) => {
                    request = request.param("CONTENT_LENGTH", length.to_string()).stream(file)
                }
                Err(error) => return exit::file(format_args!("cannot read {}", path.display()), &error),
            },
        }
        for (name, value) in &self.param {
            request = request.param(name, value);
        }
        let mut config = gateway::Config::default();
        config.io_timeout = self.silence.timeout;
        let mut response = match Client::new(self.address, config).send(request) {
            Ok(response) => response,
            Err(error) => {
                let told = lines::Fcgi { error: Some(error.to_string()), ..lines::Fcgi::default() };
                return self.output.end(told, status_of(&error), &error);
            }
        };
        let copied = io::copy(&mut response, &mut io::stdout().lock());
        let flushed = copied.and_then(|bytes| io::stdout().flush().map(|()| bytes));
        let log = String::from_utf8_lossy(response.stderr()).trim_end().to_owned();
        let app_status = response.end().map(|end| end.app_status);
        let write_error = response.write_error().map(ToString::to_string);
        if !self.output.json {
            if !log.is_empty() {
                say!("{log}");
            }
            if let Some(error) = &write_error {
                say!(
                    "linger: the application did not read all of the request ({error}); its response is complete"
                );
            }
        }
        let told = lines::Fcgi {
            complete: app_status.is_some(),
            response_bytes: flushed.as_ref().ok().copied(),
            app_status,
            write_error,
            error: flushed.as_ref().err().map(ToString::to_string),
            log: (!log.is_empty()).then_some(log),
        };
        match (flushed, app_status) {
            (Ok(_), Some(0)) => {
                self.output.line(told);
                ExitCode::from(exit::NOTHING_LOST)
            }
            (Ok(_), status) => {
                let status = status.unwrap_or(0);
                self.output.end(
                    told,
                    exit::LOSS_FOUND,
                    format_args!("the application ended with status {status}"),
                )
            }
            (Err(error), _) => match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
                Some(error) => self.output.end(told, status_of(error), error),
                None => {
                    self.output.line(told);
                    Stopped::from(error).end(None)
                }
            },
        }
    }
}

impl JsonBeside {
    /// Prints the line, if lines were asked for.
    fn line(self, told: lines::Fcgi) {
        if self.json {
            say_json(&line(told));
        }
    }

    /// Reports a fault, in the line with `--json` and otherwise as a sentence. Returns `status`.
    fn end(self, told: lines::Fcgi, status: u8, error: impl Display) -> ExitCode {
        if !self.json {
            return exit::fail(status, error);
        }
        self.line(told);
        ExitCode::from(status)
    }
}

fn status_of(error: &Error) -> u8 {
    match error {
        Error::Cut { .. } | Error::Short { .. } => exit::LOSS_FOUND,
        _ => exit::COULD_NOT_TELL,
    }
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
    fn run(self) -> ExitCode {
        let mut config = responder::Config::default();
        config.connections = self.connections.max(1);
        config.multiplex = self.multiplex;
        // Addresses that may connect, as the web server says (FastCGI specification, section 3.2).
        // By an empty list, servers mean that there is no restriction.
        match std::env::var("FCGI_WEB_SERVER_ADDRS") {
            Ok(list) if !list.trim().is_empty() => match addresses(&list) {
                Ok(addresses) => config.allowed = Some(addresses),
                Err(word) => {
                    let text = format_args!("FCGI_WEB_SERVER_ADDRS: `{word}` is no IP address");
                    return exit::fail(exit::BAD_USAGE, text);
                }
            },
            _ => {}
        }
        if let Some(root) = &self.root
            && let Err(error) = std::fs::read_dir(root)
        {
            return exit::file(format_args!("cannot serve {}", root.display()), &error);
        }
        let address = match self.at.listen {
            ListenOn::Tcp(address) => Some(Address::Tcp(address.to_string())),
            ListenOn::Unix(path) => Some(Address::Unix(path)),
            ListenOn::Inherited => None,
        };
        let responder = match &address {
            Some(address) => {
                Responder::bind(address, config).map_err(|error| exit::listening(address, &error))
            }
            None => inherited(config).map_err(|error| exit::io("cannot listen", &error)),
        };
        let responder = match responder {
            Ok(responder) => responder,
            Err(code) => return code,
        };
        match responder.local_address() {
            Ok(address) => say!("serving FastCGI on {address} (Ctrl-C to end)"),
            Err(error) => return exit::io("cannot tell where it listens", &error),
        }
        let stop = responder.stopper();
        if let Err(error) = interrupt::on_first(move || stop.stop()) {
            return exit::io("cannot take signals", &error);
        }
        let served = match self.root {
            Some(root) => responder.run(apps::Files::new(root)),
            None => responder.run(apps::Echo::default()),
        };
        match served {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(error) => exit::io("cannot go on accepting", &error),
        }
    }
}
