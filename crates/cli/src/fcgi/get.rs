//! `linger fcgi get`: one request to an application.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, StdoutLock, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum, ValueHint};
use linger_fastcgi::Address;
use linger_fastcgi::cgi::{Head, MOST_HEAD};
use linger_fastcgi::environment::{Environment, InvalidRequest, Site, Underscores};
use linger_fastcgi::gateway::{self, Client, Error, GatewayRequest};
use linger_fastcgi::record::Role;

use super::status_of;
use crate::exit;
use crate::lines::{self, line};
use crate::options::{JsonBeside, Silence};
use crate::output::{Stopped, say, say_json};
use crate::typed::fastcgi;

/// Sends one request; headers and body go to stdout, the application's log to stderr.
#[derive(Args, Debug)]
#[command(mut_arg("timeout", |arg| arg.default_value("60s")))]
#[command(after_help = "Examples:\n  linger fcgi get 127.0.0.1:9000 /srv/www/index.php\n  \
    linger fcgi get unix:/run/php/php-fpm.sock /srv/www/form.php --param CONTENT_TYPE=text/plain --body form.txt\n  \
    linger fcgi get --fail unix:/run/php/php-fpm.sock /ping\n  \
    linger fcgi get unix:/run/php/php-fpm.sock '/doku.php/wiki:start?do=edit' --root /srv/www --split .php\n\n\
    Exit status: 0 the response is complete, 1 it was cut or the application failed, 3 there was none.")]
pub(super) struct Get {
    /// HOST:PORT, or unix:/PATH.
    #[arg(value_parser = fastcgi)]
    address: Address,
    /// The script's file name, as the application sees it; with --root a path of a URL. A query may follow behind `?`
    script: String,
    /// The folder of the scripts, as the application sees it: the path is decoded and stays below it, as behind a web server
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    root: Option<String>,
    /// How a script's name ends: what follows it in the path is PATH_INFO; may be given often
    #[arg(long, value_name = "ENDING", requires = "root")]
    split: Vec<String>,
    /// The script of a folder, for a path that ends in `/`
    #[arg(long, value_name = "NAME", requires = "root", default_value = "", hide_default_value = true)]
    index: String,
    /// A header field, as a web server passes it on; may be given often
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = field)]
    header: Vec<(String, String)>,
    /// A parameter, in place of the usual one of that name
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    param: Vec<(String, String)>,
    /// Pass the environment on as parameters, as cgi-fcgi does; --param goes before it
    #[arg(long)]
    env: bool,
    /// The request's body, from a file or a pipe; `-` is stdin. Makes it a POST
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    body: Option<PathBuf>,
    /// The role in which the application is called
    #[arg(long, value_enum, default_value_t = RoleName::Responder)]
    role: RoleName,
    /// What a filter is to turn into a response
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    data: Option<PathBuf>,
    /// Count an HTTP status from 400 on as a failure
    #[arg(long)]
    fail: bool,
    #[command(flatten)]
    silence: Silence,
    #[command(flatten)]
    output: JsonBeside,
}

/// A role of the specification's section 6.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum RoleName {
    Responder,
    Authorizer,
    Filter,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Responder => Self::Responder,
            RoleName::Authorizer => Self::Authorizer,
            RoleName::Filter => Self::Filter,
        }
    }
}

/// Standard output, with the beginning of what was written, in which the header block is.
struct Noting {
    to: StdoutLock<'static>,
    begin: Vec<u8>,
}

impl Write for Noting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MOST_HEAD.saturating_sub(self.begin.len());
        self.begin.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.to.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Puts a file's bytes into the request. CONTENT_LENGTH precedes the body, so what has no length of its own, as a pipe, is read
/// to its end first.
fn body(request: GatewayRequest, path: &Path) -> io::Result<GatewayRequest> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().read_to_end(&mut bytes)?;
        return Ok(request.body(bytes));
    }
    let mut file = File::open(path)?;
    let about = file.metadata()?;
    // A file of /proc says that it is empty.
    if about.is_file() && about.len() > 0 {
        return Ok(request.param("CONTENT_LENGTH", about.len().to_string()).stream(file));
    }
    file.read_to_end(&mut bytes)?;
    Ok(request.body(bytes))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A header field. What may be in a name is what HTTP allows (RFC 9110 section 5.6.2).
fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as NAME: VALUE")?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("`{}` is no name of a header", name.escape_debug()));
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

impl Get {
    /// The variables of the request, without the body's and the user's own.
    fn environment(&self) -> Result<Environment, InvalidRequest> {
        let method = if self.body.is_some() { "POST" } else { "GET" };
        let mut environment = match &self.root {
            Some(root) => {
                let mut site = Site::from(root.as_str());
                (site.split, site.index) = (self.split.clone(), self.index.clone());
                Environment::of_target(method, &self.script, &site)?
            }
            None => {
                let (file, query) = self.script.split_once('?').unwrap_or((&self.script, ""));
                Environment::of_file(method, file, query)
            }
        };
        environment.local();
        if let Some((_, host)) = self.header.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")) {
            environment.host(Some(host), false);
        }
        let fields = self.header.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        environment.fields(fields, Underscores::Refuse)?;
        Ok(environment)
    }

    /// The request that is asked for. The error has been reported.
    fn request(&self) -> Result<GatewayRequest, ExitCode> {
        let unread = |path: &Path, error| exit::file(format_args!("cannot read {}", path.display()), &error);
        let environment = self.environment().map_err(|error| exit::fail(exit::BAD_USAGE, error))?;
        let mut request = GatewayRequest::of(environment);
        if let Some(path) = &self.body {
            request = body(request, path).map_err(|error| unread(path, error))?;
        }
        request.role = self.role.into();
        if let Some(path) = &self.data {
            if self.role != RoleName::Filter {
                return Err(exit::fail(exit::BAD_USAGE, "--data is for --role filter"));
            }
            let data = std::fs::read(path).map_err(|error| unread(path, error))?;
            request = request.param("FCGI_DATA_LENGTH", data.len().to_string()).data(data);
        }
        if self.env {
            for (name, value) in std::env::vars_os() {
                request = request.param(name.as_encoded_bytes(), value.as_encoded_bytes());
            }
        }
        for (name, value) in &self.param {
            request = request.param(name, value);
        }
        Ok(request)
    }

    pub(super) fn run(self) -> ExitCode {
        let request = match self.request() {
            Ok(request) => request,
            Err(code) => return code,
        };
        let mut config = gateway::Config::default();
        config.io_timeout = self.silence.timeout;
        let mut response = match Client::new(self.address, config).send(request) {
            Ok(response) => response,
            Err(error) => {
                let told = lines::Fcgi { error: Some(error.to_string()), ..lines::Fcgi::default() };
                return self.output.end(told, status_of(&error), &error);
            }
        };
        let mut stdout = Noting { to: io::stdout().lock(), begin: Vec::new() };
        let copied = io::copy(&mut response, &mut stdout);
        let flushed = copied.and_then(|bytes| stdout.flush().map(|()| bytes));
        let head = Head::parse(&stdout.begin);
        let http_status = head.as_ref().ok().and_then(Option::as_ref).map(|(head, _)| head.status);
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
            http_status,
            write_error,
            error: flushed.as_ref().err().map(ToString::to_string),
            log: (!log.is_empty()).then_some(log),
        };
        match (flushed, app_status) {
            (Ok(_), Some(0)) if self.fail && http_status.is_none_or(|status| status >= 400) => {
                let what = match head {
                    Err(error) => error.to_string(),
                    Ok(None) => "the response has no header block".to_owned(),
                    Ok(Some((head, _))) => {
                        format!("the application answered with HTTP status {}", head.status)
                    }
                };
                self.output.end(told, exit::LOSS_FOUND, what)
            }
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
