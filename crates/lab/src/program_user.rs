//! As whom a program runs.

/// A user of this machine, by its numbers.
///
/// With root's rights a program becomes that user. Without them it is put into a user namespace of its own in which it has the user's
/// numbers, and stays, for files and signals, the user who started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramUser {
    /// The user's number.
    pub uid: u32,
    /// The number of its group; it has no other.
    pub gid: u32,
}

impl ProgramUser {
    /// The user of this name or number.
    ///
    /// # Errors
    /// Returns a message that says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::find(text, &std::fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    /// The same, in the text of a `passwd(5)`. A number that it does not know is a user, too.
    fn find(text: &str, passwd: &str) -> Result<Self, String> {
        let number = text.parse::<u32>().ok();
        let known = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, uid, gid) =
                (fields.next()?, fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == text || number == Some(uid)).then_some(Self { uid, gid })
        });
        match (known, number) {
            (Some(user), _) => Ok(user),
            // All ones are no user (`setresuid(2)`).
            (None, Some(u32::MAX)) | (None, None) => {
                let shown: String = text.chars().take(40).collect();
                Err(format!(
                    "`{}` is no user of this machine: name one of /etc/passwd, or a number",
                    shown.escape_debug()
                ))
            }
            (None, Some(uid)) => Ok(Self { uid, gid: uid }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_name_or_a_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\npostgres:x:107:115::/var/lib:/bin/sh\n107x:x:9:9::/:/bin/sh\n";
        let find = |text: &str| ProgramUser::find(text, passwd);
        let postgres = ProgramUser { uid: 107, gid: 115 };
        assert_eq!((find("postgres"), find("107")), (Ok(postgres), Ok(postgres)));
        assert_eq!(find("root"), Ok(ProgramUser { uid: 0, gid: 0 }));
        assert_eq!(find("1500"), Ok(ProgramUser { uid: 1500, gid: 1500 }));
        for text in ["nobody-of-that-name", "", "-1", "4294967295", "post"] {
            assert!(find(text).unwrap_err().contains("/etc/passwd"), "{text}");
        }
    }
}
