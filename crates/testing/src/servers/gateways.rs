//! Web servers in front of a FastCGI (or uwsgi) application.

use std::net::SocketAddr;
use std::process::Command;

use super::launch::{Launch, RunningServer, Unavailable, program};

/// How a gateway handles the application.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GatewayOptions {
    /// Whether responses are buffered.
    pub buffered: bool,
    /// Whether request bodies are buffered.
    pub request_buffered: bool,
    /// Whether connections to the application are kept.
    pub keep_conn: bool,
    /// Number of worker processes, if it can be set.
    pub workers: u32,
    /// Longest wait for the application, in seconds.
    pub timeout_seconds: u32,
    /// The folder of the application's scripts; `None` for the gateway's own folder.
    pub scripts: Option<String>,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            buffered: true,
            request_buffered: true,
            keep_conn: false,
            workers: 1,
            timeout_seconds: 20,
            scripts: None,
        }
    }
}

fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

/// Whether a server has to change its user: it runs as root, and other users exist.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root() && !is_alone()
}

/// Whether this is a user namespace in which only one user is mapped, as in tests without root. A server that starts as
/// root there has no other user to change to.
fn is_alone() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ids = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    ids.sum::<u64>() == 1
}

/// An error for servers that insist on changing their user, if there is no other user.
pub(crate) fn needs_users(name: &str) -> Result<(), Unavailable> {
    if !is_alone() {
        return Ok(());
    }
    let reason =
        "it changes its user, and this user namespace has no other: run the tests as root".to_owned();
    Err(Unavailable::Unsuited { name: name.to_owned(), reason })
}

/// nginx with all its files in its own folder, and with `http` inside its http block.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed or does not start.
pub fn nginx(name: &str, workers: u32, http: &str) -> Result<RunningServer, Unavailable> {
    let nginx = program("nginx", "nginx")?;
    let launch = Launch::new(name);
    let folder = launch.folder();
    let user = if is_root() { "user root;" } else { "" };
    // Without a master process nginx does not try to change its user.
    let user = if is_alone() { "user root root; master_process off;" } else { user };
    let http = http.replace("PORT", &launch.port.to_string()).replace("FOLDER", &folder.to_string());
    let config = format!(
        "daemon off; {user} worker_processes {workers}; pid {folder}/pid; error_log {folder}/error.log warn;
         worker_rlimit_nofile 8192; events {{ worker_connections 4096; }}
         http {{
           access_log off; client_max_body_size 1g; server_tokens on;
           client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
           uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
           {http}
         }}"
    );
    let file = launch.file("nginx.conf", config);
    let mut command = Command::new(nginx);
    command.arg("-p").arg(launch.path("")).arg("-c").arg(file).arg("-e").arg(launch.path("error.log"));
    launch.start(command)
}

const FASTCGI_PARAMS: &str = "
    fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD $request_method;
    fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length;
    fastcgi_param SCRIPT_NAME $fastcgi_script_name; fastcgi_param REQUEST_URI $request_uri;
    fastcgi_param SCRIPT_FILENAME SCRIPTS$fastcgi_script_name;
    fastcgi_param SERVER_PROTOCOL $server_protocol; fastcgi_param REMOTE_ADDR $remote_addr;
    fastcgi_param SERVER_NAME $server_name; fastcgi_param SERVER_PORT $server_port;
    fastcgi_param SERVER_ADDR $server_addr; fastcgi_param REMOTE_PORT $remote_port;
    fastcgi_param GATEWAY_INTERFACE CGI/1.1; fastcgi_param SERVER_SOFTWARE nginx;
    fastcgi_param REDIRECT_STATUS 200; fastcgi_param DOCUMENT_ROOT $document_root;";

/// nginx in front of a FastCGI application.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed or does not start.
pub fn nginx_fcgi(application: SocketAddr, options: GatewayOptions) -> Result<RunningServer, Unavailable> {
    let timeout = options.timeout_seconds;
    let params = FASTCGI_PARAMS.replace("SCRIPTS", options.scripts.as_deref().unwrap_or("$document_root"));
    let keepalive = if options.keep_conn { "keepalive 8;" } else { "" };
    let (buffered, keep, body) = (on(options.buffered), on(options.keep_conn), on(options.request_buffered));
    nginx(
        "nginx",
        options.workers,
        &format!(
            "upstream application {{ server {application}; {keepalive} }}
             server {{
               listen 127.0.0.1:PORT backlog=1024; root FOLDER;
               location / {{
                 fastcgi_pass application; fastcgi_keep_conn {keep}; fastcgi_buffering {buffered};
                 fastcgi_request_buffering {body}; fastcgi_read_timeout {timeout}s; fastcgi_send_timeout {timeout}s;
                 {params}
               }}
             }}"
        ),
    )
}

/// nginx in front of a server that speaks uwsgi.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed or does not start.
pub fn nginx_uwsgi(application: SocketAddr) -> Result<RunningServer, Unavailable> {
    let params = FASTCGI_PARAMS.replace("fastcgi_param", "uwsgi_param").replace("SCRIPTS", "$document_root");
    nginx(
        "nginx",
        1,
        &format!(
            "server {{ listen 127.0.0.1:PORT; root FOLDER;
               location / {{ uwsgi_pass {application}; {params} }} }}"
        ),
    )
}

/// httpd with the modules that all tests need, and `config` after them.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed, cannot run here or does not start.
pub fn httpd(name: &str, mpm: &str, modules: &[&str], config: &str) -> Result<RunningServer, Unavailable> {
    let httpd = program("apache2", "apache2")?;
    needs_users("httpd")?;
    let launch = Launch::new(name);
    let folder = launch.folder();
    let user = if is_root() { "User www-data\nGroup www-data" } else { "" };
    let mpm_module = format!("mpm_{mpm}");
    let mut load = String::new();
    for module in [mpm_module.as_str(), "authz_core"].iter().chain(modules) {
        load.push_str(&format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n"));
    }
    let config = config.replace("PORT", &launch.port.to_string()).replace("FOLDER", &folder.to_string());
    let text = format!(
        "ServerRoot {folder}\nServerName localhost\nPidFile {folder}/pid\nDefaultRuntimeDir {folder}\n{load}
         {user}\nErrorLog {folder}/error.log\nLogLevel warn\nListen 127.0.0.1:{}\nDocumentRoot {folder}\nTimeout 20
         ServerTokens Full\n<Directory />\nRequire all granted\n</Directory>\n{config}\n",
        launch.port
    );
    let file = launch.file("httpd.conf", text);
    let mut command = Command::new(httpd);
    command.arg("-DFOREGROUND").arg("-f").arg(file);
    launch.start(command)
}

/// httpd's mod_proxy_fcgi in front of a FastCGI application.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed, cannot run here or does not start.
pub fn httpd_fcgi(application: SocketAddr, options: GatewayOptions) -> Result<RunningServer, Unavailable> {
    httpd(
        "httpd",
        "event",
        &["proxy", "proxy_fcgi"],
        &format!(
            "ServerLimit 2\nThreadsPerChild 32\nMaxRequestWorkers 64\nStartServers 1\nMinSpareThreads 1
             MaxSpareThreads 64\nProxyTimeout {}
             ProxyPass / fcgi://{application}/ enablereuse={} {}",
            options.timeout_seconds,
            on(options.keep_conn),
            if options.buffered { "" } else { "flushpackets=on" },
        ),
    )
}

/// lighttpd with the settings that all tests need, and `config` after them.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed or does not start.
pub fn lighttpd(name: &str, config: &str) -> Result<RunningServer, Unavailable> {
    let lighttpd = program("lighttpd", "lighttpd")?;
    let launch = Launch::new(name);
    let folder = launch.folder();
    let config = config.replace("FOLDER", &folder.to_string());
    let text = format!(
        "server.document-root = \"{folder}\"\nserver.port = {}\nserver.bind = \"127.0.0.1\"
         server.errorlog = \"{folder}/error.log\"\nserver.upload-dirs = ( \"{folder}\" )\n{config}\n",
        launch.port
    );
    let file = launch.file("lighttpd.conf", text);
    let mut command = Command::new(lighttpd);
    command.arg("-D").arg("-f").arg(file);
    launch.start(command)
}

/// lighttpd in front of a FastCGI application.
///
/// # Errors
/// Returns [`Unavailable`] if it is not installed or does not start.
pub fn lighttpd_fcgi(application: SocketAddr, options: GatewayOptions) -> Result<RunningServer, Unavailable> {
    let streaming = u8::from(!options.buffered);
    let body = u8::from(!options.request_buffered);
    lighttpd(
        "lighttpd",
        &format!(
            "server.modules = ( \"mod_fastcgi\" )\nserver.stream-response-body = {streaming}
             server.stream-request-body = {body}
             fastcgi.server = ( \"/\" => (( \"host\" => \"{}\", \"port\" => {}, \"check-local\" => \"disable\" )) )",
            application.ip(),
            application.port()
        ),
    )
}
