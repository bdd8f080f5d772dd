//! Receipts on file: one JSON object a line, and checking a file against one.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::os::fd::AsFd as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::hash::{hex, unhex};
use crate::message::{Durability, Kind};
use crate::path::RelPath;
use crate::progress::Confirmation;
use crate::root::{Links, Root};
use crate::store::hash_file;

/// One line of a receipt file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReceiptLine {
    /// Path below what was sent, in hexadecimal where it is not UTF-8; empty for a single file.
    pub path: String,
    /// `path` is in hexadecimal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub path_is_hex: bool,
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub length: u64,
    /// BLAKE3, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// The name at the receiver, as far as it can be printed.
    pub name: String,
    /// How durable the file was when the receipt was written.
    pub durability: Durability,
    /// The receiver's clock, in seconds since 1970.
    pub time: f64,
    /// The same content was there already.
    pub present: bool,
    /// The receiver's host, as the user named it.
    pub receiver: String,
}

impl ReceiptLine {
    /// The line for a confirmed file.
    pub fn new(confirmation: &Confirmation, receiver: &str) -> Self {
        let path = std::str::from_utf8(confirmation.path.as_bytes());
        Self {
            path: path.map_or_else(|_| hex(confirmation.path.as_bytes()), str::to_owned),
            path_is_hex: path.is_err(),
            kind: confirmation.kind,
            length: confirmation.size,
            blake3: confirmation.hash.map(|hash| hex(&hash)),
            name: confirmation.name.terminal().to_string(),
            durability: confirmation.durability,
            time: confirmation.time.seconds as f64 + f64::from(confirmation.time.nanos) / 1e9,
            present: confirmation.present,
            receiver: receiver.to_owned(),
        }
    }

    fn path(&self) -> Option<RelPath> {
        let bytes = if self.path_is_hex {
            let digits = self.path.as_bytes().chunks(2);
            digits
                .map(|two| unhex::<1>(std::str::from_utf8(two).ok()?).map(|[byte]| byte))
                .collect::<Option<Vec<u8>>>()?
        } else {
            self.path.clone().into_bytes()
        };
        RelPath::new(bytes).ok()
    }
}

/// A receipt file that is being written.
#[derive(Debug)]
pub struct Receipts<W: Write> {
    to: W,
    receiver: String,
}

impl<W: Write> Receipts<W> {
    /// Receipts from `receiver` go to `to`.
    pub fn new(to: W, receiver: impl Into<String>) -> Self {
        Self { to, receiver: receiver.into() }
    }

    /// Writes a receipt.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn keep(&mut self, confirmation: &Confirmation) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, &ReceiptLine::new(confirmation, &self.receiver))?;
        self.to.write_all(b"\n")
    }

    /// Ends the file, and gives the writer back.
    ///
    /// # Errors
    /// What writing says.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }
}

/// The result of checking one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checked {
    /// Length and hash are those of the receipt.
    Same,
    /// They are not.
    Differs(String),
    /// The receipt has no hash: length or kind alone are the same.
    Unverified,
}

/// Longer than a line with the longest paths, each byte escaped.
const LONGEST_LINE: u64 = 1 << 20;

/// Checks every line of the receipt file at `receipt` against `path`, the file or directory it was given for;
/// `each` gets every line and what came of it. Returns how many lines differ, of how many.
///
/// # Errors
/// [`Error::Io`] if the receipt cannot be read, [`Error::Usage`] if it is none.
pub fn verify_receipt(
    receipt: &Path,
    path: &Path,
    mut each: impl FnMut(&ReceiptLine, &Checked),
) -> Result<(u64, u64), Error> {
    let shown = receipt.display().to_string();
    let file = File::open(receipt).map_err(|error| Error::io("open", &shown, error))?;
    let (mut bad, mut all) = (0, 0);
    let mut file = BufReader::new(file);
    let mut text = String::new();
    loop {
        text.clear();
        let read = (&mut file).take(LONGEST_LINE).read_line(&mut text);
        if read.map_err(|error| Error::io("read", &shown, error))? == 0 {
            break;
        }
        let usage = |why: String| Error::Usage(format!("{shown}, line {}: {why}", all + 1).into());
        if text.len() as u64 == LONGEST_LINE && !text.ends_with('\n') {
            return Err(usage("is longer than any receipt".into()));
        }
        let line: ReceiptLine = serde_json::from_str(&text).map_err(|error| usage(error.to_string()))?;
        let checked = check(&line, path)?;
        all += 1;
        bad += u64::from(matches!(checked, Checked::Differs(_)));
        each(&line, &checked);
    }
    if all == 0 {
        return Err(Error::Usage(format!("{shown} has no receipt in it").into()));
    }
    Ok((bad, all))
}

fn check(line: &ReceiptLine, top: &Path) -> Result<Checked, Error> {
    let Some(below) = line.path() else {
        return Err(Error::Usage(format!("the receipt names a path that cannot be: {}", line.path).into()));
    };
    let differs = |text: String| Ok(Checked::Differs(text));
    if line.kind != Kind::File && line.kind != Kind::Pipe {
        let there = std::fs::symlink_metadata(if below.is_root() {
            top.to_owned()
        } else {
            top.join(below.as_path())
        });
        let same =
            there.is_ok_and(
                |there| if line.kind == Kind::Directory { there.is_dir() } else { there.is_symlink() },
            );
        return if same { Ok(Checked::Unverified) } else { differs("is not there any more".into()) };
    }
    let opened = if below.is_root() {
        File::open(top).map(Into::into)
    } else {
        // A receipt comes from elsewhere: it may not make us read outside of the directory.
        let root = Root::open(top)?;
        root.stat(&below, Links::Refuse)
            .and_then(|_| root.file(&below))
            .map(|(file, _)| file)
            .map_err(io::Error::from)
    };
    let file: std::os::fd::OwnedFd = match opened {
        Ok(file) => file,
        Err(error) => return differs(format!("cannot be opened: {error}")),
    };
    let (hash, length) = match hash_file(file.as_fd()) {
        Ok(found) => found,
        Err(error) => return differs(format!("cannot be read: {error}")),
    };
    if length != line.length {
        return differs(format!("has {length} bytes, the receipt says {}", line.length));
    }
    match &line.blake3 {
        None => Ok(Checked::Unverified),
        Some(expected) if *expected == hex(&hash) => Ok(Checked::Same),
        Some(expected) => differs(format!("has BLAKE3 {}, the receipt says {expected}", hex(&hash))),
    }
}
