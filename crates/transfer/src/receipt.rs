//! Receipts on file: one JSON object a line, and checking a file against one.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use linger_untrusted::Untrusted;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::account::{Account, ConfirmedEntry, HashSum, to_sign};
use crate::alive::Gauge;
use crate::error::Error;
use crate::hash::{hex, unhex};
use crate::identity::{PublicKey, is_signed};
use crate::message::{Durability, Kind};
use crate::path::RelPath;
use crate::progress::{Confirmation, SignedAccount};
use crate::root::{Links, Root};
use crate::store::hash_as;

/// One line of a receipt file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReceiptLine {
    /// Path below what was sent, in hexadecimal where it is not UTF-8; empty for a single file.
    pub path: String,
    /// Whether `path` is in hexadecimal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub path_is_hex: bool,
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub length: u64,
    /// BLAKE3, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// Whether `blake3` is the hash by blocks, which other programs do not compute. It is used for files that are
    /// mostly holes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_blocks: bool,
    /// The target of a link, in hexadecimal if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether `target` is in hexadecimal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub target_is_hex: bool,
    /// The name at the receiver, escaped where it cannot be printed.
    pub name: String,
    /// How durable the file was when the receipt was written.
    pub durability: Durability,
    /// The permission bits that the receiver gave the entry, in octal; missing if it is no file or directory there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The receiver's clock, in seconds since 1970.
    pub time: f64,
    /// Whether the receiver had the same content before the transfer.
    pub present: bool,
    /// The receiver's host, as the user named it.
    pub receiver: String,
}

impl ReceiptLine {
    /// The line for a confirmed file.
    pub fn new(confirmation: &Confirmation, receiver: &str) -> Self {
        let (path, path_is_hex) = to_text(confirmation.path.as_bytes());
        let target = (confirmation.kind == Kind::Link).then(|| to_text(confirmation.target.raw()));
        Self {
            path,
            path_is_hex,
            target_is_hex: target.as_ref().is_some_and(|(_, is_hex)| *is_hex),
            target: target.map(|(target, _)| target),
            kind: confirmation.kind,
            length: confirmation.size,
            blake3: confirmation.hash.map(|hash| hex(&hash)),
            by_blocks: confirmation.by_blocks,
            name: confirmation.name.terminal().to_string(),
            durability: confirmation.durability,
            mode: confirmation.mode.map(|mode| format!("{mode:04o}")),
            time: confirmation.time.seconds as f64 + f64::from(confirmation.time.nanos) / 1e9,
            present: confirmation.present,
            receiver: receiver.to_owned(),
        }
    }

    /// This line's contribution to the account of its session; `None` if the line cannot be read as a receipt.
    fn account(&self) -> Option<Account> {
        let path = self.path()?;
        let target = match &self.target {
            Some(target) => from_text(target, self.target_is_hex)?,
            None => Vec::new(),
        };
        let hash = match &self.blake3 {
            Some(hash) => Some(unhex(hash)?),
            None => None,
        };
        let mut account = Account::default();
        account.confirm(&ConfirmedEntry {
            path: path.as_bytes(),
            kind: self.kind,
            target: &target,
            size: self.length,
            hash: hash.as_ref(),
            durability: self.durability,
            present: self.present,
            mode: self.mode().ok()?,
        });
        Some(account)
    }

    fn mode(&self) -> Result<Option<u32>, std::num::ParseIntError> {
        self.mode.as_ref().map(|digits| u32::from_str_radix(digits, 8)).transpose()
    }

    fn path(&self) -> Option<RelPath> {
        RelPath::new(from_text(&self.path, self.path_is_hex)?).ok()
    }
}

/// Bytes as they stand in a receipt, and whether that is in hexadecimal.
fn to_text(bytes: &[u8]) -> (String, bool) {
    std::str::from_utf8(bytes).map_or_else(|_| (hex(bytes), true), |text| (text.to_owned(), false))
}

fn from_text(text: &str, is_hex: bool) -> Option<Vec<u8>> {
    if !is_hex {
        return Some(text.as_bytes().to_vec());
    }
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| unhex::<1>(std::str::from_utf8(two).ok()?).map(|[byte]| byte)).collect()
}

/// The last line of a receipt file. It counts the others, so that a file that has lost a line is noticed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastLine {
    /// The number of receipts before it.
    receipts: u64,
    /// BLAKE3 of those lines, in hexadecimal.
    blake3: String,
    /// The receiver's signature of the last session's lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed: Option<Signed>,
}

/// A receiver's signature, each field in hexadecimal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    /// The number of lines before the first signed line: they belong to sessions that were cut.
    after: u64,
    transfer: String,
    failed: u64,
    failed_sum: String,
    key: String,
    signature: String,
}

impl Signed {
    fn new(after: u64, account: &SignedAccount) -> Self {
        Self {
            after,
            transfer: hex(&account.transfer),
            failed: account.failed,
            failed_sum: hex(&account.failed_sum),
            key: hex(&account.key),
            signature: hex(&account.signature),
        }
    }

    /// The key that has signed the last session, if the signature fits `account`, which was computed from the lines.
    fn signer(&self, account: &Account) -> Option<PublicKey> {
        let failed_sum = HashSum::of(unhex(&self.failed_sum)?);
        let account = Account { failed: self.failed, failed_sum, ..*account };
        let message = to_sign(&unhex(&self.transfer)?, &account.digest());
        let key = unhex(&self.key)?;
        is_signed(&key, &message, &unhex::<64>(&self.signature)?).then_some(key)
    }
}

/// A receipt file that is being written.
#[derive(Debug)]
pub struct Receipts<W: Write> {
    to: W,
    receiver: String,
    count: u64,
    /// The number of lines of earlier sessions.
    earlier: u64,
    hasher: blake3::Hasher,
}

impl<W: Write> Receipts<W> {
    /// Receipts from `receiver` go to `to`.
    pub fn new(to: W, receiver: impl Into<String>) -> Self {
        Self { to, receiver: receiver.into(), count: 0, earlier: 0, hasher: blake3::Hasher::new() }
    }

    /// Notes that another session begins: the receiver signs each session separately.
    pub fn begin_session(&mut self) {
        self.earlier = self.count;
    }

    /// Writes a receipt.
    ///
    /// # Errors
    /// Returns the errors of the writer.
    pub fn keep(&mut self, confirmation: &Confirmation) -> io::Result<()> {
        let mut line = serde_json::to_vec(&ReceiptLine::new(confirmation, &self.receiver))?;
        line.push(b'\n');
        self.count += 1;
        self.hasher.update(&line);
        self.to.write_all(&line)
    }

    /// Ends the file with a line that counts the others and has the receiver's signature, if there is one. Gives the writer
    /// back.
    ///
    /// # Errors
    /// Returns the errors of writing.
    pub fn finish(mut self, signed: Option<&SignedAccount>) -> io::Result<W> {
        let signed = signed.map(|account| Signed::new(self.earlier, account));
        let blake3 = hex(self.hasher.finalize().as_bytes());
        let last = LastLine { receipts: self.count, blake3, signed };
        serde_json::to_writer(&mut self.to, &last)?;
        self.to.write_all(b"\n")?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// The result of checking one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checked {
    /// Length and hash are those of the receipt; of a link, the target.
    Same,
    /// The entry differs from the receipt, is missing or cannot be read; the text says how.
    Differs(String),
    /// The receipt has no hash: the length is the same, or, of a directory, the kind.
    Unverified,
}

/// The result of checking all lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Receipts.
    pub receipts: u64,
    /// Receipts that differ from what is there.
    pub different: u64,
    /// Files whose receipt has no hash: their length is the same, but their content could not be compared.
    pub length_only: u64,
    /// Files and directories with other permission bits than the receiver gave them. The sender's own may have other ones,
    /// because of the receiver's umask.
    pub other_mode: u64,
    /// The receipts that the receiver's signature covers. Whoever keeps the file could have changed the others.
    pub signed: u64,
    /// The key with which they are signed.
    pub signer: Option<PublicKey>,
}

/// Longer than a line with the longest paths, each byte escaped.
const LONGEST_LINE: u64 = 1 << 20;

/// Checks every line of the receipt file at `receipt` against `path`, the file or directory it was given for;
/// `each` gets every line and what came of it.
///
/// # Errors
/// Returns [`Error::Io`] if the file cannot be read, and [`Error::Usage`] if it is no receipt or a receipt that has
/// lost lines.
pub fn verify_receipt(
    receipt: &Path,
    path: &Path,
    mut each: impl FnMut(&ReceiptLine, &Checked),
) -> Result<Verified, Error> {
    let shown = receipt.display().to_string();
    let file = File::open(receipt).map_err(|error| Error::io("open", &shown, error))?;
    let mut verified = Verified::default();
    let mut hasher = blake3::Hasher::new();
    let mut last: Option<LastLine> = None;
    // Which lines are signed is known only from the last line: until then, each line's account is kept.
    let mut sums = Vec::new();
    let mut file = BufReader::new(file);
    let mut text = String::new();
    loop {
        text.clear();
        let read = (&mut file).take(LONGEST_LINE).read_line(&mut text);
        if read.map_err(|error| Error::io("read", &shown, error))? == 0 {
            break;
        }
        let usage =
            |why: String| Error::Usage(format!("{shown}, line {}: {why}", verified.receipts + 1).into());
        if text.len() as u64 == LONGEST_LINE && !text.ends_with('\n') {
            return Err(usage("is longer than any receipt".into()));
        }
        if last.is_some() {
            return Err(usage("stands behind the last line".into()));
        }
        last = serde_json::from_str(&text).ok();
        if last.is_some() {
            continue;
        }
        hasher.update(text.as_bytes());
        let line: ReceiptLine = serde_json::from_str(&text).map_err(|error| usage(error.to_string()))?;
        sums.push(line.account());
        let (checked, mode) = check(&line, path)?;
        verified.other_mode += u64::from(mode.is_some() && mode != line.mode().ok().flatten());
        verified.receipts += 1;
        verified.different += u64::from(matches!(checked, Checked::Differs(_)));
        let has_content = matches!(line.kind, Kind::File | Kind::Pipe);
        verified.length_only += u64::from(has_content && checked == Checked::Unverified);
        each(&line, &checked);
    }
    let whole = match last {
        _ if verified.receipts == 0 => {
            return Err(Error::Usage(format!("{shown} has no receipt in it").into()));
        }
        None => Err("its last line is missing, which counts the others".to_owned()),
        Some(last) if last.receipts != verified.receipts => {
            Err(format!("it has {} receipts, and its last line counts {}", verified.receipts, last.receipts))
        }
        Some(last) if last.blake3 != hex(hasher.finalize().as_bytes()) => {
            Err("its lines are not those that its last line was made for".to_owned())
        }
        Some(LastLine { signed: None, .. }) => Ok(verified),
        Some(LastLine { signed: Some(signed), .. }) => {
            let first = usize::try_from(signed.after).unwrap_or(usize::MAX).min(sums.len());
            let account = sums[first..].iter().try_fold(Account::default(), |mut all, line| {
                let line = (*line)?;
                all.confirmed += 1;
                all.confirmed_sum.add(&line.confirmed_sum.bytes());
                Some(all)
            });
            match account.and_then(|account| signed.signer(&account)) {
                Some(key) => {
                    verified.signed = (sums.len() - first) as u64;
                    verified.signer = Some(key);
                    Ok(verified)
                }
                None => Err("its signature is not one of these lines".to_owned()),
            }
        }
    };
    whole.map_err(|why| Error::Usage(format!("{shown} is not the whole receipt: {why}").into()))
}

/// The target of a link below `top`. No component of the path to it may be a link.
fn read_link(top: &Path, below: &RelPath) -> Result<Vec<u8>, Errno> {
    let Some((parent, name)) = below.split() else {
        return rustix::fs::readlink(top, Vec::new()).map(|target| target.into_bytes());
    };
    let root = Root::open(top).map_err(|_| Errno::NOTDIR)?;
    let parent = root.directory(&parent, Links::Refuse)?;
    rustix::fs::readlinkat(parent, name, Vec::new()).map(|target| target.into_bytes())
}

/// Compares an entry with its receipt. Returns the entry's mode as well, if the receipt has one and nothing else differs.
fn check(line: &ReceiptLine, top: &Path) -> Result<(Checked, Option<u32>), Error> {
    let Some(below) = line.path() else {
        return Err(Error::Usage(format!("the receipt names a path that cannot be: {}", line.path).into()));
    };
    let differs = |text: String| Ok((Checked::Differs(text), None));
    if line.kind == Kind::Link {
        let expected = line.target.as_ref().and_then(|target| from_text(target, line.target_is_hex));
        return match (read_link(top, &below), expected) {
            (Ok(there), Some(expected)) if there == expected => Ok((Checked::Same, None)),
            (Ok(there), Some(expected)) => {
                let [there, expected] = [there, expected].map(Untrusted::from);
                differs(format!("leads to {}, the receipt says {}", there.terminal(), expected.terminal()))
            }
            (Ok(_), None) => Ok((Checked::Unverified, None)),
            (Err(error), _) => differs(format!("is no link any more: {}", io::Error::from(error))),
        };
    }
    if line.mode().is_err() {
        return Err(Error::Usage(
            format!("the receipt names a mode that cannot be, of {}", line.path).into(),
        ));
    }
    let with_mode = |checked: Checked, fd: BorrowedFd<'_>| {
        let mode = rustix::fs::fstat(fd).ok().map(|stat| stat.st_mode & 0o7777);
        Ok((checked, mode.filter(|_| line.mode.is_some())))
    };
    if line.kind == Kind::Directory {
        let directory = Root::open(top)?.directory(&below, Links::Refuse);
        return match directory {
            Ok(directory) => with_mode(Checked::Unverified, directory.as_fd()),
            Err(_) => differs("is not there any more".into()),
        };
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
    let (hash, length) = match hash_as(file.as_fd(), line.by_blocks, &Gauge::default()) {
        Ok(found) => found,
        Err(error) => return differs(format!("cannot be read: {error}")),
    };
    if length != line.length {
        return differs(format!("has {length} bytes, the receipt says {}", line.length));
    }
    match &line.blake3 {
        None => with_mode(Checked::Unverified, file.as_fd()),
        Some(expected) if *expected == hex(&hash) => with_mode(Checked::Same, file.as_fd()),
        Some(expected) => differs(format!("has BLAKE3 {}, the receipt says {expected}", hex(&hash))),
    }
}
