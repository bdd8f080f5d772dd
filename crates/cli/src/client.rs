//! `linger client`: the client's side of the lab's experiment, over a real network.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueHint};
use linger_lab::{Campaign, ClientModel, ClientPlan, Fate, First, Tally, Until, campaign};

use crate::lines::{self, line};
use crate::options::{AtRisk, ClientSide, Json, RunFor};
use crate::output::{Stdout, Stopped, say};
use crate::typed::{Bytes, HostPort, connect_to, positive};
use crate::{exit, interrupt, progress};

/// Sends requests and says what became of every response.
#[derive(Args, Debug)]
#[command(mut_arg("concurrency", |arg| arg.default_value("12")), mut_arg("time", |arg| arg.group("end").value_parser(positive)))]
#[command(after_help = "Examples:\n  linger client 192.0.2.7:8080 --request 108 --until-reset\n  \
    linger client [2001:db8::7]:8080 --late 8 --count 1000 --recv-buffer 16KiB\n\n\
    `lost`: bytes are missing. `at risk`: all bytes arrived, and then the connection was reset or a\n\
    write failed; another client or a slower link would have lost some.\n\
    Exit status: 0 every response was kept, 1 some were lost or at risk, 3 could not tell.")]
pub(crate) struct ClientArguments {
    /// The server.
    #[arg(value_name = "HOST:PORT", value_parser = connect_to, value_hint = ValueHint::Hostname)]
    server: HostPort,
    /// Size of the request.
    #[arg(long, value_name = "BYTES", default_value = "100")]
    request: Bytes,
    /// Bytes to send once the response has begun.
    #[arg(long, value_name = "BYTES", default_value = "0")]
    late: Bytes,
    /// Size of the response to expect; `linger server` says it by itself.
    #[arg(long, value_name = "BYTES")]
    response: Option<Bytes>,
    #[command(flatten)]
    clients: ClientSide,
    /// Go on until bytes of a response are missing.
    #[arg(long, group = "end")]
    until_loss: bool,
    /// Go on until a connection is reset, whether or not bytes are missing.
    #[arg(long, group = "end")]
    until_reset: bool,
    /// Make this many connections [default: 100].
    #[arg(long, value_name = "N", group = "end", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    end: RunFor,
    /// How long a connection may take.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive)]
    timeout: Duration,
    #[command(flatten)]
    at_risk: AtRisk,
    #[command(flatten)]
    output: Json,
}

pub(crate) fn run(arguments: ClientArguments) -> ExitCode {
    let server = match arguments.server.resolve() {
        Ok(server) => server,
        Err(error) => {
            return exit::io(format_args!("cannot find {} (is the name right?)", arguments.server), &error);
        }
    };
    let plan = ClientPlan {
        model: ClientModel::default(),
        server,
        from: None,
        request: arguments.request.0,
        extra: 0,
        late: arguments.late.0,
        response: arguments.response.map(|bytes| bytes.0),
        receive_buffer: arguments.clients.receive_buffer(),
        congestion: None,
        reads: true,
        closes: true,
        timeout: arguments.timeout,
    };
    let until = match arguments.end.time {
        _ if arguments.until_loss => Until::Loss,
        _ if arguments.until_reset => Until::Reset,
        Some(time) => Until::For(time),
        None => Until::Count(arguments.count.unwrap_or(100)),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let bar = progress::spinner();
    let seen = campaign(&plan, arguments.clients.concurrency, until, &stop, |so_far| {
        let Tally { trials, lost, at_risk, .. } = so_far.tally;
        bar.set_message(format!("{trials} connections, {lost} lost, {at_risk} at risk"));
    });
    bar.finish_and_clear();
    let mut out = Stdout::new();
    let printed = if arguments.output.json {
        out.json(&line(lines::ClientSummary::from(&seen)))
    } else {
        print(&mut out, &seen, &arguments.server)
    };
    let printed = printed.and_then(|()| out.flush());
    moral(&seen, server, until);
    let status = status(&seen, arguments.at_risk.at_risk_ok);
    match printed {
        Ok(()) => ExitCode::from(status),
        Err(stopped) => stopped.end(Some(status)),
    }
}

fn status(seen: &Campaign, at_risk_ok: bool) -> u8 {
    let tally = &seen.tally;
    let at_risk = if at_risk_ok { 0 } else { tally.at_risk };
    match tally.lost + at_risk {
        0 if tally.trials == 0 || seen.unknown_length => exit::COULD_NOT_TELL,
        0 => exit::NOTHING_LOST,
        bad if bad == without_connection(seen) => exit::COULD_NOT_TELL,
        _ => exit::LOSS_FOUND,
    }
}

/// Trials in which no connection was made, so that no response could be lost.
fn without_connection(seen: &Campaign) -> u64 {
    seen.tally.of(Fate::Refused) + seen.tally.of(Fate::Failed)
}

fn print(out: &mut Stdout, seen: &Campaign, server: &HostPort) -> Result<(), Stopped> {
    let tally = &seen.tally;
    let seconds = seen.elapsed.as_secs_f64();
    out.text(format_args!("{} connections to {server} in {seconds:.1} s\n", tally.trials))?;
    for fate in Fate::ALL.into_iter().filter(|fate| tally.of(*fate) > 0) {
        out.text(format_args!("  {fate:<34}{}\n", tally.of(fate)))?;
    }
    if tally.trials > 0 && without_connection(seen) == tally.trials {
        return out
            .text(format_args!("no connection was made: nothing is known of this server's responses\n"));
    }
    let (low, high) = tally.interval();
    out.text(format_args!(
        "lost {} of {}: {:.1}% to {:.1}% (95% interval)\n",
        tally.lost,
        tally.trials,
        low * 100.0,
        high * 100.0
    ))?;
    if tally.at_risk > 0 {
        let (at_risk, trials) = (tally.at_risk, tally.trials);
        out.text(format_args!("at risk {at_risk} of {trials}: all bytes arrived, and then a reset\n"))?;
    }
    for (first, what) in [(seen.first_loss, "loss"), (seen.first_at_risk, "reset after all bytes")] {
        if let Some(First { trial, at, fate }) = first {
            let seconds = at.as_secs_f64();
            out.text(format_args!("first {what} after {trial} trials, {seconds:.1} s: {fate}\n"))?;
        }
    }
    Ok(())
}

/// Prints what the numbers do not show by themselves.
fn moral(seen: &Campaign, server: SocketAddr, until: Until) {
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
    if until == Until::Loss && tally.lost == 0 && tally.at_risk > 0 {
        say!(
            "note: no byte was missing, and {} connections were reset all the same; --until-reset stops at the \
             first of them.",
            tally.at_risk
        );
    }
    if seen.unknown_length {
        say!(
            "note: the responses do not say how long they are; say it with --response, or a short one with a \
             clean end goes unnoticed."
        );
    }
    if let (true, Some(error)) = (without_connection(seen) > 0, &seen.error) {
        say!("note: {error}; is `linger server` running at {server}?");
    }
}
