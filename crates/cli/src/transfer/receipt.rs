//! `linger receipt`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueHint};
use linger_transfer::{
    Checked, Destination, Error, Refusal, Remedy, Verified, fingerprint, hex, unhex, verify_receipt,
};
use linger_untrusted::Untrusted;

use super::{Connect, cannot_tell, refuse, unusable};
use crate::exit;
use crate::lines::{self, CheckedEntry, VerifySummary};
use crate::options::Json;
use crate::output::Stdout;

/// Checks files against their receipts, or asks what came of an earlier transfer.
#[derive(Args, Debug)]
pub(crate) struct ReceiptArguments {
    #[command(subcommand)]
    verb: ReceiptVerb,
}

#[derive(Debug, Subcommand)]
enum ReceiptVerb {
    /// Compares length and BLAKE3 of a file, or of everything below a directory, with its receipts.
    ///
    /// Exit status: 0 all are the same, 1 something differs, 2 no receipt.
    Verify {
        /// The receipts, as `put --receipt` keeps them.
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        receipt: PathBuf,
        /// What they were given for: the copy or the original.
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        #[command(flatten)]
        output: Json,
    },
    /// Asks a receiver what came of what was put to one of its sinks, perhaps days ago. Nothing is sent or run again.
    ///
    /// Exit status: 0 delivered, 1 not delivered, 2 bad usage, 3 not known, 4 not possible here.
    Ask {
        /// The sink, as it was put to.
        #[arg(value_name = "HOST:@NAME")]
        sink: OsString,
        /// The transfer, as `put` named it.
        #[arg(value_name = "ID")]
        transfer: String,
        #[command(flatten)]
        connect: Box<Connect>,
    },
}

pub(crate) fn run(arguments: &ReceiptArguments) -> ExitCode {
    match &arguments.verb {
        ReceiptVerb::Verify { receipt, path, output } => verify(receipt, path, output),
        ReceiptVerb::Ask { sink, transfer, connect } => {
            ask(sink, transfer, connect).unwrap_or_else(|error| cannot_tell(&error))
        }
    }
}

fn ask(sink: &OsString, transfer: &str, connect: &Connect) -> Result<ExitCode, Error> {
    let remote = connect.remote(sink)?;
    let Destination::Named(name) = &remote.place else {
        return Err(Error::Usage("only what went to a sink (HOST:@NAME) can be asked for".into()));
    };
    let id = unhex(transfer)
        .ok_or_else(|| Error::Usage("ID is the 32 hexadecimal digits that `put` named".into()))?;
    let client = connect.client(&remote)?;
    super::end_on_signal(&client)?;
    match client.ask(id) {
        Ok(receipt) => {
            let hash = receipt
                .hash
                .map_or_else(|| "not verified".to_owned(), |hash| format!("blake3 {}", hex(&hash)));
            let mut out = Stdout::new();
            let name = Untrusted::from(&**name);
            let told =
                out.text(format_args!("@{}: {} bytes, {hash}, handed on\n", name.terminal(), receipt.size));
            match told.and_then(|()| out.flush()) {
                Ok(()) => Ok(ExitCode::from(exit::NOTHING_LOST)),
                Err(stopped) => Ok(stopped.end(Some(exit::NOTHING_LOST))),
            }
        }
        // The command is known to have failed. If its result is unknown, the remedy is to look before sending again.
        Err(Error::Refused(Refusal::Command, why)) if why.remedy() != Some(&Remedy::LookBeforeSending) => {
            Ok(exit::fail(exit::LOSS_FOUND, super::hint::with_hint(&why)))
        }
        Err(error) => Err(error),
    }
}

fn verify(receipt: &Path, path: &Path, output: &Json) -> ExitCode {
    // Without a receipt there is nothing to compare with, which must not count as "nothing differs".
    if let Err(error) = File::open(receipt).and_then(|mut file| file.read(&mut [0])) {
        return refuse(&unusable("read", receipt, &error));
    }
    let (mut out, mut printed) = (Stdout::new(), Ok(()));
    let result = verify_receipt(receipt, path, |line, checked| {
        if output.json {
            if printed.is_ok() {
                printed = out.json(&lines::line(CheckedEntry::new(line, checked)));
            }
            return;
        }
        let name = if line.path.is_empty() { path.display().to_string() } else { line.path.clone() };
        if let (Checked::Differs(why), true) = (checked, printed.is_ok()) {
            let name = Untrusted::from(name);
            printed = out.text(format_args!("{}: {why}\n", name.terminal()));
        }
    });
    match result {
        Ok(verified) => {
            let Verified { receipts: all, different: bad, length_only, .. } = verified;
            let status = if bad == 0 { exit::NOTHING_LOST } else { exit::LOSS_FOUND };
            let told = printed.and_then(|()| {
                if output.json {
                    let summary = VerifySummary {
                        checked: all,
                        different: bad,
                        length_only,
                        other_mode: verified.other_mode,
                    };
                    out.json(&lines::line(summary))?;
                } else if bad == 0 {
                    let signed = match (verified.signer, all - verified.signed.min(all)) {
                        (Some(key), 0) => format!("; signed by {}", fingerprint(&key)),
                        (Some(key), more) => format!("; signed by {}, but for {more}", fingerprint(&key)),
                        (None, _) => "; nobody has signed it".to_owned(),
                    };
                    let unknown = match length_only {
                        0 => String::new(),
                        some => format!("; {some} by length alone, their content is unverified"),
                    };
                    let modes = match verified.other_mode {
                        0 => String::new(),
                        1 => "; 1 has another mode than the receiver gave it".to_owned(),
                        some => format!("; {some} have other modes than the receiver gave them"),
                    };
                    out.text(format_args!("{all} of {all} as in the receipt{unknown}{modes}{signed}\n"))?;
                }
                out.flush()
            });
            match told {
                Err(stopped) => stopped.end(Some(status)),
                Ok(()) if bad == 0 => ExitCode::from(status),
                Ok(()) => exit::fail(status, format_args!("{bad} of {all} differ from the receipt")),
            }
        }
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::InvalidData => {
            refuse(&unusable("read", receipt, &source))
        }
        Err(error) => refuse(&error),
    }
}
