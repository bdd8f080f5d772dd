//! Finds a command's file, and determines what kind of program it is: that decides how its closes can be seen.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, EM_AARCH64, EM_X86_64, FileHeader64, NT_GNU_BUILD_ID, PT_INTERP, PT_NOTE};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadCache};

use crate::RunError;

/// A command that was found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Program {
    /// The file that is executed.
    pub path: PathBuf,
    /// Its kind: whether a library can be preloaded into it, and if not, why.
    pub kind: ProgramKind,
    /// The bits by which the program gains privileges, for which the loader ignores LD_PRELOAD.
    pub gains: Option<&'static str>,
    /// Whether it has AddressSanitizer's shared library, which insists on being the first of all libraries.
    pub sanitized: bool,
}

/// Kinds of programs, by whether a library can be preloaded into them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramKind {
    /// Linked dynamically with this C library: a preloaded library sees its closes.
    Dynamic,
    /// Go: system calls are made without the C library.
    Go,
    /// Linked statically: no loader, so no preloading.
    Static,
    /// Linked with another C library than the preloaded library is built for.
    ForeignLoader,
    /// Of another architecture or word size, with other system call numbers.
    Foreign,
}

impl ProgramKind {
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

    /// Whether its system call numbers are those of this process's architecture, which the seccomp filter knows.
    pub fn is_native(self) -> bool {
        self != Self::Foreign
    }
}

/// Depth of `#!` interpreters that are followed, as in the kernel (`exec_binprm`).
const DEPTH: usize = 5;

impl Program {
    /// Finds a command by its path, or in the directories of `search` (the value of PATH), and determines its kind.
    ///
    /// # Errors
    /// [`RunError::NotFound`] and [`RunError::NotExecutable`].
    pub fn find(command: &OsStr, search: &OsStr) -> Result<Self, RunError> {
        let not_found = || RunError::NotFound { command: command.to_string_lossy().into_owned() };
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
            _ => RunError::NotExecutable { path: path.clone(), reason: error.to_string() },
        })?;
        if !metadata.is_file() || !is_executable(&path) {
            let reason = if metadata.is_dir() { "it is a directory" } else { "permission denied" };
            return Err(RunError::NotExecutable { path, reason: reason.to_owned() });
        }
        let Traits { kind, sanitized } = traits(&path, DEPTH)?;
        Ok(Self { gains: gains(&path, &metadata), path, kind, sanitized })
    }
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The file attributes for which the kernel sets AT_SECURE, so that the loader ignores LD_PRELOAD (ld.so(8)).
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

/// What a file says of the program.
#[derive(Clone, Copy, Debug)]
struct Traits {
    kind: ProgramKind,
    sanitized: bool,
}

impl From<ProgramKind> for Traits {
    fn from(kind: ProgramKind) -> Self {
        Self { kind, sanitized: false }
    }
}

fn traits(path: &Path, depth: usize) -> Result<Traits, RunError> {
    let wrong = |reason: String| RunError::NotExecutable { path: path.to_owned(), reason };
    let mut file = match File::open(path) {
        Ok(file) => file,
        // Executable and not readable: assume the common kind.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(ProgramKind::Dynamic.into());
        }
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
        return traits(interpreter, depth - 1);
    }
    if !start.starts_with(b"\x7fELF") {
        // A shell would run a file without `#!` itself; execve fails with ENOEXEC.
        return Err(wrong("it is neither a program of this system nor a script with a #! line".to_owned()));
    }
    /// `e_machine` of this program.
    const MACHINE: u16 = if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 };
    // EI_CLASS, and e_machine at offset 18.
    let machine = start.get(18..20).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes);
    if start.get(4) != Some(&2) || machine != Some(MACHINE) {
        return Ok(ProgramKind::Foreign.into());
    }
    elf_traits(&ReadCache::new(file)).map_err(|error| wrong(error.to_string()))
}

fn elf_traits(file: &ReadCache<File>) -> Result<Traits, object::read::Error> {
    let header = FileHeader64::<Endianness>::parse(file)?;
    let endian = header.endian()?;
    let mut kind = ProgramKind::Static;
    for segment in header.program_headers(endian, file)? {
        match segment.p_type(endian) {
            PT_INTERP if kind != ProgramKind::Go => {
                let loader = segment.interpreter(endian, file)?.unwrap_or_default();
                let name = loader.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let ours = name.starts_with(b"ld-linux") || name.starts_with(b"ld64");
                kind = if ours { ProgramKind::Dynamic } else { ProgramKind::ForeignLoader };
            }
            PT_NOTE => {
                let mut notes = segment.notes(endian, file)?;
                while let Some(notes) = notes.as_mut()
                    && let Some(note) = notes.next()?
                {
                    // `go tool link` writes a note with this name in every build mode.
                    if note.name() == b"Go" && note.n_type(endian) != NT_GNU_BUILD_ID {
                        kind = ProgramKind::Go;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Traits { kind, sanitized: needs(header, endian, file, |library| library.starts_with(b"libasan.so"))? })
}

/// Whether a program needs a library with such a name (`DT_NEEDED`).
fn needs(
    header: &FileHeader64<Endianness>,
    endian: Endianness,
    file: &ReadCache<File>,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> Result<bool, object::read::Error> {
    let sections = header.sections(endian, file)?;
    let Some((entries, link)) = sections.dynamic(endian, file)? else { return Ok(false) };
    let strings = sections.strings(endian, file, link)?;
    let needed = entries.iter().filter(|entry| entry.tag32(endian) == i32::try_from(DT_NEEDED).ok());
    Ok(needed.filter_map(|entry| entry.string(endian, strings).ok()).any(is_wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(command: &str) -> Result<Program, RunError> {
        Program::find(OsStr::new(command), OsStr::new("/usr/bin:/bin"))
    }

    #[test]
    fn what_this_machine_has_is_told_apart() {
        assert_eq!(find("sh").unwrap().kind, ProgramKind::Dynamic);
        assert_eq!(
            find("/usr/bin/ldd").unwrap().kind,
            ProgramKind::Dynamic,
            "a script is of its interpreter's kind"
        );
        if let Ok(go) = Program::find(OsStr::new("go"), OsStr::new("/usr/lib/go/bin:/usr/bin")) {
            assert_eq!(go.kind, ProgramKind::Go);
        }
    }

    #[test]
    fn what_cannot_be_run_is_said() {
        assert!(matches!(find("no-such-command-at-all"), Err(RunError::NotFound { .. })));
        assert!(matches!(find("/no/such/file"), Err(RunError::NotFound { .. })));
        assert!(matches!(find("/etc/passwd"), Err(RunError::NotExecutable { .. })));
        assert!(matches!(find("/usr/bin/"), Err(RunError::NotExecutable { .. })));
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
