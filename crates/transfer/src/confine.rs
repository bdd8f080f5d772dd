//! Landlock: once everything is open, the process gives up the rest of the file system.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus,
};

/// Confines this process, for good, to `directory` (for reading, or for both) and to the files in `home`.
///
/// Everything that names files is kept inside by `openat2(2)` already; this is the second wall, should the
/// first have a hole. It holds for threads that are started afterwards and for child processes. Returns
/// whether the kernel does it; `None` where the ruleset could not be made at all.
pub fn confine(directory: &Path, home: &Path, writable: bool) -> Option<bool> {
    let abi = ABI::V5;
    let everything = AccessFs::from_all(abi);
    let reading = AccessFs::from_read(abi);
    // No program is ever started by a server without sinks and sources.
    let inside = if writable { everything & !AccessFs::Execute } else { reading & !AccessFs::Execute };
    let restrict = || -> Result<_, Box<dyn std::error::Error>> {
        let mut ruleset = Ruleset::default().handle_access(everything)?.create()?;
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(directory)?, inside))?;
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(home)?, everything & !AccessFs::Execute))?;
        // The boot's name, the umask, and descriptors by number where the kernel is older than 6.10.
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new("/proc")?, reading & !AccessFs::Execute))?;
        Ok(ruleset.restrict_self()?)
    };
    Some(restrict().ok()?.ruleset != RulesetStatus::NotEnforced)
}
