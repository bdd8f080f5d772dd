//! What the user can do about a failed transfer, said with this program's own verbs and options.

use linger_transfer::{Error, Reason, Remedy};
use linger_untrusted::Untrusted;

/// A failure and, on the next line, its remedy.
pub(crate) fn with_hint(reason: &Reason) -> String {
    join(reason.to_string(), reason.remedy())
}

/// An error's message, with the hint that belongs to it.
pub(crate) fn error_with_hint(error: &Error) -> String {
    join(error.to_string(), error.remedy().as_ref())
}

fn join(told: String, remedy: Option<&Remedy>) -> String {
    match remedy.and_then(hint) {
        Some(hint) => format!("{told}\nhint: {hint}"),
        None => told,
    }
}

/// What the user can do, as a sentence; `None` if this program has nothing to say about it.
///
/// The remedy may come from another machine, so the names in it are escaped.
pub(crate) fn hint(remedy: &Remedy) -> Option<String> {
    let told = match remedy {
        Remedy::StartServer => "is `linger share` running there, and does it listen on this port or path?",
        Remedy::OpenTheWay => "is the machine on, and does every firewall let this port through?",
        Remedy::CheckHost => "is the name right? `getent hosts NAME` asks the same",
        Remedy::CheckService => "is it `linger share` that listens there?",
        Remedy::ListFirst => "`linger ls` shows what is there",
        Remedy::FileInTheWay => "a file stands where a directory is meant; `linger ls` shows what is there",
        Remedy::CheckPermissions => {
            "the program's user may not, on the machine with that path; `namei -l` of the path says who may"
        }
        Remedy::MountWritable => "it has to be mounted for writing, or another place to be used",
        Remedy::MakeRoom => {
            "make room where it is received and start again: of files, what is there by then is not sent twice"
        }
        Remedy::RaiseFileSize => {
            "`ulimit -f` or the file system allows no files of that size where it is received"
        }
        Remedy::ShortenName => "the file system where it is received takes shorter names only",
        Remedy::Replace => "--replace overwrites it",
        Remedy::PutInside(directory) => {
            let directory = Untrusted::from(directory.as_str());
            return Some(format!("write {}/ to put something inside a directory", directory.terminal()));
        }
        Remedy::RemoveOrRename => "remove it, or use another name",
        Remedy::WaitForOther => "wait for it, or end it; what it has is kept",
        Remedy::ShareWritable => "the other side can start `linger share --writable`",
        Remedy::Encrypt => "leave out --insecure here, or start `linger share --insecure` there",
        Remedy::AskForCode => "`linger share` shows the code where it runs",
        Remedy::ForgetKey { host, file } => {
            let (host, file) = (Untrusted::from(host.as_str()), Untrusted::from(file.as_str()));
            return Some(format!(
                "if it was replaced on purpose, remove the line of {} from {} and pair again",
                host.terminal(),
                file.terminal()
            ));
        }
        Remedy::SendAgain => "start again when nobody writes to it",
        Remedy::SendAsPipe => "`linger put - HOST:NAME` sends what comes through a pipe",
        Remedy::GiveName => "HOST:NAME gives it one",
        Remedy::NameOutput => "name a place for it instead of `-`",
        Remedy::ConfigureName => "the other side names them in its configuration",
        Remedy::RaiseMaxBytes => "max_bytes in the configuration there sets it",
        Remedy::LookBeforeSending => {
            "look whether it was done (`linger receipt ask` asks the server); if it was not, `linger put --again` does it"
        }
        Remedy::RaiseMaxSeconds => "max_seconds in the configuration there says how long it may",
        Remedy::InstallCommand => "the configuration there names it; is it installed?",
        Remedy::ReadServerOutput => "what it said is on the standard error of `linger share` there",
        Remedy::StartFromDesktop => "start `linger share` from the desktop, or name a command instead",
        Remedy::Unknown(told) => return Some(Untrusted::from(told.as_str()).terminal().to_string()),
        _ => return None,
    };
    Some(told.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_on_a_line_of_its_own() {
        let reason = Reason::from("there exists already");
        assert_eq!(with_hint(&reason), "there exists already");
        assert_eq!(
            with_hint(&reason.with(Remedy::Replace)),
            "there exists already\nhint: --replace overwrites it"
        );
        let error = Error::Usage(Reason::from("no").with(Remedy::NameOutput));
        assert_eq!(error_with_hint(&error), "no\nhint: name a place for it instead of `-`");
    }

    #[test]
    fn what_another_machine_says_is_escaped() {
        let told = hint(&Remedy::Unknown("\x1b[2Jrun this".into())).unwrap();
        assert!(!told.contains('\x1b') && told.ends_with("run this"), "{told}");
        let told = hint(&Remedy::PutInside("a\nb".into())).unwrap();
        assert!(!told.contains('\n'), "{told}");
    }
}
