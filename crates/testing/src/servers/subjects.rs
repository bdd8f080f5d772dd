//! The servers of the matrix, each with a response of 300,000 bytes, and the URL to probe.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::apps::{php_fpm, uwsgi};
use super::gateways::{GatewayOptions, httpd, httpd_fcgi, lighttpd, nginx, nginx_fcgi, nginx_uwsgi};
use super::launch::{Launch, RunningServer, Unavailable, program};

/// Bytes in each server's response.
pub const LENGTH: usize = 300_000;

/// A running server to be probed, with the servers behind it.
#[derive(Debug)]
pub struct Subject {
    /// The URL to probe.
    pub url: String,
    /// The running servers, the probed one first.
    pub peers: Vec<RunningServer>,
}

impl Subject {
    fn http(front: RunningServer, behind: Vec<RunningServer>) -> Self {
        let url = format!("http://{}/large", front.address);
        Self { url, peers: std::iter::once(front).chain(behind).collect() }
    }

    fn fcgi(application: RunningServer, script: &str) -> Self {
        Self { url: format!("fcgi://{}{script}", application.address), peers: vec![application] }
    }
}

/// A row of the matrix.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Server {
    /// The server's name in the matrix.
    pub name: &'static str,
    /// Starts it.
    pub start: fn() -> Result<Subject, Unavailable>,
    /// A program and arguments that print its version; or `Cargo.lock` and the crate whose version is read there.
    pub version: (&'static str, &'static [&'static str]),
}

macro_rules! server {
    ($name:literal, $version:expr, $start:expr) => {
        Server { name: $name, start: $start, version: $version }
    };
}

const NGINX: (&str, &[&str]) = ("nginx", &["-v"]);
const HTTPD: (&str, &[&str]) = ("apache2", &["-v"]);
const UWSGI: (&str, &[&str]) = ("uwsgi", &["--version"]);
const GUNICORN: (&str, &[&str]) = ("gunicorn", &["--version"]);

/// Every server of the matrix, in its order.
pub const SERVERS: &[Server] = &[
    server!("nginx, lingering_close on", NGINX, || nginx_files("on")),
    server!("nginx, lingering_close off", NGINX, || nginx_files("off")),
    server!("nginx, lingering_close always", NGINX, || nginx_files("always")),
    server!("httpd, event", HTTPD, || httpd_files("event")),
    server!("httpd, prefork", HTTPD, || httpd_files("prefork")),
    server!("lighttpd", ("lighttpd", &["-v"]), lighttpd_files),
    server!("haproxy", ("haproxy", &["-v"]), haproxy),
    server!("varnish", ("varnishd", &["-V"]), varnish),
    server!("caddy", ("caddy", &["version"]), caddy),
    server!("uWSGI, HTTP socket", UWSGI, || Ok(Subject::http(uwsgi("http-socket", 2, WSGI)?, vec![]))),
    server!("uWSGI, uwsgi socket behind nginx", UWSGI, || {
        let application = uwsgi("socket", 2, WSGI)?;
        Ok(Subject::http(nginx_uwsgi(application.address)?, vec![application]))
    }),
    server!("uWSGI, FastCGI socket", UWSGI, || Ok(Subject::fcgi(
        uwsgi("fastcgi-socket", 2, WSGI)?,
        "/large"
    ))),
    server!("uWSGI, FastCGI socket behind nginx", UWSGI, || {
        let application = uwsgi("fastcgi-socket", 2, WSGI)?;
        Ok(Subject::http(nginx_fcgi(application.address, GatewayOptions::default())?, vec![application]))
    }),
    server!("uWSGI, FastCGI socket behind httpd", UWSGI, || {
        let application = uwsgi("fastcgi-socket", 2, WSGI)?;
        Ok(Subject::http(httpd_fcgi(application.address, GatewayOptions::default())?, vec![application]))
    }),
    server!("gunicorn, sync", GUNICORN, || gunicorn(&["--workers", "2"])),
    server!("gunicorn, gthread", GUNICORN, || gunicorn(&["--worker-class", "gthread", "--threads", "8"])),
    server!("waitress", ("waitress-serve", &[]), waitress),
    server!("uvicorn", ("uvicorn", &["--version"]), uvicorn),
    server!("Python http.server", ("python3", &["--version"]), http_server),
    server!("Node", ("node", &["--version"]), node),
    server!("Go net/http", ("go", &["version"]), go),
    server!("php-fpm", ("php-fpm", &["--version"]), || {
        let application = php_fpm(4, PHP)?;
        let script = application.path("script.php");
        Ok(Subject::fcgi(application, &script.to_string_lossy()))
    }),
    server!("axum", ("Cargo.lock", &["axum"]), || sample("axum-bare")
        .map(|peer| Subject::http(peer, vec![]))),
    server!("axum with linger", ("Cargo.lock", &["axum"]), || sample("axum-linger")
        .map(|peer| Subject::http(peer, vec![]))),
    server!("actix-web", ("Cargo.lock", &["actix-web"]), || sample("actix")
        .map(|peer| Subject::http(peer, vec![]))),
    server!("linger-fastcgi", ("Cargo.lock", &["linger-fastcgi"]), || sample("fastcgi")
        .map(|peer| Subject::fcgi(peer, "/large"))),
    server!("linger-fastcgi behind nginx", ("Cargo.lock", &["linger-fastcgi"]), || {
        let application = sample("fastcgi")?;
        Ok(Subject::http(nginx_fcgi(application.address, GatewayOptions::default())?, vec![application]))
    }),
];

/// Applications that answer without reading the request's body.
const WSGI: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'application/octet-stream'), ('Content-Length', '300000')])
    return [b'r' * 300000]
";

const ASGI: &str = "
async def application(scope, receive, send):
    if scope['type'] != 'http':
        return
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'300000')]})
    await send({'type': 'http.response.body', 'body': b'r' * 300000})
";

const PHP: &str = "<?php header('Content-Type: application/octet-stream'); echo str_repeat('r', 300000);";

const NODE: &str = "
require('http').createServer((request, response) => {
  response.writeHead(200, { 'Content-Length': 300000 });
  response.end(Buffer.alloc(300000, 'r'));
}).listen(PORT, '127.0.0.1');
";

const GO: &str = r#"package main

import (
	"bytes"
	"net/http"
	"os"
)

func main() {
	answer := bytes.Repeat([]byte("r"), 300000)
	http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "300000")
		w.Write(answer)
	}))
}
"#;

fn large() -> Vec<u8> {
    vec![b'r'; LENGTH]
}

fn nginx_files(lingering: &str) -> Result<Subject, Unavailable> {
    let config = format!(
        "server {{ listen 127.0.0.1:PORT backlog=1024; root FOLDER; lingering_close {lingering};
           client_max_body_size 1m; }}"
    );
    let peer = nginx("nginx", 1, &config)?;
    fs::write(peer.path("large"), large()).expect("the folder is there");
    Ok(Subject::http(peer, vec![]))
}

fn httpd_files(mpm: &str) -> Result<Subject, Unavailable> {
    let config = "LimitRequestBody 1048576\nAlias /large FOLDER/output.large\n";
    let peer = httpd("httpd", mpm, &["alias"], config)?;
    fs::write(peer.path("output.large"), large()).expect("the folder is there");
    Ok(Subject::http(peer, vec![]))
}

fn lighttpd_files() -> Result<Subject, Unavailable> {
    let peer = lighttpd("lighttpd", "server.max-request-size = 1024")?;
    fs::write(peer.path("large"), large()).expect("the folder is there");
    Ok(Subject::http(peer, vec![]))
}

fn haproxy() -> Result<Subject, Unavailable> {
    let haproxy = program("haproxy", "haproxy")?;
    let launch = Launch::new("haproxy");
    let answer = launch.file("large", large());
    let config = format!(
        "global\n  tune.bufsize 400000\n  maxconn 2000\ndefaults\n  mode http\n  timeout client 20s\n  timeout server 20s
  timeout connect 5s\n  timeout http-request 20s\nfrontend front\n  bind 127.0.0.1:{}\n
  http-request return status 200 content-type application/octet-stream file {}\n",
        launch.port,
        answer.display()
    );
    let file = launch.file("haproxy.cfg", config);
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(file);
    launch.start(command).map(|peer| Subject::http(peer, vec![]))
}

fn varnish() -> Result<Subject, Unavailable> {
    let varnish = program("varnishd", "varnish")?;
    let launch = Launch::new("varnish");
    let answer = launch.file("large", large());
    let vcl = format!(
        "vcl 4.1;\nimport std;\nbackend none none;\nsub vcl_recv {{ return (synth(200)); }}
sub vcl_synth {{ synthetic(std.fileread(\"{}\")); return (deliver); }}\n",
        answer.display()
    );
    let file = launch.file("large.vcl", vcl);
    let mut command = Command::new(varnish);
    command.args(["-F", "-j", "none", "-n"]).arg(launch.path("work"));
    command.arg("-a").arg(format!("127.0.0.1:{}", launch.port)).arg("-f").arg(file);
    command.args(["-p", "thread_pool_min=20", "-p", "thread_pools=1"]);
    launch.start(command).map(|peer| Subject::http(peer, vec![]))
}

fn caddy() -> Result<Subject, Unavailable> {
    let caddy = program("caddy", "caddy")?;
    let launch = Launch::new("caddy");
    launch.file("www/large", large());
    let config = format!(
        "{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{} {{\n root * {}\n file_server\n}}\n",
        launch.port,
        launch.path("www").display()
    );
    let file = launch.file("Caddyfile", config);
    let mut command = Command::new(caddy);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command
        .env("HOME", launch.path(""))
        .env("XDG_DATA_HOME", launch.path(""))
        .env("XDG_CONFIG_HOME", launch.path(""));
    launch.start(command).map(|peer| Subject::http(peer, vec![]))
}

/// Finds a program that `cargo xtask setup` installed from PyPI into `target/peers/python`, or that is in PATH.
fn python_program(name: &str, package: &str) -> Result<PathBuf, Unavailable> {
    let own = workspace().join("target/peers/python/bin").join(name);
    if own.is_file() {
        return Ok(own);
    }
    program(name, package)
}

/// The Python into which `cargo xtask setup` installed a module, `target/peers/python`.
///
/// # Errors
/// Returns [`Unavailable::Missing`] if it was not installed there.
pub fn python_with(module: &str) -> Result<PathBuf, Unavailable> {
    let missing = || Unavailable::Missing { program: module.to_owned(), package: module.to_owned() };
    let python = workspace().join("target/peers/python/bin/python3");
    let imported = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if imported.is_ok_and(|output| output.status.success()) { Ok(python) } else { Err(missing()) }
}

pub(super) fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn gunicorn(arguments: &[&str]) -> Result<Subject, Unavailable> {
    let gunicorn = python_program("gunicorn", "gunicorn")?;
    let launch = Launch::new("gunicorn");
    launch.file("app.py", WSGI);
    let mut command = Command::new(gunicorn);
    command.arg("--bind").arg(format!("127.0.0.1:{}", launch.port)).args(arguments);
    command.arg("--chdir").arg(launch.path("")).arg("app:application");
    launch.start(command).map(|peer| Subject::http(peer, vec![]))
}

fn waitress() -> Result<Subject, Unavailable> {
    let waitress = python_program("waitress-serve", "waitress")?;
    let launch = Launch::new("waitress");
    launch.file("app.py", WSGI);
    let mut command = Command::new(waitress);
    command.arg(format!("--listen=127.0.0.1:{}", launch.port)).arg("app:application");
    command.current_dir(launch.path("")).env("PYTHONPATH", launch.path(""));
    launch.start(command).map(|peer| Subject::http(peer, vec![]))
}

fn uvicorn() -> Result<Subject, Unavailable> {
    let uvicorn = python_program("uvicorn", "uvicorn")?;
    let launch = Launch::new("uvicorn");
    launch.file("app.py", ASGI);
    let mut command = Command::new(uvicorn);
    command.args(["--host", "127.0.0.1", "--port", &launch.port.to_string(), "--app-dir"]);
    command.arg(launch.path("")).args(["--log-level", "warning", "app:application"]);
    launch.start(command).map(|peer| Subject::http(peer, vec![]))
}

fn http_server() -> Result<Subject, Unavailable> {
    let python = program("python3", "python3")?;
    let launch = Launch::new("http.server");
    launch.file("www/large", large());
    let mut command = Command::new(python);
    command.args(["-m", "http.server", &launch.port.to_string(), "--bind", "127.0.0.1", "--directory"]);
    command.arg(launch.path("www"));
    launch.start(command).map(|peer| Subject::http(peer, vec![]))
}

fn node() -> Result<Subject, Unavailable> {
    let node = program("node", "nodejs")?;
    let launch = Launch::new("node");
    let file = launch.file("server.js", NODE.replace("PORT", &launch.port.to_string()));
    let mut command = Command::new(node);
    command.arg(file);
    launch.start(command).map(|peer| Subject::http(peer, vec![]))
}

fn go() -> Result<Subject, Unavailable> {
    go_program("go", GO).map(|peer| Subject::http(peer, vec![]))
}

/// Where Go's compiler keeps what it has compiled: its standard library takes half a minute of a processor. The user's own cache, if there
/// is one that can be written to.
pub fn go_cache() -> PathBuf {
    let own = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/go-build"));
    let may_write = |folder: &PathBuf| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    own.filter(may_write).unwrap_or_else(|| workspace().join("target/peers/go"))
}

/// Builds a Go program that uses only the standard library, and starts it with the port as its argument.
///
/// # Errors
/// Returns [`Unavailable::Missing`] if Go is not installed, [`Unavailable::Failed`] if the program does not
/// compile, and the errors of [`Launch::start`].
pub fn go_program(name: &str, source: &str) -> Result<RunningServer, Unavailable> {
    let go = program("go", "golang-go")?;
    let launch = Launch::new(name);
    let (source, binary) = (launch.file("main.go", source), launch.path("server"));
    let failed = |reason: String| Unavailable::Failed { name: name.to_owned(), reason };
    let built = Command::new(go)
        .args(["build", "-o"])
        .arg(&binary)
        .arg(source)
        .env("GOCACHE", go_cache())
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !built.status.success() {
        return Err(failed(String::from_utf8_lossy(&built.stderr).into_owned()));
    }
    let mut command = Command::new(binary);
    command.arg(launch.port.to_string());
    launch.start(command)
}

/// Starts one of this crate's sample servers, after building it if needed.
///
/// # Errors
/// Returns the errors of [`sample_program`] and [`Launch::start`].
pub fn sample(name: &str) -> Result<RunningServer, Unavailable> {
    let program = sample_program(name)?;
    let launch = Launch::new(name);
    let mut command = Command::new(program);
    command.arg(launch.port.to_string());
    launch.start(command)
}

/// The path of a sample server, which is built if needed. Its argument is the port.
///
/// # Errors
/// Returns [`Unavailable::Failed`] if the sample does not compile.
pub fn sample_program(name: &str) -> Result<PathBuf, Unavailable> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let program = target.join(profile).join(name);
    if is_stale(&program) {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--bin", name]);
        if name == "actix" {
            // A workspace of its own, whose dependencies may not have been fetched yet.
            build.args(["--locked", "--manifest-path", "crates/testing/actix/Cargo.toml"]);
        } else {
            build.args(["--offline", "--package", "linger-testing", "--features", "samples"]);
        }
        build.arg("--target-dir").arg(&target);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let failed = |reason: String| Unavailable::Failed { name: name.to_owned(), reason };
        let built = build.current_dir(workspace()).stdin(Stdio::null()).output();
        let built = built.map_err(|error| failed(format!("{build:?}: {error}")))?;
        if !built.status.success() {
            return Err(failed(format!("{build:?}: {}", String::from_utf8_lossy(&built.stderr))));
        }
    }
    Ok(program)
}

/// Whether a program is missing or older than its sources.
fn is_stale(program: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let Some(built) = changed(program) else { return true };
    let mut folders: Vec<PathBuf> = ["testing", "testing/actix", "linger", "fastcgi", "sys"]
        .iter()
        .map(|name| workspace().join("crates").join(name).join("src"))
        .collect();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                folders.push(path);
            } else if changed(&path).is_some_and(|changed| changed > built) {
                return true;
            }
        }
    }
    false
}

impl Server {
    /// The version number; empty if the program does not print it.
    pub fn version(&self) -> String {
        let (name, arguments) = self.version;
        let found = match name {
            "Cargo.lock" => return locked(arguments[0]),
            "php-fpm" => super::apps::php_fpm_program(),
            _ => python_program(name, name),
        };
        let Ok(found) = found else { return String::new() };
        if name == "waitress-serve" {
            let python = workspace().join("target/peers/python/bin/python3");
            let show = "import importlib.metadata as m; print(m.version('waitress'))";
            return said(&python, &["-c", show]);
        }
        said(&found, arguments)
    }
}

/// The version of a crate in the workspace's lock file.
fn locked(name: &str) -> String {
    let read = |path: &str| fs::read_to_string(workspace().join(path)).unwrap_or_default();
    let text = read("Cargo.lock") + &read("crates/testing/actix/Cargo.lock");
    let mut lines = text.lines().skip_while(|line| *line != format!("name = \"{name}\""));
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = "));
    version.unwrap_or_default().trim_matches('"').to_owned()
}

/// The first number with a dot in the output of a program.
fn said(program: &Path, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).stdin(Stdio::null()).output() else {
        return String::new();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let numbers =
        text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|number| number.trim_matches('.'));
    numbers.filter(|number| number.contains('.')).map(str::to_owned).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        assert!(locked("tokio").starts_with("1."), "{}", locked("tokio"));
        assert_eq!(said(Path::new("/bin/echo"), &["Server version: Apache/2.4.71 (Debian)"]), "2.4.71");
        assert_eq!(said(Path::new("/bin/echo"), &["go version go1.19.8 linux/amd64"]), "1.19.8");
    }
}
