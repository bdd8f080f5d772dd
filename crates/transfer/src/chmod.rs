//! Modes as chmod(1) and `rsync --chmod` write them, for the bits 0777. Unlike chmod(1), a clause without a class (`+x`) is for
//! all three classes, whatever the umask.

use std::str::FromStr;

/// How a mode is changed: `644`, `u=rw,go=r`, `g-w,o-rwx`, `a+rX`. A clause after `D` is for directories alone, one after `F`
/// for files alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chmod(Vec<Clause>);

/// A text that cannot be read as a mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mode; write 644, u=rw,go=r or D755,F644")]
#[non_exhaustive]
pub struct BadChmod(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clause {
    /// `Some(true)`: only for directories. `Some(false)`: only for files. `None`: for both.
    directories: Option<bool>,
    change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Number(u32),
    Symbols {
        /// The bits of the classes (user, group, others) that the clause names.
        who: u32,
        operator: u8,
        /// Permissions of all three classes.
        bits: u32,
        /// `X`: the right to execute, for a directory, or for a file that somebody may execute already.
        search: bool,
    },
}

impl Chmod {
    /// The changed mode. Set-user-ID, set-group-ID and sticky bits are dropped.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let applies =
            |clause: &&Clause| clause.directories.is_none_or(|directories| directories == is_directory);
        self.0.iter().filter(applies).fold(mode & 0o777, |mode, clause| match clause.change {
            Change::Number(number) => number,
            Change::Symbols { who, operator, bits, search } => {
                let execute = if search && (is_directory || mode & 0o111 != 0) { 0o111 } else { 0 };
                let bits = (bits | execute) & who;
                match operator {
                    b'+' => mode | bits,
                    b'-' => mode & !bits,
                    _ => mode & !who | bits,
                }
            }
        })
    }
}

impl FromStr for Chmod {
    type Err = BadChmod;

    fn from_str(text: &str) -> Result<Self, BadChmod> {
        let clauses = text.split(',').map(clause).collect::<Option<Vec<_>>>();
        clauses.map(Self).ok_or_else(|| BadChmod(text.to_owned()))
    }
}

fn clause(text: &str) -> Option<Clause> {
    let (directories, text) = match text.as_bytes().first()? {
        b'D' => (Some(true), &text[1..]),
        b'F' => (Some(false), &text[1..]),
        _ => (None, text),
    };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = u32::from_str_radix(text, 8).ok().filter(|number| *number <= 0o777)?;
        return Some(Clause { directories, change: Change::Number(number) });
    }
    let at = text.find(['+', '-', '='])?;
    let (classes, rest) = text.split_at(at);
    let who = classes.bytes().try_fold(0, |who, class| {
        Some(
            who | match class {
                b'u' => 0o700,
                b'g' => 0o070,
                b'o' => 0o007,
                b'a' => 0o777,
                _ => return None,
            },
        )
    })?;
    let who = if classes.is_empty() { 0o777 } else { who };
    let (mut bits, mut search) = (0, false);
    for permission in rest.bytes().skip(1) {
        match permission {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' => search = true,
            _ => return None,
        }
    }
    Some(Clause { directories, change: Change::Symbols { who, operator: rest.as_bytes()[0], bits, search } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_chmod_reads_them() {
        for (text, mode, directory, becomes) in [
            ("644", 0o777, false, 0o644),
            ("D755,F644", 0o700, true, 0o755),
            ("D755,F644", 0o700, false, 0o644),
            ("u=rw,go=r", 0o777, false, 0o644),
            ("go-w", 0o666, false, 0o644),
            ("a+rX", 0o600, false, 0o644),
            ("a+rX", 0o600, true, 0o755),
            ("a+rX", 0o700, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("o=", 0o757, false, 0o750),
            ("Dg+w", 0o755, false, 0o755),
        ] {
            assert_eq!(text.parse::<Chmod>().unwrap().apply(mode, directory), becomes, "{text} of {mode:o}");
        }
        for text in ["", "rw", "888", "4755", "u=rws", "x+r", "u+r;", ",644", "u"] {
            assert!(text.parse::<Chmod>().is_err(), "{text}");
        }
    }
}
