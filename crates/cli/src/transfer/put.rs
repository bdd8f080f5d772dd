//! `linger put`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueHint};
use linger_transfer::{
    Destination, Error, Input, ItemVerdict, Patterns, Progress, PutOptions, Summary, hex, scan,
};

use super::several::Several;
use super::show::Show;
use super::standing::Standing;
use super::{Connect, Copying, is_remote, is_stdio, refuse};
use crate::kernel;
use crate::output::say;

/// Sends a file, a directory or standard input, and waits until the receiver has confirmed it.
#[derive(Args, Debug)]
#[command(
    after_help = "HOST:PATH is the new name there, HOST:PATH/ the directory to put it in, HOST:@NAME a sink.\n\
    HOST:PORT, HOST:PORT:PATH and [ADDRESS]:PORT:PATH name the port. A number after the host is always a port:\n\
    a file named 7117 is HOST:./7117. unix:/SOCKET:PATH is a server on a unix socket.\n\
    Missing directories are made.\n\n\
    Examples:\n  linger put disk.img server:\n  linger put *.log server:logs/\n  linger put --receipt r.json src/ server:backup/\n  \
    pg_dump db | linger put - server:db.sql\n  linger put - server:@print < letter.ps\n\n\
    Exit status: 0 confirmed, 1 not delivered, 2 bad usage, 3 sent but not confirmed, 4 not possible here."
)]
pub(crate) struct PutArguments {
    /// What to send, and last where to; `-` is standard input. Several go into the directory that is named.
    // One list: clap takes no second one behind an option that stands between them.
    #[arg(value_name = "FILE|DIR|-... HOST:[PORT:][PATH]", required = true, value_hint = ValueHint::AnyPath)]
    operands: Vec<OsString>,
    /// Run a sink's command, although it may have run for the same content before: for once you have looked, after a status 3.
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    copying: Copying,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) fn run(arguments: &PutArguments) -> ExitCode {
    put(arguments).unwrap_or_else(|error| refuse(&error))
}

/// The last name of what is sent.
fn top(from: &Path) -> String {
    from.file_name().unwrap_or(from.as_os_str()).to_string_lossy().into_owned()
}

fn put(arguments: &PutArguments) -> Result<ExitCode, Error> {
    let PutArguments { operands, again, copying, connect } = arguments;
    let [from @ .., to] = &operands[..] else { return Err(Error::Usage("nothing is to be sent".into())) };
    let from: Vec<PathBuf> = from.iter().map(PathBuf::from).collect();
    if from.is_empty() {
        return Err(Error::Usage("where to is missing: HOST:PATH comes last".into()));
    }
    if !is_remote(to) && from.iter().any(|from| is_remote(from.as_os_str())) {
        return Err(Error::Usage(
            "the last place is on this machine: `linger get HOST:PATH DEST` fetches".into(),
        ));
    }
    let mut remote = connect.remote(to)?;
    if let (Destination::Path { into, .. }, [_, _, ..]) = (&mut remote.place, &from[..]) {
        *into = true;
    }
    if *again && !matches!(remote.place, Destination::Named(_)) {
        let told = "--again is for sinks (HOST:@NAME): a file is never received twice";
        return Err(Error::Usage(told.into()));
    }
    let mut options = PutOptions::default();
    options.anew = *again;
    options.if_exists = copying.if_exists();
    options.selection = copying.selection();
    options.chmod.clone_from(&copying.chmod);
    options.verify = !copying.no_verify;
    options.dry_run = copying.dry_run;
    options.durability = copying.durability;
    options.patterns = Patterns::new(&copying.patterns()?)?;
    options.limit = copying.limit();
    let client = Arc::new(connect.client(&remote)?);
    let standing = Standing::new(connect.output.json);
    standing.end_on_signal(&client)?;
    let mut show = Show::new(
        connect.output.json,
        &remote.host,
        from.first().map_or_else(String::new, |from| top(from)),
        copying.receipt.as_deref(),
        &from.iter().map(PathBuf::as_path).collect::<Vec<_>>(),
    )?;
    let mut several = Several::default();
    // The ids of transfers to a sink that may or may not have been delivered.
    let mut open = Vec::new();
    for source in &from {
        if from.len() > 1 {
            show.next_top(&remote.host, top(source));
        }
        let (mut summary, error) = match input(source, &options, &mut show) {
            Ok(input) => client.put(input, &remote.place, &options, &mut |progress| {
                standing.see(&progress);
                show.see(progress);
            }),
            Err(error) => (Summary::default(), Some(error)),
        };
        if from.len() > 1 {
            // The receipt file of several operands has other paths than those that the receiver has signed.
            summary.signed = None;
        }
        // If the receiver has answered that the result is not known, it would give the same answer later.
        let has_answered = matches!(&error, Some(Error::Refused(..)));
        if summary.verdict(error.as_ref()) == ItemVerdict::Unconfirmed && !has_answered {
            open.extend(summary.transfer);
        }
        if several.note(summary, error).is_break() {
            break;
        }
    }
    let end = several.conclude(show, &standing)?;
    if let Destination::Named(name) = &remote.place {
        for id in open {
            say!("linger: to ask later: linger receipt ask {} {}", remote.typed(name), hex(&id));
        }
    }
    Ok(end)
}

fn input(from: &Path, options: &PutOptions, show: &mut Show) -> Result<Input, Error> {
    if is_stdio(from) {
        if kernel::had_no_stdin() {
            return Err(Error::Usage("standard input is closed: there is nothing to send".into()));
        }
        // A duplicate, because std never closes fd 0.
        let stdin = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3);
        let stdin =
            stdin.map_err(|error| Error::Usage(format!("standard input cannot be read: {error}").into()))?;
        return Ok(Input::Pipe(stdin));
    }
    if show.is_watched() && from.is_dir() {
        let (mut bytes, mut entries) = (0, 0);
        scan(from, options, &mut |_, size| {
            (entries, bytes) = (entries + 1, bytes + size);
            show.see(Progress::Scanning { entries, bytes });
        })?;
        show.total(bytes);
    }
    Ok(Input::Path(from.to_owned()))
}
