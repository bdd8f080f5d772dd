//! `linger get` and `linger ls`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueHint};
use linger_transfer::{Destination, Error, GetOptions, Item, Kind, Output, confine_writes, linked_directory};

use super::names;
use super::several::Several;
use super::show::Show;
use super::standing::Standing;
use super::{Connect, Copying, cannot_tell, home, is_remote, is_stdio, refuse};
use crate::kernel;
use crate::lines::{self, line};
use crate::output::{Stdout, Stopped};
use crate::{exit, interrupt};

/// Fetches a file, a directory or what a source gives, verifies it and puts it in place.
#[derive(Args, Debug)]
#[command(
    after_help = "DEST is the new name, DEST/ the directory to put it in; without it, the current directory.\n\
    HOST:PORT, HOST:PORT:PATH and [ADDRESS]:PORT:PATH name the port. A number after the host is always a port:\n\
    a file named 7117 is HOST:./7117. unix:/SOCKET:PATH is a server on a unix socket.\n\n\
    Examples:\n  linger get server:disk.img\n  linger get server:src backup/\n  linger get 'server:logs/*.log' logs/\n  linger get server:@clipboard -\n\n\
    Exit status: 0 received and verified, 1 not received, 2 bad usage, 3 received, but\n\
    the receipts or what is printed could not be written, 4 not possible here."
)]
pub(crate) struct GetArguments {
    /// What to fetch, and where to; `-` is standard output. `*` and `?` in a path stand for names there.
    #[arg(value_name = "HOST:[PORT:]PATH... [DEST|-]", required = true, value_hint = ValueHint::AnyPath)]
    operands: Vec<OsString>,
    #[command(flatten)]
    copying: Copying,
    #[command(flatten)]
    connect: Connect,
}

/// Lists what is shared.
#[derive(Args, Debug)]
#[command(
    after_help = "HOST:PORT and HOST:PORT:PATH name the port; a directory named 7117 is HOST:./7117.\n\
    unix:/SOCKET:PATH is a server on a unix socket.\n\n\
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

/// What to fetch, and where to: the last operand if it is a place on this machine, else the current directory.
fn split(operands: &[OsString]) -> (&[OsString], PathBuf) {
    match operands {
        [from @ .., to] if !from.is_empty() && !is_remote(to) => (from, PathBuf::from(to)),
        all => (all, PathBuf::from("./")),
    }
}

fn get(arguments: &GetArguments) -> Result<ExitCode, Error> {
    let GetArguments { operands, copying, connect } = arguments;
    let (from, to) = split(operands);
    if !from.iter().any(|from| is_remote(from)) {
        return Err(Error::Usage(
            "nothing of it is on another machine: `linger put FILE HOST:` sends".into(),
        ));
    }
    let remotes = from.iter().map(|from| connect.remote(from)).collect::<Result<Vec<_>, _>>()?;
    let mut options = GetOptions::default();
    options.if_exists = copying.if_exists();
    options.selection = copying.selection();
    options.chmod.clone_from(&copying.chmod);
    options.verify = !copying.no_verify;
    options.dry_run = copying.dry_run;
    options.durability = copying.durability;
    options.patterns = copying.patterns()?;
    options.limit = copying.limit();
    let to_stdout = is_stdio(&to);
    if to_stdout && connect.output.json {
        return Err(Error::Usage("--json and DEST `-` both want standard output".into()));
    }
    interrupt::outlive_file_limit().map_err(|source| Error::Io {
        doing: "take",
        what: "signals".into(),
        source,
    })?;
    let standing = Standing::new(connect.output.json);
    let mut wanted = Vec::new();
    for remote in &remotes {
        let client = Arc::new(connect.client(remote)?);
        standing.end_on_signal(&client)?;
        for place in names::places(&client, &remote.place)? {
            wanted.push((client.clone(), remote.host.as_str(), place));
        }
    }
    let is_one = matches!(remotes.as_slice(), [one] if !names::is_pattern(&one.place));
    let to = if is_one || to_stdout { to } else { directory(to)? };
    let host = remotes.first().map_or("", |remote| remote.host.as_str());
    let top = wanted.first().map_or_else(String::new, |(_, _, place)| named(place));
    let mut show = Show::new(connect.output.json, host, top, copying.receipt.as_deref(), &[])?;
    if to_stdout {
        show.keep_stdout();
    }
    confine(&to, copying)?;
    let mut several = Several::default();
    for (client, host, place) in &wanted {
        if !is_one {
            show.next_top(host, name_of(place));
        }
        let output = output(&to)?;
        let (summary, error) = client.get(place, &output, &options, &mut |progress| {
            standing.see(&progress);
            show.see(progress);
        });
        if several.note(summary, error).is_break() {
            break;
        }
    }
    several.conclude(show, &standing)
}

/// Gives up the right to write (Landlock), except where the files land, where their receipts are kept, and
/// where keys are.
fn confine(to: &Path, copying: &Copying) -> Result<(), Error> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut places = vec![home()?];
    places.extend(copying.receipt.as_deref().map(parent));
    if !is_stdio(to) && !copying.dry_run {
        let real = linked_directory(to);
        let to = real.as_deref().unwrap_or(to);
        let names_a_directory = to.as_os_str().as_bytes().ends_with(b"/") || to.file_name().is_none();
        let place = if names_a_directory { to.to_owned() } else { parent(to) };
        if !place.exists() {
            std::fs::create_dir_all(&place).map_err(|source| Error::Io {
                doing: "make the directory",
                what: place.display().to_string(),
                source,
            })?;
        }
        places.push(place);
    }
    let places: Vec<_> = places.iter().map(PathBuf::as_path).collect();
    let confined = confine_writes(&places);
    tracing::debug!(?confined, "confined by Landlock to where it receives");
    Ok(())
}

/// The directory into which several operands go.
fn directory(to: PathBuf) -> Result<PathBuf, Error> {
    let is_there = to.is_dir();
    if !is_there && (to.exists() || !to.as_os_str().as_bytes().ends_with(b"/")) {
        let shown = to.display();
        return Err(Error::Usage(
            format!(
                "{shown} is no directory, and several things are to go there; write {shown}/ to make one"
            )
            .into(),
        ));
    }
    // The final `/` says that it is a directory.
    Ok(to.join(""))
}

fn output(to: &Path) -> Result<Output, Error> {
    if !is_stdio(to) {
        return Ok(Output::Path(to.to_owned()));
    }
    if kernel::had_no_stdout() {
        return Err(Error::Usage("standard output is closed: there is nowhere to write to".into()));
    }
    let stdout = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3);
    stdout
        .map(Output::Stream)
        .map_err(|error| Error::Usage(format!("standard output cannot be written: {error}").into()))
}

/// The name of what is fetched, as it is shown.
fn named(place: &Destination) -> String {
    match place {
        Destination::Path { path, .. } => path.to_string(),
        Destination::Named(name) => format!("@{name}"),
        _ => String::new(),
    }
}

/// The last name of a place, under which its copy is stored.
fn name_of(place: &Destination) -> String {
    match place {
        Destination::Path { path, .. } => {
            path.split().map_or_else(String::new, |(_, name)| String::from_utf8_lossy(name).into_owned())
        }
        other => named(other),
    }
}

pub(crate) fn list(arguments: &ListArguments) -> ExitCode {
    let ListArguments { what, connect } = arguments;
    let listed = connect.remote(what).and_then(|remote| {
        let client = connect.client(&remote)?;
        super::end_on_signal(&client)?;
        names::listing(&client, &remote.place)
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
        let when = utc(item.mtime.seconds);
        out.text(format_args!("{:>14}  {when:20}  {}{mark}\n", item.size, item.name.terminal()))?;
    }
    out.flush()
}

/// A time in seconds since 1970, in UTC as RFC 3339 has it. A server may send any number: a year before 0 or after 9999
/// has a sign, as ISO 8601 has it.
fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years from March to February, so that the leap day is the last; eras of 400 of them, the first since 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = 400 * era + year + next;
    let year = match year {
        0..=9_999 => format!("{year:04}"),
        _ => format!("{year:+05}"),
    };
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::utc;

    #[test]
    fn every_time_that_a_server_can_send_is_shown() {
        for (seconds, expected) in [
            (-1, "1969-12-31T23:59:59Z"),
            (-157_680_000, "1965-01-02T00:00:00Z"),
            (-62_167_219_200, "0000-01-01T00:00:00Z"),
            (-62_167_219_201, "-0001-12-31T23:59:59Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_800, "+10000-01-01T00:00:00Z"),
            (i64::MAX, "+292277026596-12-04T15:30:07Z"),
            (i64::MIN, "-292277022657-01-27T08:29:52Z"),
        ] {
            assert_eq!(utc(seconds), expected, "{seconds}");
        }
    }

    /// The same as an implementation by others, for days over four centuries, where that one has them.
    #[test]
    fn times_since_1970_are_those_of_humantime() {
        for day in (0..146_097_u64).step_by(7).chain([10_956, 11_016, 11_017, 47_540, 47_541]) {
            let seconds = day * 86_400 + day % 86_400;
            let theirs = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(utc(i64::try_from(seconds).unwrap()), theirs.to_string());
        }
    }
}
