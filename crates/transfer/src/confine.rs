//! Landlock: once everything is open, a server or a receiving client gives up the rest of the file system.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus,
};

/// Confines this thread for good to `directory` (for reading, and for writing if `writable`) and to `home`, for both. `/proc`
/// stays readable, and no program can be executed.
///
/// Every path is resolved with `openat2(2)` and stays inside anyway; Landlock is a second barrier. It applies to threads and
/// processes that this thread starts later, not to other threads that run already. Returns `true` if the kernel enforces the
/// ruleset at least in part (an older kernel knows fewer rights), `false` if the kernel has no Landlock, and `None` if the
/// ruleset could not be made.
pub fn confine(directory: &Path, home: &Path, writable: bool) -> Option<bool> {
    let abi = ABI::V5;
    let everything = AccessFs::from_all(abi);
    let reading = AccessFs::from_read(abi);
    // A server without sinks and sources never executes a program.
    let inside = if writable { everything & !AccessFs::Execute } else { reading & !AccessFs::Execute };
    let restrict = || -> Result<_, Box<dyn std::error::Error>> {
        let mut ruleset = Ruleset::default().handle_access(everything)?.create()?;
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(directory)?, inside))?;
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(home)?, everything & !AccessFs::Execute))?;
        // boot_id and umask; and /proc/self/fd for linkat(2) before Linux 6.10.
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new("/proc")?, reading & !AccessFs::Execute))?;
        Ok(ruleset.restrict_self()?)
    };
    Some(restrict().ok()?.ruleset != RulesetStatus::NotEnforced)
}

/// Confines what this thread, and the threads and processes that it starts later, may write, for good: to what is below the
/// directories `places`, to `/dev/tty` and to `/dev/null`. Reading is not restricted, and files that are open stay usable.
///
/// For a client that receives: whatever name a server makes up, nothing else can be changed. Also for commands of sinks and
/// sources. Places that are no directories are left out. Returns as [`confine`] does.
pub fn confine_writes(places: &[&Path]) -> Option<bool> {
    let writing = AccessFs::from_write(ABI::V5);
    let to_a_device = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let restrict = || -> Result<_, Box<dyn std::error::Error>> {
        let mut ruleset = Ruleset::default().handle_access(writing)?.create()?;
        for place in places.iter().filter(|place| place.is_dir()) {
            ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(place)?, writing))?;
        }
        for device in ["/dev/tty", "/dev/null"].iter().filter(|device| Path::new(device).exists()) {
            ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(device)?, to_a_device & writing))?;
        }
        Ok(ruleset.restrict_self()?)
    };
    Some(restrict().ok()?.ruleset != RulesetStatus::NotEnforced)
}
