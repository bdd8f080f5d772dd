//! `linger receipt`.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueHint};
use linger_transfer::{Checked, Error, Verified, verify_receipt};
use linger_untrusted::Untrusted;

use super::{refuse, unusable};
use crate::exit;
use crate::lines::{self, CheckedEntry, VerifySummary};
use crate::options::Json;
use crate::output::Stdout;

/// Checks what is on file against receipts.
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
}

pub(crate) fn run(arguments: &ReceiptArguments) -> ExitCode {
    let ReceiptVerb::Verify { receipt, path, output } = &arguments.verb;
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
                    let summary = VerifySummary { checked: all, different: bad, length_only };
                    out.json(&lines::line(summary))?;
                } else if bad == 0 {
                    let unknown = match length_only {
                        0 => String::new(),
                        some => format!("; {some} by length alone, their content is unverified"),
                    };
                    out.text(format_args!("{all} of {all} as in the receipt{unknown}\n"))?;
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
