//! The programs that act, and their configuration.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linger_lab::{
    HostPlan, HostProgram, IpVersion, JoinedHosts, Link, Named as _, NetworkExpectation, NetworkPlan,
    Readiness, Requests,
};
use tempfile::TempDir;

/// Bytes of the request's body and of each response.
pub(super) const BYTES: usize = 67_000;

/// How long a program may take to listen, and the clients of an act until all is answered.
const READY: Duration = Duration::from_secs(20);
const LONGEST: Duration = Duration::from_secs(150);

/// Where Debian has uWSGI's plugins and httpd's modules.
const PLUGINS: &str = "/usr/lib/uwsgi/plugins";
const MODULES: &str = "/usr/lib/apache2/modules";

/// What stands between the client and the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gateway {
    Nginx,
    Httpd,
    /// Nothing: the client is one of this program's own.
    Absent,
}

impl Gateway {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Httpd => "httpd",
            Self::Absent => "linger fcgi get",
        }
    }
}

/// Who acts here, and the folder with their files.
pub(super) struct Cast {
    folder: TempDir,
    /// This program.
    own: PathBuf,
    /// uWSGI, a client (`ab`), and at least one gateway are there.
    is_real: bool,
    gateways: Vec<Gateway>,
    /// What would have to be installed, in sentences.
    pub(super) lacks: Vec<&'static str>,
}

impl Cast {
    /// Looks for the programs, and writes their files.
    pub(super) fn gather() -> io::Result<Self> {
        let folder = tempfile::tempdir()
            .map_err(|error| saying("cannot make a folder for the programs (TMPDIR says where)", &error))?;
        // It stands in commands and in the programs' files.
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
        if !folder.path().to_str().is_some_and(|path| path.chars().all(is_plain)) {
            let told = format!(
                "{}: the programs cannot be told of such a folder; set TMPDIR to one without spaces and signs",
                folder.path().display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        }
        // httpd's processes have a user of their own.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let mut lacks = Vec::new();
        let mut has = |is_there: bool, lack| {
            if !is_there {
                lacks.push(lack);
            }
            is_there
        };
        let uwsgi = has(
            is_program("uwsgi") && Path::new(PLUGINS).join("python3_plugin.so").is_file(),
            "uWSGI with Python (Debian: uwsgi-core, uwsgi-plugin-python3)",
        );
        let ab = has(is_program("ab"), "ab (Debian: apache2-utils)");
        let curl = has(is_program("curl"), "curl");
        let nginx = has(is_program("nginx"), "nginx (Debian: nginx-light)");
        let httpd = has(
            is_program("apache2") && Path::new(MODULES).join("mod_proxy_uwsgi.so").is_file(),
            "httpd (Debian: apache2)",
        );
        let httpd = httpd && has(has_users()?, "root: httpd changes its user, which nobody else may");
        let is_real = uwsgi && ab && curl && (nginx || httpd);
        let mut gateways = Vec::new();
        if is_real {
            gateways.extend(nginx.then_some(Gateway::Nginx));
            gateways.extend(httpd.then_some(Gateway::Httpd));
        } else {
            gateways.push(Gateway::Absent);
        }
        let cast = Self { folder, own: std::env::current_exe()?, is_real, gateways, lacks };
        cast.write()?;
        Ok(cast)
    }

    pub(super) fn is_real(&self) -> bool {
        self.is_real
    }

    pub(super) fn gateways(&self) -> impl Iterator<Item = Gateway> + use<'_> {
        self.gateways.iter().copied()
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn own(&self) -> &Path {
        &self.own
    }

    /// The application's command, for `sh -c`. `queue` bounds its accept queue.
    fn application(&self, is_cured: bool, queue: Option<u32>) -> String {
        let (own, folder) = (self.own.display(), self.folder.path().display());
        // What `run` unpacks goes with the folder, also if its supervisor is killed with the network.
        let exec = if is_cured {
            format!("export TMPDIR='{folder}'; exec '{own}' run --quiet --")
        } else {
            "exec".to_owned()
        };
        if !self.is_real {
            let ending = "fcgi serve --ending close --listen $LINGER_APPLICATION:9002";
            return format!("{exec} '{own}' {ending} --response {BYTES}");
        }
        let (socket, workers) = match queue {
            Some(queue) => ("--http-socket", format!("--processes 1 --listen {queue}")),
            None => ("--socket", "--processes 4 --threads 4".to_owned()),
        };
        format!(
            "{exec} uwsgi --plugins-dir {PLUGINS} --plugin python3 {socket} $LINGER_APPLICATION:9002 {workers} --master --need-app \
             --wsgi-file '{folder}/app.py' --die-on-term --disable-logging"
        )
    }

    /// The gateway's command, if there is one.
    fn gateway(&self, gateway: Gateway) -> Option<String> {
        let folder = self.folder.path().display();
        match gateway {
            Gateway::Nginx => Some(format!(": > '{folder}/error.log'; exec nginx -c '{folder}/nginx.conf'")),
            Gateway::Httpd => {
                Some(format!(": > '{folder}/error.log'; exec apache2 -DFOREGROUND -f '{folder}/httpd.conf'"))
            }
            Gateway::Absent => None,
        }
    }

    /// The clients' command behind this gateway, for `sh -c`: 100 uploads, 20 at a time, of which the application reads nothing. What they got
    /// stands in `client.txt`.
    pub(super) fn clients(&self, gateway: Gateway) -> String {
        let folder = self.folder.path().display();
        if gateway == Gateway::Absent {
            let own = self.own.display();
            return format!(
                "cd '{folder}' || exit 1; for i in $(seq 20); do '{own}' fcgi get --body body $LINGER_APPLICATION:9002 /x | sed '1,/^.$/d' | wc -c; done > client.txt 2> get.log"
            );
        }
        format!(
            "cd '{folder}' || exit 1
             ab -q -s 20 -n 100 -c 20 -p body -T application/octet-stream http://gateway:8080/x > client.txt 2>&1"
        )
    }

    /// The hosts of an act: the application first, then the gateway, if there is one, and the clients. `link` leads to the application.
    pub(super) fn network(
        &self,
        link: &Link,
        seed: u64,
        (gateway, is_cured, queue): (Gateway, bool, Option<u32>),
        clients: String,
    ) -> io::Result<NetworkPlan> {
        let host = |name: &str, run: Option<String>, port| HostPlan {
            name: name.to_owned(),
            place: "the story".to_owned(),
            program: run.map(|run| HostProgram { run, ready: Readiness::Listens(Some(port)), within: READY }),
            user: None,
            settings: BTreeMap::new(),
            files: Vec::new(),
        };
        let mut application = host("application", Some(self.application(is_cured, queue)), 9002);
        if queue.is_some() {
            // SYN cookies would hide the overflow: the client would see what looks like packet loss.
            let settings = [("net.ipv4.tcp_abort_on_overflow", "1"), ("net.ipv4.tcp_syncookies", "0")];
            application.settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        }
        let mut hosts = vec![application];
        // The application's link stands first: it is the one that is recorded.
        let mut links = vec![JoinedHosts { ends: [0, 1], link: link.clone() }];
        if let Some(run) = self.gateway(gateway) {
            hosts.push(host("gateway", Some(run), 8080));
            let near = Link::named("lan").map_err(io::Error::other)?;
            links.push(JoinedHosts { ends: [1, 2], link: near });
        }
        hosts.push(host("client", None, 0));
        let client = Requests {
            host: hosts.len() - 1,
            run: clients,
            response: 0,
            upload: None,
            requests: 1,
            concurrency: 1,
            timeout: LONGEST,
        };
        let title = String::new();
        let expect = NetworkExpectation::default();
        Ok(NetworkPlan {
            title,
            hosts,
            links,
            client,
            ip: IpVersion::V4,
            seed,
            expect,
            folder: self.folder().to_owned(),
        })
    }

    fn write(&self) -> io::Result<()> {
        let put = |name: &str, text: &str| {
            let file = self.file(name);
            std::fs::write(&file, text)
                .map_err(|error| saying(&format!("cannot write {}", file.display()), &error))
        };
        put("body", &"\0".repeat(BYTES))?;
        put("app.py", &application())?;
        let folder = self.folder.path().display().to_string();
        put("nginx.conf", &nginx(&folder))?;
        put("httpd.conf", &httpd(&folder))
    }
}

/// The error, and what it was about.
fn saying(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// An application that answers before it has read anything, and sleeps if it is asked to.
fn application() -> String {
    format!(
        "import time\n\
         def application(environment, start):\n    \
         if 'sleep' in environment.get('QUERY_STRING', ''):\n        time.sleep(0.01)\n    \
         start('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '{BYTES}')])\n    \
         return [b'r' * {BYTES}]\n"
    )
}

fn nginx(folder: &str) -> String {
    let parameters = [
        ("QUERY_STRING", "$query_string"),
        ("REQUEST_METHOD", "$request_method"),
        ("CONTENT_TYPE", "$content_type"),
        ("CONTENT_LENGTH", "$content_length"),
        ("REQUEST_URI", "$request_uri"),
        ("PATH_INFO", "$document_uri"),
        ("SERVER_PROTOCOL", "$server_protocol"),
        ("REMOTE_ADDR", "$remote_addr"),
        ("SERVER_NAME", "$server_name"),
        ("SERVER_PORT", "$server_port"),
    ];
    let parameters: String =
        parameters.iter().map(|(name, value)| format!("uwsgi_param {name} {value}; ")).collect();
    let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {folder}/{kind}; "))
        .collect();
    format!(
        "daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log error; events {{ }}\n\
         http {{ access_log off; client_max_body_size 9m; {places}\n \
         server {{ listen 8080; location / {{ {parameters}uwsgi_pass application:9002; }} }} }}\n"
    )
}

fn httpd(folder: &str) -> String {
    let modules: String = ["mpm_event", "authz_core", "proxy", "proxy_uwsgi"]
        .iter()
        .map(|name| format!("LoadModule {name}_module {MODULES}/mod_{name}.so\n"))
        .collect();
    format!(
        "ServerRoot {folder}\nServerName gateway\nListen 8080\nPidFile {folder}/pid\nErrorLog {folder}/error.log\n\
         Mutex file:{folder} default\nUser www-data\nGroup www-data\nProxyTimeout 20\n{modules}\
         ProxyPass / uwsgi://application:9002/ retry=0\n"
    )
}

fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Whether this user namespace has other users than one.
fn has_users() -> io::Result<bool> {
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    let count = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    Ok(map.lines().filter_map(count).sum::<u64>() > 1)
}
