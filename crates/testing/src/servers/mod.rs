//! Real servers, each with its own temporary configuration and port on loopback, ended by their process group.
//!
//! For tests, benches and `cargo xtask matrix` only. If a server is not installed, the test skips; if it is installed and does
//! not start, that is an error.

mod apps;
mod collector;
mod gateways;
mod launch;
mod subjects;

pub use apps::{cgi_fcgi, dokuwiki, libfcgi_echo, php_fpm, uwsgi, uwsgi_http};
pub use collector::{Collector, attribute, log_records, metrics};
pub use gateways::{
    GatewayOptions, httpd, httpd_fcgi, lighttpd, lighttpd_fcgi, nginx, nginx_fcgi, nginx_uwsgi,
};
pub use launch::{Launch, RunningServer, Unavailable, available, free_port, program};
pub use subjects::{
    LENGTH, SERVERS, Server, Subject, go_cache, go_program, python_with, sample, sample_program,
};
