//! Applications that speak FastCGI or uwsgi.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::gateways::{is_root, needs_users};
use super::launch::{Launch, RunningServer, Unavailable, program};

/// Finds `/usr/sbin/php-fpm8.2` or similar: Debian puts the version into the name.
pub(crate) fn php_fpm_program() -> Result<PathBuf, Unavailable> {
    if let Ok(path) = program("php-fpm", "php-fpm") {
        return Ok(path);
    }
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/sbin")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm")))
        .collect();
    versions.sort();
    versions
        .pop()
        .ok_or_else(|| Unavailable::Missing { program: "php-fpm".into(), package: "php-fpm".into() })
}

/// php-fpm with `workers` processes, serving `script.php` in its folder.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed, cannot run here or does not start.
pub fn php_fpm(workers: u32, script: &str) -> Result<RunningServer, Unavailable> {
    let launch = Launch::new("php-fpm");
    launch.file("script.php", script);
    fpm(launch, workers, &["-n", "-d", "post_max_size=1G", "-d", "enable_post_data_reading=0"])
}

/// php-fpm in the folder of `launch`, with these words of its command line.
fn fpm(launch: Launch, workers: u32, words: &[&str]) -> Result<RunningServer, Unavailable> {
    let php = php_fpm_program()?;
    needs_users("php-fpm")?;
    let user = if is_root() { "user = www-data\ngroup = www-data" } else { "" };
    let config = launch.file(
        "fpm.conf",
        format!(
            "[global]\nerror_log = {folder}/error.log\ndaemonize = no\n[www]\n{user}\nlisten = 127.0.0.1:{port}
listen.backlog = 1024\npm = static\npm.max_children = {workers}\ncatch_workers_output = yes\n",
            folder = launch.folder(),
            port = launch.port
        ),
    );
    let mut command = Command::new(php);
    command.arg("-F").arg("-y").arg(config).arg("-p").arg(launch.path("")).args(words);
    launch.start(command)
}

/// What DokuWiki is told. Its pages have their names in PATH_INFO, `admin` has the password `secret`, and others only read.
const WIKI: [(&str, &str); 3] = [
    (
        "local.php",
        "<?php $conf['useacl'] = 1; $conf['superuser'] = '@admin'; $conf['userewrite'] = 2; $conf['send404'] = 1;",
    ),
    ("acl.auth.php", "* @ALL 1\n* @admin 16\n"),
    ("users.auth.php", "admin:5ebe2294ecd0e0f08eab7690d2a6ee69:Admin:admin@example.org:admin,user\n"),
];

/// The folders in which it keeps what it is given.
const KEPT: [&str; 11] =
    ["pages", "attic", "media", "media_attic", "meta", "media_meta", "cache", "index", "locks", "tmp", "log"];

/// php-fpm with `workers` processes that runs DokuWiki, a copy of which is in the folder `wiki`. What it keeps is in `data`, the pages
/// `start` and `notes:first` among it. Uploads may have 64 MB. PHP finds no PATH_INFO on its own.
///
/// # Errors
/// Returns [`Unavailable`] if one of them is not installed, cannot run here or does not start.
pub fn dokuwiki(workers: u32) -> Result<RunningServer, Unavailable> {
    php_fpm_program()?;
    if !fs::exists("/usr/share/dokuwiki/doku.php").unwrap_or(false) {
        return Err(Unavailable::Missing { program: "doku.php".into(), package: "dokuwiki".into() });
    }
    let launch = Launch::new("php-fpm");
    let failed = |reason: String| Unavailable::Failed { name: "dokuwiki".into(), reason };
    // Its folders are full of links to others, and its settings lie in /etc, where another wiki may run with them.
    let copied = Command::new("cp")
        .args(["--recursive", "--dereference", "/usr/share/dokuwiki"])
        .arg(launch.path("wiki"))
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let settings =
        fs::read_dir("/etc/dokuwiki").map_err(|error| failed(format!("/etc/dokuwiki: {error}")))?;
    for entry in settings.flatten() {
        // Those of another wiki may not be readable.
        if let (Some(name), Ok(content)) = (entry.file_name().to_str(), fs::read(entry.path())) {
            launch.file(&format!("conf/{name}"), content);
        }
    }
    let folder = launch.folder().to_string();
    for (name, content) in WIKI {
        launch.file(&format!("conf/{name}"), content);
    }
    launch.file("conf/local.protected.php", format!("<?php $conf['savedir'] = '{folder}/data';"));
    launch.file(
        "wiki/inc/preload.php",
        format!("<?php if (!defined('DOKU_CONF')) define('DOKU_CONF', '{folder}/conf/');"),
    );
    launch.file("data/pages/start.txt", "====== A front page ======\n");
    launch.file("data/pages/notes/first.txt", "====== Notes ======\n\nIn **bold**.\n");
    for kept in KEPT {
        launch.file(&format!("data/{kept}/_dummy"), "");
    }
    let opened = Command::new("chmod").args(["--recursive", "a+rwX", &folder]).status();
    if !opened.is_ok_and(|status| status.success()) {
        return Err(failed(format!("{folder}: {}", String::from_utf8_lossy(&copied.stderr))));
    }
    let temporary = format!("{folder}/data/tmp");
    let settings = [
        "cgi.fix_pathinfo=0".to_owned(),
        "upload_max_filesize=64M".to_owned(),
        "post_max_size=64M".to_owned(),
        "display_errors=0".to_owned(),
        format!("session.save_path={temporary}"),
        format!("upload_tmp_dir={temporary}"),
    ];
    let words: Vec<&str> = settings.iter().flat_map(|setting| ["-d", setting]).collect();
    fpm(launch, workers, &words)
}

/// uWSGI serving a Python application over the protocol that `socket` names: `fastcgi-socket`, `socket` (uwsgi)
/// or `http-socket`.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed or does not start.
pub fn uwsgi(socket: &str, workers: u32, application: &str) -> Result<RunningServer, Unavailable> {
    let uwsgi = program("uwsgi", "uwsgi-core")?;
    let launch = Launch::new("uwsgi");
    let file = launch.file("application.py", application);
    let mut command = Command::new(uwsgi);
    command
        .args(["--plugin", "python3", "--need-app", "--disable-logging", "--die-on-term", "--listen", "100"])
        .arg(format!("--{socket}"))
        .arg(format!("127.0.0.1:{}", launch.port))
        .args(["--processes", &workers.to_string(), "--master", "--wsgi-file"])
        .arg(file);
    launch.start(command)
}

/// uWSGI's own HTTP socket.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed or does not start.
pub fn uwsgi_http(workers: u32, application: &str) -> Result<RunningServer, Unavailable> {
    uwsgi("http-socket", workers, application)
}

/// A program with libfcgi, compiled here with the C compiler and started on a socket by `cgi-fcgi`.
///
/// # Errors
/// Returns [`Unavailable`] if what it needs is not installed, or if it does not compile or does not start.
pub fn libfcgi_echo(source: &str, workers: u32) -> Result<RunningServer, Unavailable> {
    let cc = program("cc", "gcc")?;
    let starter = program("cgi-fcgi", "libfcgi-bin")?;
    if !["/usr/include/fcgiapp.h", "/usr/local/include/fcgiapp.h"]
        .iter()
        .any(|path| fs::exists(path).unwrap_or(false))
    {
        return Err(Unavailable::Missing { program: "fcgiapp.h".into(), package: "libfcgi-dev".into() });
    }
    let launch = Launch::new("libfcgi");
    let (c, echo) = (launch.file("echo.c", source), launch.path("echo"));
    let built = Command::new(cc).arg("-O2").arg("-o").arg(&echo).arg(c).arg("-lfcgi").output();
    let failed = |reason: String| Unavailable::Failed { name: "libfcgi".into(), reason };
    let built = built.map_err(|error| failed(error.to_string()))?;
    if !built.status.success() {
        return Err(failed(String::from_utf8_lossy(&built.stderr).into_owned()));
    }
    let mut command = Command::new("sh");
    // cgi-fcgi exits as soon as it has started the program. The shell stays, as the leader of the process group.
    let start = format!(
        "{} -start -connect 127.0.0.1:{} {} {workers}; exec sleep 100000",
        starter.display(),
        launch.port,
        echo.display()
    );
    command.arg("-c").arg(start);
    launch.start(command)
}

/// Sends a request with `cgi-fcgi`, libfcgi's own gateway. Returns whether it exited with 0, and what it wrote
/// to its standard output.
///
/// # Errors
/// Returns [`Unavailable::Missing`] if there is no such program, and [`Unavailable::Failed`] if it cannot be run.
pub fn cgi_fcgi(
    application: SocketAddr,
    variables: &[(&str, &str)],
    body: &[u8],
) -> Result<(bool, Vec<u8>), Unavailable> {
    let gateway = program("cgi-fcgi", "libfcgi-bin")?;
    let failed =
        |error: std::io::Error| Unavailable::Failed { name: "cgi-fcgi".into(), reason: error.to_string() };
    let mut child = Command::new(gateway)
        .args(["-bind", "-connect", &application.to_string()])
        .env_clear()
        .envs(variables.iter().copied())
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take();
    let body = body.to_vec();
    let writing = std::thread::spawn(move || {
        // cgi-fcgi may exit without reading all of its input.
        let _ = stdin.take().map(|mut stdin| std::io::Write::write_all(&mut stdin, &body));
    });
    let output = child.wait_with_output().map_err(failed)?;
    let _ = writing.join();
    Ok((output.status.success(), output.stdout))
}
