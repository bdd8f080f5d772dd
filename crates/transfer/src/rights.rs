//! The rights of a client whose key is known.

use std::str::FromStr;

use crate::hash::{hex, unhex_any};
use crate::path::RelPath;

/// The rights of a client whose key is known. A line of the key file that names no limits allows everything that the server
/// offers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rights {
    /// It may get and list.
    pub read: bool,
    /// It may put, if the server accepts files at all.
    pub write: bool,
    /// The sinks and sources that it may use; `None` is all of them.
    pub sinks: Option<Vec<String>>,
    /// The directory below the shared one that the client sees as its root.
    pub directory: RelPath,
    /// The most bytes that the files in that directory may have together for the client to put more.
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

    /// The words of a line of the key file; none for rights that are not limited.
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

    /// Reads the words of a line of the key file. Returns `None` for a word that it does not know: it may be
    /// a limit.
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
}
