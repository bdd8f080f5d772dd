//! `linger server`: the server's side of the lab's experiment, over a real network.

use std::process::ExitCode;

use clap::Args;
use linger::Policy;
use linger_lab::{COUNTERS, Consume, Ending, Hosting, LARGEST_RESPONSE, ServerPlan, host, listen};
use linger_netns::net;

use crate::lines::{self, line};
use crate::memory::room_for;
use crate::options::{Json, ListenAt, ServerSide};
use crate::output::{Stdout, Stopped, say};
use crate::typed::{Bytes, Names, endings};
use crate::{exit, interrupt, progress};

/// Serves responses and ends each connection in a given way, until Ctrl-C.
#[derive(Args, Debug)]
#[command(mut_arg("listen", |arg| arg.default_value("127.0.0.1:8080")))]
#[command(after_help = "Examples:\n  linger server --listen 0.0.0.0:8080 --ending close --consume 100\n  \
    linger server --listen [::]:8080 --ending lingering --consume 100\n\
    and on the other machine: linger client HOST:8080 --request 108 --until-loss")]
pub(crate) struct ServerArguments {
    #[command(flatten)]
    at: ListenAt,
    /// What to do after the last write; so-linger=SECS waits that long.
    #[arg(long, default_value = "close", value_parser = endings())]
    ending: Ending,
    #[command(flatten)]
    side: ServerSide,
    /// How much of the request to read; `all` is what the request says it has.
    #[arg(long, value_name = "BYTES|all", default_value = "all", value_parser = Names::new(["all"], consume), hide_possible_values = true)]
    consume: Consume,
    /// How many connections are served at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    workers: u64,
    #[command(flatten)]
    output: Json,
}

pub(crate) fn consume(text: &str) -> Result<Consume, String> {
    if text == "all" { Ok(Consume::All) } else { text.parse().map(|Bytes(bytes)| Consume::Bytes(bytes)) }
}

pub(crate) fn run(arguments: ServerArguments) -> ExitCode {
    let ServerSide { response: Bytes(response), backlog: wanted } = arguments.side;
    if response > LARGEST_RESPONSE {
        return exit::fail(exit::BAD_USAGE, "--response: this server holds at most 1GiB");
    }
    if let Err(error) = room_for(response) {
        return exit::io(format_args!("cannot hold a response of {response} bytes"), &error);
    }
    let mut plan = ServerPlan::new(arguments.ending, arguments.consume, response);
    // Other servers are compared with this one. A client that reads late must not lose here what it keeps with a longer wait.
    plan.policy = Policy::patient();
    let wanted_at = match arguments.at.listen.tcp() {
        Ok(address) => address,
        Err(why) => return exit::fail(exit::BAD_USAGE, format_args!("--listen: {why}")),
    };
    let listener = wanted_at.resolve().and_then(|address| {
        let listener = listen(address, wanted, None)?;
        Ok((listener.local_addr()?, listener))
    });
    let (address, listener) = match listener {
        Ok(listener) => listener,
        Err(error) => return exit::listening(wanted_at, &error),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let limit = net::read_sysctl("core/somaxconn").ok().and_then(|limit| limit.parse().ok());
    let backlog = limit.map_or(wanted, |limit: u32| limit.min(wanted));
    say!(
        "listening on {address}, ending `{}`, response {response} bytes, backlog {backlog}{} (Ctrl-C to end)",
        arguments.ending,
        if backlog < wanted { " (net.core.somaxconn)" } else { "" },
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
    let printed = if arguments.output.json {
        out.json(&line(lines::Hosting::from(&served)))
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
