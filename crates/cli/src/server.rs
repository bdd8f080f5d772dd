//! `linger server`: one side of the experiment, by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use linger_lab::{Bytes, COUNTERS, Consume, Ending, Hosting, LARGEST_RESPONSE, ServerPlan, host, listen};
use linger_netns::net;
use serde::Serialize;

use crate::address::address;
use crate::{exit, interrupt, progress};

/// Serves responses and ends each connection in a given way, until Ctrl-C.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  linger server --listen 0.0.0.0:8080 --ending close --consume 100\n  \
    linger server --listen [::]:8080 --ending lingering --consume 100\n\
    and on the other machine: linger client HOST:8080 --request 108 --until-loss")]
pub(crate) struct Arguments {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:8080", value_parser = address)]
    listen: SocketAddr,
    /// What to do after the last write: close, shutdown-close, so-linger=SECS, abort, exit, lingering.
    #[arg(long, default_value = "close")]
    ending: Ending,
    /// Size of the response.
    #[arg(long, value_name = "BYTES", default_value = "200k")]
    response: Bytes,
    /// How much of the request to read; `all` is what the request says it has.
    #[arg(long, value_name = "BYTES|all", default_value = "all", value_parser = consume)]
    consume: Consume,
    /// How many connections may wait to be accepted.
    #[arg(long, value_name = "N", default_value_t = 128)]
    backlog: u32,
    /// How many connections are served at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    workers: u64,
    /// One JSON object at the end instead of text.
    #[arg(long)]
    json: bool,
}

fn consume(text: &str) -> Result<Consume, String> {
    if text == "all" { Ok(Consume::All) } else { text.parse().map(|Bytes(bytes)| Consume::Bytes(bytes)) }
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    if arguments.response.0 > LARGEST_RESPONSE {
        return exit::fail(exit::BAD_USAGE, "--response: this server holds at most 1GiB");
    }
    let plan = ServerPlan::new(arguments.ending, arguments.consume, arguments.response.0);
    let listener = match listen(arguments.listen, arguments.backlog, None) {
        Ok(listener) => listener,
        Err(error) => return exit::listening(arguments.listen, &error),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let limit = net::read_sysctl("core/somaxconn").ok().and_then(|limit| limit.parse().ok());
    let backlog = limit.map_or(arguments.backlog, |limit: u32| limit.min(arguments.backlog));
    let address = listener.local_addr().unwrap_or(arguments.listen);
    eprintln!(
        "listening on {address}, ending `{}`, response {} bytes, backlog {backlog}{} (Ctrl-C to end)",
        arguments.ending,
        arguments.response.0,
        if backlog < arguments.backlog { " (net.core.somaxconn)" } else { "" },
    );
    let bar = progress::spinner();
    let served = host(&listener, &plan, arguments.workers, &stop, |so_far| {
        bar.set_message(format!("{} connections, {} bytes", so_far.accepted, so_far.written));
    });
    bar.finish_and_clear();
    match served {
        Ok(served) if arguments.json => println!("{}", serde_json::json!(Object::of(&served))),
        Ok(served) => print(&served),
        Err(error) => return exit::io("cannot go on accepting", &error),
    }
    ExitCode::from(exit::NOTHING_LOST)
}

fn print(served: &Hosting) {
    println!("accepted       {} connections", served.accepted);
    println!("written        {} bytes", served.written);
    if served.errors.is_empty() {
        println!("socket errors  none");
    }
    for (error, count) in &served.errors {
        println!("socket errors  {count} x {error}");
    }
    for (ended, count) in &served.endings {
        println!("lingering      {count} x {ended}");
    }
    println!("the kernel counted meanwhile, for everybody on this host:");
    for counter in COUNTERS {
        println!("  {counter:<17}{}", served.counters.of(counter));
    }
}

/// The results for machines.
#[derive(Serialize)]
#[serde(tag = "type", rename = "server")]
struct Object<'a> {
    accepted: u64,
    written: u64,
    errors: &'a BTreeMap<String, u64>,
    endings: &'a BTreeMap<String, u64>,
    counters: BTreeMap<&'static str, u64>,
}

impl<'a> Object<'a> {
    fn of(served: &'a Hosting) -> Self {
        Self {
            accepted: served.accepted,
            written: served.written,
            errors: &served.errors,
            endings: &served.endings,
            counters: crate::counters::counters(&served.counters),
        }
    }
}
