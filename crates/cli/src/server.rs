//! `linger server`: one side of the experiment, by hand.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use linger_lab::{Bytes, COUNTERS, Consume, Ending, Hosting, LARGEST_RESPONSE, ServerPlan, host, listen};
use linger_netns::net;

use crate::address::address;
use crate::lines::{self, Verb, line};
use crate::output::{Stdout, Stopped, say};
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
    say!(
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
    let served = match served {
        Ok(served) => served,
        Err(error) => return exit::io("cannot go on accepting", &error),
    };
    let mut out = Stdout::new();
    let printed = if arguments.json {
        out.json(&line(Verb::Server, lines::Hosting::from(&served)))
    } else {
        print(&mut out, &served)
    };
    match printed.and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(exit::NOTHING_LOST),
        Err(stopped) => stopped.end(Some(exit::NOTHING_LOST)),
    }
}

fn print(out: &mut Stdout, served: &Hosting) -> Result<(), Stopped> {
    out.text(format_args!("accepted       {} connections\n", served.accepted))?;
    out.text(format_args!("written        {} bytes\n", served.written))?;
    if served.errors.is_empty() {
        out.text(format_args!("socket errors  none\n"))?;
    }
    for (error, count) in &served.errors {
        out.text(format_args!("socket errors  {count} x {error}\n"))?;
    }
    for (ended, count) in &served.endings {
        out.text(format_args!("lingering      {count} x {ended}\n"))?;
    }
    out.text(format_args!("the kernel counted meanwhile, for everybody on this host:\n"))?;
    for counter in COUNTERS {
        out.text(format_args!("  {counter:<17}{}\n", served.counters.of(counter)))?;
    }
    Ok(())
}
