//! `linger peers`: the machines that `linger share` knows.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use linger_transfer::{Change, Error, Identity, Keyring, KnownKey, RelPath, Rights, fingerprint};
use linger_untrusted::Untrusted;

use super::{home, refuse};
use crate::exit;
use crate::lines::{self, line};
use crate::options::Json;
use crate::output::{Stdout, Stopped, say};
use crate::typed::{Rate, rate};

/// Lists, renames, limits and revokes the keys of machines that may connect to `linger share`.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "A peer is named by its name or by the first digits of its key: ed25519:0123abcd. What is changed counts for\n\
    connections that begin later. The file is known_clients in ~/.config/linger.\n\n\
    Examples:\n  linger peers\n  linger peers rename 192.0.2.7 laptop\n  linger peers limit laptop --no-read --directory laptop --quota 10GiB\n  \
    linger peers limit laptop --sink print --sink clipboard\n  linger peers revoke laptop\n\n\
    Exit status: 0 done, 1 no such peer, 2 bad usage, 4 not possible here."
)]
pub(crate) struct PeersArguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Show this machine's own key instead.
    #[arg(long)]
    own: bool,
    #[command(flatten)]
    output: Json,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Gives a peer another name.
    Rename {
        /// The name that it has, or its key.
        peer: String,
        /// The name that it gets.
        name: String,
    },
    /// Says what a peer may do. What is not said here is not limited any more.
    Limit(PeerLimits),
    /// Makes a peer a stranger again.
    Revoke {
        /// Its name or its key.
        peer: String,
    },
}

#[derive(Args, Debug)]
struct PeerLimits {
    /// Its name or its key.
    peer: String,
    /// It may not get or list.
    #[arg(long)]
    no_read: bool,
    /// It may not put files.
    #[arg(long)]
    no_write: bool,
    /// It may use this sink or source, and no other that is not named as well.
    #[arg(long, value_name = "NAME", conflicts_with = "no_sinks")]
    sink: Vec<String>,
    /// It may use no sink and no source.
    #[arg(long)]
    no_sinks: bool,
    /// It sees this directory of what is shared, and nothing else.
    #[arg(long, value_name = "PATH")]
    directory: Option<OsString>,
    /// It may put until the files of its directory have so many bytes.
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    quota: Option<Rate>,
}

impl PeerLimits {
    fn rights(&self) -> Result<Rights, Error> {
        let mut rights = Rights::default();
        rights.read = !self.no_read;
        rights.write = !self.no_write;
        if self.no_sinks || !self.sink.is_empty() {
            let bad = self.sink.iter().find(|name| name.contains([',', ' ', '\t', '\n']));
            if let Some(bad) = bad {
                let bad = Untrusted::from(bad.as_str());
                return Err(Error::Usage(format!("`{}` is no sink's name", bad.terminal()).into()));
            }
            rights.sinks = Some(self.sink.clone());
        }
        if let Some(path) = &self.directory {
            let shown = Untrusted::from(path.as_bytes());
            rights.directory = RelPath::typed(path.as_bytes())
                .map_err(|why| Error::Usage(format!("{}: {why}", shown.terminal()).into()))?;
        }
        rights.quota = self.quota.map(|Rate(bytes)| bytes);
        Ok(rights)
    }
}

pub(crate) fn run(arguments: &PeersArguments) -> ExitCode {
    peers(arguments).unwrap_or_else(|error| refuse(&error))
}

fn peers(arguments: &PeersArguments) -> Result<ExitCode, Error> {
    let home = home()?;
    let ring = Keyring::new(home.join("known_clients"));
    let (peer, change) = match &arguments.what {
        None if arguments.own => {
            let key = Identity::load_or_create(&home.join("key"))?.public();
            return Ok(ended(own(&key, arguments.output.json)));
        }
        None => {
            let peers = ring.peers()?;
            if peers.is_empty() {
                say!("linger: no machine is known; each that gives the code of `linger share` will be");
            }
            return Ok(ended(list(&peers, arguments.output.json)));
        }
        Some(What::Rename { peer, name }) => (peer, Change::Rename(name.clone())),
        Some(What::Limit(limits)) => (&limits.peer, Change::Limit(limits.rights()?)),
        Some(What::Revoke { peer }) => (peer, Change::Revoke),
    };
    match ring.change(peer, &change)? {
        0 => {
            let peer = Untrusted::from(peer.as_str());
            let told = format!("no peer is named {}; `linger peers` lists them", peer.terminal());
            Ok(exit::fail(exit::LOSS_FOUND, told))
        }
        _ => Ok(ExitCode::from(exit::NOTHING_LOST)),
    }
}

fn ended(told: Result<(), Stopped>) -> ExitCode {
    match told {
        Ok(()) => ExitCode::from(exit::NOTHING_LOST),
        Err(stopped) => stopped.end(Some(exit::NOTHING_LOST)),
    }
}

fn own(key: &linger_transfer::PublicKey, json: bool) -> Result<(), Stopped> {
    let mut out = Stdout::new();
    if json {
        out.json(&line(lines::OwnKey { key: fingerprint(key) }))?;
    } else {
        out.text(format_args!("{}\n", fingerprint(key)))?;
    }
    out.flush()
}

fn list(peers: &[KnownKey], json: bool) -> Result<(), Stopped> {
    let mut out = Stdout::new();
    for peer in peers {
        if json {
            out.json(&line(lines::KnownPeer::from(peer)))?;
            continue;
        }
        let name = Untrusted::from(peer.name.as_str());
        let limits = peer.rights.words().join(" ");
        let limits = Untrusted::from(limits.as_str());
        let blank = if limits.raw().is_empty() { "" } else { "  " };
        out.text(format_args!(
            "{}  {}{blank}{}\n",
            name.terminal(),
            fingerprint(&peer.key),
            limits.terminal()
        ))?;
    }
    out.flush()
}
