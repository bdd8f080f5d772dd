//! Changes to the file of known keys.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use crate::error::Error;
use crate::identity::{Keyring, KnownKey, fingerprint};
use crate::rights::Rights;

impl KnownKey {
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
