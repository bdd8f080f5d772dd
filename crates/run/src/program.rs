//! What kind of program a command is, which decides how its closes can be seen.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64, NT_GNU_BUILD_ID, PT_INTERP, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache};

use crate::Error;

/// A command that was found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Program {
    /// The file that is executed.
    pub path: PathBuf,
    /// What a preloaded library could do in it.
    pub kind: Kind,
    /// The loader ignores preloading, because the program gains rights by these bits.
    pub gains: Option<&'static str>,
}

/// What a preloaded library could do in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It is loaded, and the program's closes come by it.
    Dynamic,
    /// Go: system calls are made without the C library.
    Go,
    /// Linked without a loader.
    Static,
    /// Loaded by another C library than the one the preloaded library is made for.
    ForeignLoader,
    /// Of another architecture or word size, with system calls of its own.
    Foreign,
}

impl Kind {
    /// Why nothing can be preloaded, as the rest of a sentence; `None` where it can.
    pub fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::Dynamic => None,
            Self::Go => Some("is a Go program, which makes its system calls without the C library"),
            Self::Static => Some("is linked statically"),
            Self::ForeignLoader => Some("is for another C library than this program's"),
            Self::Foreign => Some("is for another architecture or word size than this program's"),
        }
    }

    /// Whether its system calls are those that this program's kernel interface has.
    pub fn is_native(self) -> bool {
        self != Self::Foreign
    }
}

/// Interpreters of interpreters; the kernel follows five.
const DEPTH: usize = 5;

impl Program {
    /// Finds a command, by its path or in the directories of `search` (the value of PATH), and looks at its kind.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::NotExecutable`].
    pub fn find(command: &OsStr, search: &OsStr) -> Result<Self, Error> {
        let not_found = || Error::NotFound { command: command.to_string_lossy().into_owned() };
        let path = if command.as_bytes().contains(&b'/') {
            PathBuf::from(command)
        } else {
            let places = std::env::split_paths(search).map(|directory| directory.join(command));
            let files: Vec<PathBuf> = places.filter(|path| path.is_file()).collect();
            let executable = files.iter().find(|path| is_executable(path));
            executable.or(files.first()).cloned().ok_or_else(not_found)?
        };
        let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => not_found(),
            _ => Error::NotExecutable { path: path.clone(), reason: error.to_string() },
        })?;
        if !metadata.is_file() || !is_executable(&path) {
            let reason = if metadata.is_dir() { "it is a directory" } else { "permission denied" };
            return Err(Error::NotExecutable { path, reason: reason.to_owned() });
        }
        let kind = kind_of(&path, DEPTH)?;
        Ok(Self { gains: gains(&path, &metadata), path, kind })
    }
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// What makes the kernel say AT_SECURE, at which the loader ignores LD_PRELOAD (ld.so(8)).
fn gains(path: &Path, metadata: &fs::Metadata) -> Option<&'static str> {
    let mode = metadata.permissions().mode();
    if mode & 0o4000 != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
        return Some("setuid");
    }
    if mode & 0o2010 == 0o2010 && metadata.gid() != rustix::process::getegid().as_raw() {
        return Some("setgid");
    }
    let root = rustix::process::geteuid().is_root();
    let mut value = [0; 64];
    let capable = rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok();
    (capable && !root).then_some("given file capabilities")
}

fn kind_of(path: &Path, depth: usize) -> Result<Kind, Error> {
    let wrong = |reason: String| Error::NotExecutable { path: path.to_owned(), reason };
    let mut file = match File::open(path) {
        Ok(file) => file,
        // Executable and not readable: the common kind is assumed.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Kind::Dynamic),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let mut start = Vec::new();
    file.by_ref().take(256).read_to_end(&mut start).map_err(|error| wrong(error.to_string()))?;
    if let Some(line) = start.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let name = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).unwrap_or_default();
        let interpreter = Path::new(OsStr::from_bytes(name));
        if depth == 0 || !interpreter.is_file() {
            return Err(wrong(format!("its interpreter `{}` is not there", interpreter.display())));
        }
        return kind_of(interpreter, depth - 1);
    }
    if !start.starts_with(b"\x7fELF") {
        // A shell runs a file without a first line of that kind itself; execve does not.
        return Err(wrong("it is neither a program of this system nor a script with a #! line".to_owned()));
    }
    /// `e_machine` of this program.
    const MACHINE: u16 = if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 };
    // EI_CLASS, and e_machine at offset 18.
    let machine = start.get(18..20).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes);
    if start.get(4) != Some(&2) || machine != Some(MACHINE) {
        return Ok(Kind::Foreign);
    }
    elf_kind(&ReadCache::new(file)).map_err(|error| wrong(error.to_string()))
}

fn elf_kind(file: &ReadCache<File>) -> Result<Kind, object::read::Error> {
    let header = FileHeader64::<Endianness>::parse(file)?;
    let endian = header.endian()?;
    let mut kind = Kind::Static;
    for segment in header.program_headers(endian, file)? {
        match segment.p_type(endian) {
            PT_INTERP if kind != Kind::Go => {
                let loader = segment.interpreter(endian, file)?.unwrap_or_default();
                let name = loader.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let ours = name.starts_with(b"ld-linux") || name.starts_with(b"ld64");
                kind = if ours { Kind::Dynamic } else { Kind::ForeignLoader };
            }
            PT_NOTE => {
                let mut notes = segment.notes(endian, file)?;
                while let Some(notes) = notes.as_mut()
                    && let Some(note) = notes.next()?
                {
                    // `go tool link` names its notes so, in every build mode.
                    if note.name() == b"Go" && note.n_type(endian) != NT_GNU_BUILD_ID {
                        kind = Kind::Go;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(command: &str) -> Result<Program, Error> {
        Program::find(OsStr::new(command), OsStr::new("/usr/bin:/bin"))
    }

    #[test]
    fn what_this_machine_has_is_told_apart() {
        assert_eq!(find("sh").unwrap().kind, Kind::Dynamic);
        assert_eq!(
            find("/usr/bin/ldd").unwrap().kind,
            Kind::Dynamic,
            "a script is of its interpreter's kind"
        );
        if let Ok(go) = Program::find(OsStr::new("go"), OsStr::new("/usr/lib/go/bin:/usr/bin")) {
            assert_eq!(go.kind, Kind::Go);
        }
    }

    #[test]
    fn what_cannot_be_run_is_said() {
        assert!(matches!(find("no-such-command-at-all"), Err(Error::NotFound { .. })));
        assert!(matches!(find("/no/such/file"), Err(Error::NotFound { .. })));
        assert!(matches!(find("/etc/passwd"), Err(Error::NotExecutable { .. })));
        assert!(matches!(find("/usr/bin/"), Err(Error::NotExecutable { .. })));
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        for (text, said) in
            [("#!/no/such/shell\n", "/no/such/shell"), ("nonsense", "neither"), ("", "neither")]
        {
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let error = Program::find(script.as_os_str(), OsStr::new("")).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }

    #[test]
    fn rights_gained_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy");
        fs::copy("/bin/true", &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
        let found = Program::find(copy.as_os_str(), OsStr::new("")).unwrap();
        assert_eq!(found.gains, None, "its owner gains nothing");
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::fs::Uid::from_raw(65_534);
            rustix::fs::chown(&copy, Some(nobody), None).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
            let found = Program::find(copy.as_os_str(), OsStr::new("")).unwrap();
            assert_eq!(found.gains, Some("setuid"));
        }
    }
}
