//! `linger client`: the other side of the experiment, by hand.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use linger_lab::{Bytes, Campaign, ClientPlan, Fate, Until, campaign};

use crate::lines::{self, Verb, line};
use crate::output::{Stdout, Stopped, say};
use crate::{exit, interrupt, progress};

/// Sends requests and says what became of every response.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  linger client 192.0.2.7:8080 --request 108 --until-loss\n  \
    linger client [2001:db8::7]:8080 --late 8 --count 1000 --recv-buffer 16KiB")]
pub(crate) struct Arguments {
    /// The server, as HOST:PORT.
    server: String,
    /// Size of the request.
    #[arg(long, value_name = "BYTES", default_value = "100")]
    request: Bytes,
    /// Bytes to send once the response has begun.
    #[arg(long, value_name = "BYTES", default_value = "0")]
    late: Bytes,
    /// Size of the response to expect; `linger server` says it by itself.
    #[arg(long, value_name = "BYTES")]
    response: Option<Bytes>,
    /// Connections at a time.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    concurrency: u64,
    /// Go on until a response is lost.
    #[arg(long, group = "end")]
    until_loss: bool,
    /// Make so many connections [default: 100].
    #[arg(long, value_name = "N", group = "end")]
    count: Option<u64>,
    /// Go on for so long, as 30s or 5m; a number alone is seconds.
    #[arg(long, value_name = "SECS", group = "end", value_parser = duration)]
    r#for: Option<Duration>,
    /// Size of the receive buffer (SO_RCVBUF): a small one shows the loss on fast links.
    #[arg(long, value_name = "BYTES")]
    recv_buffer: Option<Bytes>,
    /// How long a connection may take.
    #[arg(long, value_name = "SECS", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// One JSON object at the end instead of text.
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }?;
    if parsed.is_zero() { Err("it must be longer than nothing".to_owned()) } else { Ok(parsed) }
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let server: SocketAddr = match arguments.server.to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(server)) => server,
        Ok(None) => {
            return exit::fail(exit::COULD_NOT_TELL, format_args!("{} has no address", arguments.server));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return exit::fail(
                exit::BAD_USAGE,
                format_args!(
                    "{}: {error}; write HOST:PORT, as 192.0.2.7:8080 or [2001:db8::7]:8080",
                    arguments.server
                ),
            );
        }
        Err(error) => {
            return exit::io(format_args!("cannot find {} (is the name right?)", arguments.server), &error);
        }
    };
    let plan = ClientPlan {
        server,
        from: None,
        request: arguments.request.0,
        extra: 0,
        late: arguments.late.0,
        response: arguments.response.map(|bytes| bytes.0),
        receive_buffer: arguments.recv_buffer.map(|bytes| bytes.0 as usize),
        congestion: None,
        reads: true,
        closes: true,
        timeout: arguments.timeout,
    };
    let until = match (arguments.until_loss, arguments.r#for) {
        (true, _) => Until::Loss,
        (_, Some(time)) => Until::For(time),
        _ => Until::Count(arguments.count.unwrap_or(100)),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let bar = progress::spinner();
    let seen = campaign(&plan, arguments.concurrency, until, &stop, |so_far| {
        bar.set_message(format!("{} connections, {} lost", so_far.tally.trials, so_far.tally.lost));
    });
    bar.finish_and_clear();
    let mut out = Stdout::new();
    let printed = if arguments.json {
        out.json(&line(Verb::Client, lines::Client::from(&seen)))
    } else {
        print(&mut out, &seen, &arguments.server)
    };
    let printed = printed.and_then(|()| out.flush());
    moral(&seen, server);
    match printed {
        Ok(()) => ExitCode::from(verdict(&seen)),
        Err(stopped) => stopped.end(Some(verdict(&seen))),
    }
}

fn verdict(seen: &Campaign) -> u8 {
    let tally = &seen.tally;
    let unanswered = tally.of(Fate::Refused) + tally.of(Fate::Failed);
    match tally.lost {
        0 if tally.trials == 0 || seen.unknown_length => exit::COULD_NOT_TELL,
        0 => exit::NOTHING_LOST,
        lost if lost == unanswered => exit::COULD_NOT_TELL,
        _ => exit::LOSS_FOUND,
    }
}

fn print(out: &mut Stdout, seen: &Campaign, server: &str) -> Result<(), Stopped> {
    let tally = &seen.tally;
    let seconds = seen.elapsed.as_secs_f64();
    out.text(format_args!("{} connections to {server} in {seconds:.1} s\n", tally.trials))?;
    for fate in Fate::ALL.into_iter().filter(|fate| tally.of(*fate) > 0) {
        out.text(format_args!("  {fate:<34}{}\n", tally.of(fate)))?;
    }
    let (low, high) = tally.interval();
    out.text(format_args!(
        "lost {} of {}: {:.1}% to {:.1}% (95% interval)\n",
        tally.lost,
        tally.trials,
        low * 100.0,
        high * 100.0
    ))?;
    if let Some((trial, time, fate)) = seen.first_loss {
        let seconds = time.as_secs_f64();
        out.text(format_args!("first loss after {trial} trials, {seconds:.1} s: {fate}\n"))?;
    }
    Ok(())
}

/// What the numbers do not say by themselves.
fn moral(seen: &Campaign, server: SocketAddr) {
    let tally = &seen.tally;
    if seen.cut > 0 {
        say!("note: interrupted: {} connections under way were cut and are not counted.", seen.cut);
    }
    if tally.of(Fate::ResetBeforeAny) > 0 {
        say!(
            "note: a reset before any byte: check the listen backlog first, the server may never have seen the \
             connection.\n      On the server: `nstat -az TcpExtListenOverflows TcpExtListenDrops` should not grow, \
             and in `ss -ltn`\n      Recv-Q (waiting) should stay below Send-Q (the backlog) for port {}.",
            server.port()
        );
    }
    if seen.unknown_length {
        say!(
            "note: the responses do not say how long they are; say it with --response, or a short one with a \
             clean end goes unnoticed."
        );
    }
    if let (true, Some(error)) = (tally.of(Fate::Refused) + tally.of(Fate::Failed) > 0, &seen.error) {
        say!("note: {error}; is `linger server` running at {server}?");
    }
}
