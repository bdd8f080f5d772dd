//! The key pair of this user, and the files with keys of known peers, as ssh keeps them. The keys are Ed25519.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use linger_untrusted::Untrusted;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustix::fs::FlockOperation;

use crate::error::Error;
use crate::hash::{hex, unhex};
use crate::rights::Rights;

/// A public key.
pub type PublicKey = [u8; 32];

/// The bytes before an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key pair of this user on this machine.
pub struct Identity {
    pkcs8: Vec<u8>,
    public: PublicKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&fingerprint(&self.public)).finish()
    }
}

impl Identity {
    /// Makes a new key pair.
    ///
    /// # Errors
    /// Returns [`Error::NotPossibleHere`] if the system gives no random numbers.
    pub fn generate() -> Result<Self, Error> {
        let random = ring::rand::SystemRandom::new();
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random)
            .map_err(|_| Error::NotPossibleHere("the system gives no random numbers for a key".into()))?;
        Self::from_pkcs8(pkcs8.as_ref().to_vec(), Path::new("a new key"))
    }

    /// Reads the key pair from a file, and makes the file (mode 0600) if it is not there.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file can be neither read nor made, and [`Error::Identity`] if it does not hold a
    /// key pair.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        let failed = |doing| move |error: io::Error| Error::io(doing, path.display().to_string(), error);
        match File::open(path) {
            Ok(file) => {
                let mut pkcs8 = Vec::new();
                file.take(4096).read_to_end(&mut pkcs8).map_err(failed("read"))?;
                Self::from_pkcs8(pkcs8, path)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Self::generate()?;
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).map_err(failed("make the directory of"))?;
                }
                // Write to a temporary name and link(2) it: two programs that start at once agree on one key.
                let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
                let written =
                    file.and_then(|mut file| file.write_all(&made.pkcs8).and_then(|()| file.sync_all()));
                let linked = written.and_then(|()| fs::hard_link(&temporary, path));
                // Also what a full disk has left half written.
                let _ = fs::remove_file(&temporary);
                match linked {
                    Ok(()) => Ok(made),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load_or_create(path),
                    Err(error) => Err(failed("write")(error)),
                }
            }
            Err(error) => Err(failed("open")(error)),
        }
    }

    fn from_pkcs8(pkcs8: Vec<u8>, path: &Path) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|why| {
            Error::Identity(format!("{} holds no Ed25519 key: {why}", path.display()).into())
        })?;
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(Self { pkcs8, public })
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs `message` (Ed25519).
    pub(crate) fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        Ed25519KeyPair::from_pkcs8(&self.pkcs8).ok()?.sign(message).as_ref().try_into().ok()
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.public].concat()
    }
}

/// The key in a SubjectPublicKeyInfo; `None` if it is no Ed25519 key.
pub(crate) fn key_of_spki(spki: &[u8]) -> Option<PublicKey> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

/// Whether `signature` is that of `message` by the holder of `key`.
pub(crate) fn is_signed(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, key).verify(message, signature).is_ok()
}

/// The fingerprint of a key, for people to compare.
pub fn fingerprint(key: &PublicKey) -> String {
    format!("ed25519:{}", hex(key))
}

/// One line of a keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownKey {
    /// The name: an address, unless somebody has changed it.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// What it may do.
    pub rights: Rights,
}

/// A file of keys that are known, one a line: `NAME ed25519:HEX`, then words that limit what the key may do. Lines that begin
/// with `#` are comments.
#[derive(Clone, Debug)]
pub struct Keyring(PathBuf);

impl Keyring {
    /// The keyring in the file at `path`. The file need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All keys of the file, in its order.
    ///
    /// # Errors
    /// Returns [`Error::Io`] or [`Error::Identity`] if the file cannot be read.
    pub fn peers(&self) -> Result<Vec<KnownKey>, Error> {
        let shown = || self.0.display().to_string();
        let file = match File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("open", shown(), error)),
        };
        let mut peers = Vec::new();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(|error| Error::io("read", shown(), error))?;
            peers.extend(self.peer(number, &line)?);
        }
        Ok(peers)
    }

    /// The peer of a line; `None` if it is empty or a comment.
    pub(crate) fn peer(&self, number: usize, line: &str) -> Result<Option<KnownKey>, Error> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let name = words.next();
        let key = words.next().and_then(|word| word.strip_prefix("ed25519:")).and_then(unhex);
        let told =
            |what| Error::Identity(format!("{}, line {}: {what}", self.0.display(), number + 1).into());
        // An unreadable line is an error: it may hold the key that should have been compared.
        let (Some(name), Some(key)) = (name, key) else { return Err(told("no key")) };
        let rights = Rights::read(words).ok_or_else(|| told("a limit that is not understood"))?;
        Ok(Some(KnownKey { name: name.to_owned(), key, rights }))
    }

    /// The key that is known under a name: that of the last line with the name.
    ///
    /// # Errors
    /// Returns [`Error::Io`] or [`Error::Identity`] if the file cannot be read.
    pub fn of(&self, name: &str) -> Result<Option<PublicKey>, Error> {
        let name = word(name);
        Ok(self.peers()?.into_iter().rev().find(|peer| peer.name == name).map(|peer| peer.key))
    }

    /// What the holder of a key may do; `None` if the key is not known. The last line of the key counts.
    ///
    /// # Errors
    /// Returns the errors of [`of`](Self::of).
    pub fn rights(&self, key: &PublicKey) -> Result<Option<Rights>, Error> {
        Ok(self.peers()?.into_iter().rev().find(|peer| peer.key == *key).map(|peer| peer.rights))
    }

    /// Adds a key.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file cannot be written.
    pub fn add(&self, name: &str, key: &PublicKey) -> Result<(), Error> {
        let failed = |error| Error::io("write", self.0.display().to_string(), error);
        if let Some(parent) = self.0.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(&self.0).map_err(failed)?;
        append_line(&file, &format!("{} {}\n", word(name), fingerprint(key))).map_err(failed)
    }
}

/// Appends a line, whole or not at all: half a line, as a full disk leaves it, would make the whole file unreadable. Lines of two
/// programs do not mix.
fn append_line(file: &File, line: &str) -> io::Result<()> {
    rustix::fs::flock(file, FlockOperation::LockExclusive)?;
    let before = file.metadata()?.len();
    let mut last = [b'\n'];
    if before > 0 {
        file.read_exact_at(&mut last, before - 1)?;
    }
    // A person's editor may have left the last line without its end.
    let line = if last == *b"\n" { line.to_owned() } else { format!("\n{line}") };
    let mut to = file;
    let written = to.write_all(line.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = file.set_len(before);
    }
    written
}

/// A name without characters that would end its field or its line.
fn word(name: &str) -> String {
    Untrusted::from(name).plain().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/key");
        let made = Identity::load_or_create(&path).unwrap();
        assert_eq!(Identity::load_or_create(&path).unwrap().public(), made.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(key_of_spki(&made.spki()), Some(made.public()));
        assert!(!format!("{made:?}").contains(&hex(&made.pkcs8)));
        fs::write(&path, b"nonsense").unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(Error::Identity(_))));
    }

    #[test]
    fn a_keyring_keeps_names_apart_and_refuses_what_it_cannot_read() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::new(dir.path().join("known"));
        assert_eq!(ring.of("a").unwrap(), None);
        ring.add("a", &[1; 32]).unwrap();
        ring.add("b\nc x", &[2; 32]).unwrap();
        assert_eq!(ring.of("a").unwrap(), Some([1; 32]));
        assert_eq!(ring.of("b\nc x").unwrap(), Some([2; 32]));
        assert_eq!(ring.of("c").unwrap(), None);
        assert!(ring.rights(&[2; 32]).unwrap().is_some() && ring.rights(&[3; 32]).unwrap().is_none());
        // Somebody has written a line without its end.
        let edited = fs::read_to_string(ring.path()).unwrap();
        fs::write(ring.path(), edited.trim_end()).unwrap();
        ring.add("d", &[4; 32]).unwrap();
        assert_eq!((ring.of("b\nc x").unwrap(), ring.of("d").unwrap()), (Some([2; 32]), Some([4; 32])));
        fs::write(ring.path(), "a ed25519:12\n").unwrap();
        assert!(matches!(ring.of("a"), Err(Error::Identity(_))));
    }
}
