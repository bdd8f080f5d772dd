//! What a known client may do, and changes to the file of known keys.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::str::FromStr;

use crate::error::Error;
use crate::hash::{hex, unhex_any};
use crate::identity::{Keyring, PublicKey, fingerprint};
use crate::path::RelPath;

/// What a known client may do. Without a word in the file: everything that the server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rights {
    /// It may get and list.
    pub read: bool,
    /// It may put, where the server takes anything.
    pub write: bool,
    /// The sinks and sources that it may use; `None` is all of them.
    pub sinks: Option<Vec<String>>,
    /// The directory below the shared one that is its whole world.
    pub directory: RelPath,
    /// The most bytes that the files of that directory may have, for it to put more.
    pub quota: Option<u64>,
}

impl Default for Rights {
    fn default() -> Self {
        Self { read: true, write: true, sinks: None, directory: RelPath::root(), quota: None }
    }
}

impl Rights {
    /// Whether a sink or source may be used.
    pub(crate) fn allows(&self, port: &str) -> bool {
        self.sinks.as_ref().is_none_or(|sinks| sinks.iter().any(|sink| sink == port))
    }

    /// The words of a line; none for what is not limited.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if !self.read {
            words.push("read=no".to_owned());
        }
        if !self.write {
            words.push("write=no".to_owned());
        }
        if let Some(sinks) = &self.sinks {
            words.push(format!("sinks={}", sinks.join(",")));
        }
        if !self.directory.is_root() {
            let bytes = self.directory.as_bytes();
            let plain = std::str::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_whitespace));
            words.push(
                plain.map_or_else(
                    || format!("directory-hex={}", hex(bytes)),
                    |text| format!("directory={text}"),
                ),
            );
        }
        if let Some(quota) = self.quota {
            words.push(format!("quota={quota}"));
        }
        words
    }

    /// Reads the words of a line. A word that is not understood is an error: it may be a limit.
    pub(crate) fn read<'a>(words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut rights = Self::default();
        for word in words {
            let (name, value) = word.split_once('=')?;
            match (name, value) {
                ("read", "yes" | "no") => rights.read = value == "yes",
                ("write", "yes" | "no") => rights.write = value == "yes",
                ("sinks", names) => {
                    rights.sinks =
                        Some(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect());
                }
                ("directory", path) => rights.directory = RelPath::typed(path.as_bytes()).ok()?,
                ("directory-hex", path) => rights.directory = RelPath::new(unhex_any(path)?).ok()?,
                ("quota", bytes) => rights.quota = Some(u64::from_str(bytes).ok()?),
                _ => return None,
            }
        }
        Some(rights)
    }
}

/// One line of a keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The name: an address, unless somebody has changed it.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// What it may do.
    pub rights: Rights,
}

impl Peer {
    fn is(&self, wanted: &str) -> bool {
        let print = fingerprint(&self.key);
        let is_key = wanted.starts_with("ed25519:") && wanted.len() >= 16 && print.starts_with(wanted);
        self.name == wanted || is_key
    }

    fn line(&self) -> String {
        let mut words = vec![self.name.clone(), fingerprint(&self.key)];
        words.extend(self.rights.words());
        words.join(" ")
    }
}

/// What is done to the peers of a name or key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// They get another name.
    Rename(String),
    /// They may do this, and nothing else.
    Limit(Rights),
    /// They are strangers again.
    Revoke,
}

impl Keyring {
    /// Changes every line of `wanted`, a name or a fingerprint (its first 8 digits at least). Returns how many there were.
    /// Comments stay. What is changed counts for connections that begin later.
    ///
    /// # Errors
    /// Returns [`Error::Io`] or [`Error::Identity`] if the file cannot be read or written, and [`Error::Usage`] if a new
    /// name is no single word.
    pub fn change(&self, wanted: &str, change: &Change) -> Result<usize, Error> {
        if let Change::Rename(name) = change
            && (name.is_empty()
                || name.starts_with('#')
                || name.contains(|c: char| c.is_whitespace() || c.is_control()))
        {
            return Err(Error::Usage("a name is one word without blanks".into()));
        }
        let failed = |doing| move |error| Error::io(doing, self.path().display().to_string(), error);
        let before = match fs::read_to_string(self.path()) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed("read")(error)),
        };
        let mut found = 0;
        let mut after = String::new();
        for (number, line) in before.lines().enumerate() {
            let Some(mut peer) = self.peer(number, line)?.filter(|peer| peer.is(wanted)) else {
                after += line;
                after.push('\n');
                continue;
            };
            found += 1;
            match change {
                Change::Rename(name) => peer.name.clone_from(name),
                Change::Limit(rights) => peer.rights = rights.clone(),
                Change::Revoke => continue,
            }
            after += &peer.line();
            after.push('\n');
        }
        if found == 0 {
            return Ok(0);
        }
        let temporary = self.path().with_extension(format!("{}.tmp", std::process::id()));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let written =
            made.and_then(|mut file| file.write_all(after.as_bytes()).and_then(|()| file.sync_all()));
        let renamed = written.and_then(|()| fs::rename(&temporary, self.path()));
        renamed.inspect_err(|_| drop(fs::remove_file(&temporary))).map_err(failed("write"))?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_back_from_their_words() {
        let all = Rights::default();
        assert!(all.words().is_empty() && all.allows("print"));
        let limited = Rights {
            read: false,
            write: false,
            sinks: Some(vec!["print".into(), "clipboard".into()]),
            directory: RelPath::new(*b"a b/c").unwrap(),
            quota: Some(10),
        };
        let words = limited.words();
        assert_eq!(Rights::read(words.iter().map(String::as_str)), Some(limited.clone()));
        assert!(limited.allows("print") && !limited.allows("other"));
        let none = Rights { sinks: Some(Vec::new()), ..all };
        assert_eq!(Rights::read(none.words().iter().map(String::as_str)), Some(none.clone()));
        assert!(!none.allows("print"));
        for word in ["read=maybe", "write", "quota=-1", "directory=../x", "exec=no"] {
            assert_eq!(Rights::read([word].into_iter()), None, "{word}");
        }
    }

    #[test]
    fn a_line_is_changed_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::new(dir.path().join("known"));
        assert_eq!(ring.change("a", &Change::Revoke).unwrap(), 0);
        ring.add("a", &[1; 32]).unwrap();
        ring.add("b", &[2; 32]).unwrap();
        fs::write(ring.path(), format!("# mine\n{}", fs::read_to_string(ring.path()).unwrap())).unwrap();
        assert_eq!(ring.change("a", &Change::Rename("laptop".into())).unwrap(), 1);
        assert!(ring.change("laptop", &Change::Rename("two words".into())).is_err());
        let rights = Rights { write: false, ..Rights::default() };
        assert_eq!(ring.change(&fingerprint(&[1; 32])[..20], &Change::Limit(rights.clone())).unwrap(), 1);
        assert_eq!(ring.rights(&[1; 32]).unwrap(), Some(rights));
        assert_eq!(ring.rights(&[2; 32]).unwrap(), Some(Rights::default()));
        assert_eq!(ring.change("b", &Change::Revoke).unwrap(), 1);
        assert_eq!(ring.rights(&[2; 32]).unwrap(), None);
        assert!(fs::read_to_string(ring.path()).unwrap().starts_with("# mine\nlaptop ed25519:01"));
        let peers = ring.peers().unwrap();
        assert_eq!(peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["laptop"]);
        fs::write(ring.path(), format!("a {} power=all\n", fingerprint(&[1; 32]))).unwrap();
        assert!(ring.rights(&[1; 32]).is_err(), "what is not understood may be a limit");
    }
}
