//! Why something failed: a sentence for a person, and the remedy as data.
//!
//! No sentence here names a program's option or verb: the program that shows a [`Reason`] puts the [`Remedy`] into
//! its own words. Between machines both travel as one text, the remedy as one word on the last line; see
//! `docs/transfer-protocol.md`.

use std::fmt;
use std::ops::Deref;

/// What the user can do about a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Nobody listens there: start a server, or name the port it listens on.
    StartServer,
    /// The machine does not answer: switch it on, or let the port through every firewall.
    OpenTheWay,
    /// The host cannot be found: correct its name.
    CheckHost,
    /// Something answers that speaks another protocol: name the port of a server of ours.
    CheckService,
    /// What was named does not exist: list what does. A directory to put something into has to exist.
    ListFirst,
    /// A directory was named, but the path is a file: list what is there.
    FileInTheWay,
    /// The user that the program runs as has no permission.
    CheckPermissions,
    /// The file system has to be mounted for writing, or something else shared.
    MountWritable,
    /// The disk or the quota is full. What arrived is kept and not sent twice.
    MakeRoom,
    /// The file system or the process's limit allows no files of that size.
    RaiseFileSize,
    /// The file system takes shorter names only.
    ShortenName,
    /// Ask for the file to be replaced.
    Replace,
    /// A directory has that name: put something inside of it.
    PutInside(String),
    /// Something that is no directory has the name: remove it, or send to another name.
    RemoveOrRename,
    /// Another program receives the file: wait for it or end it.
    WaitForOther,
    /// The other side has to share its directory for writing.
    ShareWritable,
    /// Encrypt, or let the server accept connections that are not encrypted.
    Encrypt,
    /// The code is shown where the server runs.
    AskForCode,
    /// The host has another key on purpose: forget the old one and pair again.
    ForgetKey {
        /// The host as it is on file.
        host: String,
        /// The file with its key.
        file: String,
    },
    /// Send the file again when no program writes to it.
    SendAgain,
    /// What was asked for may have been done: look, and send the content anew if it was not.
    LookBeforeSending,
    /// Send the content through a pipe (`-`).
    SendAsPipe,
    /// Name a place in the file system for what is received.
    NameOutput,
    /// Give a name at the destination: what comes through a pipe has none.
    GiveName,
    /// The other side names its sinks and sources in its configuration.
    ConfigureName,
    /// The configuration of the other side sets the most bytes.
    RaiseMaxBytes,
    /// The configuration of the other side sets the most seconds.
    RaiseMaxSeconds,
    /// The configuration of the other side names a command that may not be installed.
    InstallCommand,
    /// What the command said is on the server's standard error.
    ReadServerOutput,
    /// Start the server from the desktop, or configure a command instead.
    StartFromDesktop,
    /// A remedy in words, from a peer of another version; shown as it is.
    Unknown(String),
}

/// The remedies that carry nothing, and the words that stand for them on the wire.
const WORDS: [(Remedy, &str); 28] = [
    (Remedy::StartServer, "start-server"),
    (Remedy::OpenTheWay, "open-the-way"),
    (Remedy::CheckHost, "check-host"),
    (Remedy::CheckService, "check-service"),
    (Remedy::ListFirst, "list-first"),
    (Remedy::FileInTheWay, "file-in-the-way"),
    (Remedy::CheckPermissions, "check-permissions"),
    (Remedy::MountWritable, "mount-writable"),
    (Remedy::MakeRoom, "make-room"),
    (Remedy::RaiseFileSize, "raise-file-size"),
    (Remedy::ShortenName, "shorten-name"),
    (Remedy::Replace, "replace"),
    (Remedy::RemoveOrRename, "remove-or-rename"),
    (Remedy::WaitForOther, "wait-for-other"),
    (Remedy::ShareWritable, "share-writable"),
    (Remedy::Encrypt, "encrypt"),
    (Remedy::AskForCode, "ask-for-code"),
    (Remedy::LookBeforeSending, "look-before-sending"),
    (Remedy::SendAgain, "send-again"),
    (Remedy::SendAsPipe, "send-as-pipe"),
    (Remedy::NameOutput, "name-output"),
    (Remedy::GiveName, "give-name"),
    (Remedy::ConfigureName, "configure-name"),
    (Remedy::RaiseMaxBytes, "raise-max-bytes"),
    (Remedy::RaiseMaxSeconds, "raise-max-seconds"),
    (Remedy::InstallCommand, "install-command"),
    (Remedy::ReadServerOutput, "read-server-output"),
    (Remedy::StartFromDesktop, "start-from-desktop"),
];
/// The words on the wire of the remedies that carry something.
const PUT_INSIDE: &str = "put-inside ";
const FORGET_KEY: &str = "forget-key ";

impl Remedy {
    fn to_wire(&self) -> String {
        match self {
            Self::PutInside(directory) => format!("{PUT_INSIDE}{directory}"),
            Self::ForgetKey { host, file } => format!("{FORGET_KEY}{host} {file}"),
            Self::Unknown(told) => told.clone(),
            plain => {
                let word = WORDS.iter().find(|(remedy, _)| remedy == plain);
                word.map_or_else(String::new, |(_, word)| (*word).to_owned())
            }
        }
    }

    fn from_wire(told: &str) -> Self {
        if let Some(directory) = told.strip_prefix(PUT_INSIDE) {
            return Self::PutInside(directory.to_owned());
        }
        if let Some((host, file)) = told.strip_prefix(FORGET_KEY).and_then(|rest| rest.split_once(' ')) {
            return Self::ForgetKey { host: host.to_owned(), file: file.to_owned() };
        }
        let known = WORDS.iter().find(|(_, word)| *word == told);
        known.map_or_else(|| Self::Unknown(told.to_owned()), |(remedy, _)| remedy.clone())
    }
}

/// A sentence about a failure, and its remedy if there is one. It is shown, and used as text, without the remedy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    text: String,
    remedy: Option<Remedy>,
}

/// Separates the sentence from the remedy in the text between machines.
const BEFORE_REMEDY: &str = "\nhint: ";

impl Reason {
    /// Adds a remedy.
    #[must_use]
    pub fn with(self, remedy: impl Into<Option<Remedy>>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }

    /// What can be done.
    pub fn remedy(&self) -> Option<&Remedy> {
        self.remedy.as_ref()
    }

    /// As one text of at most `most` bytes. The sentence is cut before the remedy is, and a remedy for which there is
    /// no room is left out.
    pub(crate) fn to_wire(&self, most: usize) -> String {
        let remedy = self.remedy.as_ref().map(|remedy| format!("{BEFORE_REMEDY}{}", remedy.to_wire()));
        let remedy = remedy.filter(|remedy| remedy.len() <= most).unwrap_or_default();
        let mut end = self.text.len().min(most - remedy.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{remedy}", &self.text[..end])
    }

    /// The words of a peer. They become one line each: a further line could be taken for this program's own.
    pub(crate) fn from_wire(told: String) -> Self {
        let one_line = |words: &str| words.replace('\n', "\\n");
        match told.rsplit_once(BEFORE_REMEDY) {
            Some((text, remedy)) => {
                Self { text: one_line(text), remedy: Some(Remedy::from_wire(&one_line(remedy))) }
            }
            None => one_line(&told).into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Reason {}

impl Deref for Reason {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self { text, remedy: None }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedies() -> Vec<Remedy> {
        let mut all: Vec<_> = WORDS.iter().map(|(remedy, _)| remedy.clone()).collect();
        all.push(Remedy::PutInside("a b/c".into()));
        all.push(Remedy::ForgetKey { host: "[::1]:7117".into(), file: "/home/some one/known_hosts".into() });
        all.push(Remedy::Unknown("an older program's own words".into()));
        all
    }

    #[test]
    fn every_remedy_comes_back_with_its_sentence() {
        let all = remedies();
        for (number, remedy) in all.iter().enumerate() {
            let reason = Reason::from("a sentence").with(remedy.clone());
            assert_eq!(Reason::from_wire(reason.to_wire(1024)), reason);
            let word = remedy.to_wire();
            assert!(!word.is_empty() && all[..number].iter().all(|other| other.to_wire() != word), "{word}");
        }
        let bare = Reason::from("nothing can be done");
        assert_eq!(Reason::from_wire(bare.to_wire(1024)), bare);
    }

    /// A text that a peer sends is kept as it is, whatever it says.
    #[test]
    fn a_text_of_a_peer_goes_back_as_it_came() {
        for told in ["", "\nhint: ", "x\nhint: replace ", "\nhint: forget-key x", "é"] {
            assert_eq!(Reason::from_wire(told.to_owned()).to_wire(1024), told);
        }
    }

    #[test]
    fn a_text_of_a_peer_has_one_line_and_one_remedy() {
        for (told, text, remedy) in [
            ("no\nlinger: all is confirmed", "no\\nlinger: all is confirmed", None),
            ("no\nhint: a\nhint: replace", "no\\nhint: a", Some(Remedy::Replace)),
            ("no\nhint: a\nlinger: b", "no", Some(Remedy::Unknown("a\\nlinger: b".into()))),
            ("no\nhint: put-inside a\nb", "no", Some(Remedy::PutInside("a\\nb".into()))),
        ] {
            let reason = Reason::from_wire(told.to_owned());
            assert_eq!((&*reason, reason.remedy()), (text, remedy.as_ref()));
        }
    }

    #[test]
    fn a_sentence_that_is_too_long_is_cut_and_its_remedy_is_not() {
        let reason = Reason::from("é".repeat(600)).with(Remedy::Replace);
        let wire = reason.to_wire(1024);
        assert!(wire.len() <= 1024 && wire.len() > 1022, "{}", wire.len());
        assert_eq!(Reason::from_wire(wire).remedy(), Some(&Remedy::Replace));
        assert_eq!(reason.to_wire(14), "\nhint: replace", "as long as the remedy's line");
        let long = Reason::from("short").with(Remedy::PutInside("x".repeat(100)));
        assert_eq!(long.to_wire(64), "short", "no room for the remedy");
    }

    #[test]
    fn a_reason_is_shown_without_its_remedy() {
        let reason = Reason::from("there exists already").with(Remedy::Replace);
        assert_eq!(reason.to_string(), "there exists already");
        assert!(reason.ends_with("already"));
    }
}
