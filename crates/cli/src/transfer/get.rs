//! `linger get` and `linger ls`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use linger_transfer::{Destination, Error, GetOptions, Item, Kind, Output};

use super::show::Show;
use super::{Connect, Copying, cannot_tell, conclude_told, is_stdio, refuse};
use crate::lines::{self, line};
use crate::output::{Stdout, Stopped};
use crate::{exit, interrupt};

/// Fetches a file, a directory or what a source gives, verifies it and puts it in place.
#[derive(Args, Debug)]
#[command(
    after_help = "DEST is the new name, DEST/ the directory to put it in; without it, the current directory.\n\
    HOST:PORT, HOST:PORT:PATH and [ADDRESS]:PORT:PATH name the port. A number after the host is always a port:\n\
    a file named 7117 is HOST:./7117.\n\n\
    Examples:\n  linger get server:disk.img\n  linger get server:src backup/\n  linger get server:@clipboard -\n\n\
    Exit status: 0 received and verified, 1 not received, 2 bad usage, 4 not possible here."
)]
pub(crate) struct GetArguments {
    /// What to fetch.
    #[arg(value_name = "HOST:[PORT:]PATH")]
    from: OsString,
    /// Where to; `-` is standard output.
    #[arg(value_name = "DEST|-", default_value = "./", value_hint = ValueHint::AnyPath)]
    to: PathBuf,
    #[command(flatten)]
    copying: Copying,
    #[command(flatten)]
    connect: Connect,
}

/// Lists what is shared.
#[derive(Args, Debug)]
#[command(
    after_help = "HOST:PORT and HOST:PORT:PATH name the port; a directory named 7117 is HOST:./7117.\n\n\
    Examples:\n  linger ls server:\n  linger ls --json server:src\n\n\
    Exit status: 0 listed, 2 bad usage, 3 the list was not received, 4 not possible here."
)]
pub(crate) struct ListArguments {
    /// What to list.
    #[arg(value_name = "HOST:[PORT:][PATH]")]
    what: OsString,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) fn run(arguments: &GetArguments) -> ExitCode {
    get(arguments).unwrap_or_else(|error| refuse(&error))
}

fn get(arguments: &GetArguments) -> Result<ExitCode, Error> {
    let GetArguments { from, to, copying, connect } = arguments;
    let remote = connect.remote(from)?;
    let mut options = GetOptions::default();
    options.replace = copying.replace;
    options.verify = !copying.no_verify;
    options.dry_run = copying.dry_run;
    options.durability = copying.durability;
    options.patterns = copying.patterns()?;
    options.limit = copying.limit();
    let output = if is_stdio(to) {
        let stdout = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3);
        let stdout = stdout
            .map_err(|error| Error::Usage(format!("standard output cannot be written: {error}").into()))?;
        Output::Stream(stdout)
    } else {
        Output::Path(to.clone())
    };
    let to_stdout = matches!(output, Output::Stream(_));
    if to_stdout && connect.output.json {
        return Err(Error::Usage("--json and DEST `-` both want standard output".into()));
    }
    let client = connect.client(&remote)?;
    interrupt::outlive_file_limit().map_err(|source| Error::Io {
        doing: "take",
        what: "signals".into(),
        source,
    })?;
    super::end_on_signal(&client)?;
    let top = match &remote.place {
        Destination::Path { path, .. } => path.to_string(),
        Destination::Port(name) => format!("@{name}"),
        _ => String::new(),
    };
    let mut show = Show::new(connect.output.json, &remote.host, top, copying.receipt.as_deref(), None)?;
    if to_stdout {
        show.keep_stdout();
    }
    let (summary, error) = client.get(&remote.place, &output, &options, &mut |progress| show.see(progress));
    let told = show.finish(&summary, error.as_ref());
    Ok(conclude_told(&summary, error.as_ref(), told))
}

pub(crate) fn list(arguments: &ListArguments) -> ExitCode {
    let ListArguments { what, connect } = arguments;
    let listed = connect.remote(what).and_then(|remote| {
        let Destination::Path { path, .. } = &remote.place else {
            return Err(Error::Usage("a sink or source cannot be listed".into()));
        };
        let mut items = Vec::new();
        let client = connect.client(&remote)?;
        super::end_on_signal(&client)?;
        client.list(path, &mut |item| items.push(item))?;
        Ok(items)
    });
    let mut items = match listed {
        Ok(items) => items,
        Err(error) => return cannot_tell(&error),
    };
    items.sort_by(|a, b| a.name.cmp(&b.name));
    match show(&items, connect.output.json) {
        Ok(()) => ExitCode::from(exit::NOTHING_LOST),
        Err(stopped) => stopped.end(Some(exit::NOTHING_LOST)),
    }
}

fn show(items: &[Item], json: bool) -> Result<(), Stopped> {
    let mut out = Stdout::new();
    for item in items {
        if json {
            out.json(&line(lines::ListedEntry::from(item)))?;
            continue;
        }
        let mark = match item.kind {
            Kind::Directory => "/",
            Kind::Link => "@",
            Kind::Pipe => "|",
            _ => "",
        };
        out.text(format_args!("{:>14}  {}{mark}\n", item.size, item.name.terminal()))?;
    }
    out.flush()
}
