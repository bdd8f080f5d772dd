//! `linger put`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};
use linger_transfer::{Destination, Error, Input, ItemVerdict, Patterns, Progress, PutOptions, hex, scan};

use super::show::Show;
use super::{Connect, Copying, conclude_told, is_stdio, refuse};
use crate::output::say;

/// Sends a file, a directory or standard input, and waits until the receiver has confirmed it.
#[derive(Args, Debug)]
#[command(
    after_help = "HOST:PATH is the new name there, HOST:PATH/ the directory to put it in, HOST:@NAME a sink.\n\
    HOST:PORT, HOST:PORT:PATH and [ADDRESS]:PORT:PATH name the port. A number after the host is always a port:\n\
    a file named 7117 is HOST:./7117.\n\n\
    Examples:\n  linger put disk.img server:\n  linger put --receipt r.json src/ server:backup/\n  \
    pg_dump db | linger put - server:db.sql\n  linger put - server:@print < letter.ps\n\n\
    Exit status: 0 confirmed, 1 not delivered, 2 bad usage, 3 sent but not confirmed, 4 not possible here."
)]
pub(crate) struct PutArguments {
    /// What to send; `-` is standard input.
    #[arg(value_name = "FILE|DIR|-", value_hint = ValueHint::AnyPath)]
    from: PathBuf,
    /// Where to.
    #[arg(value_name = "HOST:[PORT:][PATH]")]
    to: OsString,
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
    let PutArguments { from, to, copying, connect } = arguments;
    let remote = connect.remote(to)?;
    let mut options = PutOptions::default();
    options.replace = copying.replace;
    options.verify = !copying.no_verify;
    options.dry_run = copying.dry_run;
    options.durability = copying.durability;
    options.patterns = Patterns::new(&copying.patterns()?)?;
    options.limit = copying.limit();
    let client = connect.client(&remote)?;
    super::end_on_signal(&client)?;
    let mut show =
        Show::new(connect.output.json, &remote.host, top(from), copying.receipt.as_deref(), Some(from))?;
    let input = if is_stdio(from) {
        // A duplicate, because std never closes fd 0.
        let stdin = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3);
        let stdin =
            stdin.map_err(|error| Error::Usage(format!("standard input cannot be read: {error}").into()))?;
        Input::Pipe(stdin)
    } else {
        if show.is_watched() && from.is_dir() {
            let (mut bytes, mut entries) = (0, 0);
            scan(from, &options.patterns, &mut |_, size| {
                (entries, bytes) = (entries + 1, bytes + size);
                show.see(Progress::Scanning { entries, bytes });
            })?;
            show.total(bytes);
        }
        Input::Path(from.clone())
    };
    let (summary, error) = client.put(input, &remote.place, &options, &mut |progress| show.see(progress));
    let told = show.finish(&summary, error.as_ref());
    let open = summary.verdict(error.as_ref()) == ItemVerdict::Unconfirmed;
    if let (Destination::Port(name), Some(id), true) = (&remote.place, summary.transfer, open) {
        let (host, port) = (&remote.host, remote.port);
        say!("linger: to ask later: linger receipt ask --port {port} {host}:@{name} {}", hex(&id));
    }
    Ok(conclude_told(&summary, error.as_ref(), told))
}
