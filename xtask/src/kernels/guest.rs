//! A kernel that is booted without root or KVM, runs programs of this machine from its memory, and halts: as user-mode Linux, a
//! process; or under qemu, which translates its instructions.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use linger_netns::Isolation;
use linger_testing::seclude;

use super::console::Console;
use super::registry::output;

/// Memory of a guest: the program and its libraries are in it twice, packed and unpacked.
const MEGABYTES: u32 = 640;

/// Which machine a kernel runs on, and what is needed of this one.
#[derive(Clone, Debug)]
pub(super) enum GuestMachine {
    /// User-mode Linux, with the C library that it was built for.
    Uml { program: PathBuf, loader: PathBuf },
    /// qemu, with its libraries and its firmware, and a kernel for x86-64.
    Qemu { qemu: Qemu, kernel: PathBuf },
}

/// A qemu, installed or unpacked into a folder.
#[derive(Clone, Debug)]
pub(super) struct Qemu {
    pub(super) unpacked: Option<PathBuf>,
}

/// A kernel, and the modules that are loaded before the programs start.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) machine: GuestMachine,
    pub(super) modules: Vec<PathBuf>,
}

/// Programs of this machine, and what a shell is to do with them.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// busybox, without libraries.
    pub(super) busybox: PathBuf,
    pub(super) programs: Vec<PathBuf>,
    /// Runs as root in the guest.
    pub(super) script: String,
}

impl Guest {
    /// Boots, runs the load and halts, within a time. What comes back is all that the guest said.
    pub(super) fn run(&self, load: &Load, within: Duration) -> anyhow::Result<Console> {
        let folder =
            tempfile::Builder::new().prefix("linger-kernel").tempdir().context("no folder for a guest")?;
        let memory = folder.path().join("initramfs");
        load.pack(&self.modules, &folder.path().join("tree"), &memory)?;
        let mut command = self.machine.command(folder.path(), &memory, within)?;
        // It cannot reach any network, and when it ends or is killed, so does every process that it has started.
        Isolation::prepare().enter_before_exec(&mut command);
        seclude(&mut command);
        let started = Instant::now();
        let ended = command.stdin(Stdio::null()).output().context("it cannot be started")?;
        let text = [ended.stdout, ended.stderr].concat();
        let mut console = Console::read(&String::from_utf8_lossy(&text));
        console.seconds = started.elapsed().as_secs_f64();
        console.is_late = started.elapsed() >= within;
        Ok(console)
    }
}

impl GuestMachine {
    fn command(&self, folder: &Path, memory: &Path, within: Duration) -> anyhow::Result<Command> {
        // `timeout` runs in the same namespace of processes: the guest ends in time, whatever becomes of this program.
        let mut command = Command::new("timeout");
        command.args(["--signal", "KILL", &within.as_secs().to_string()]);
        match self {
            Self::Uml { program, loader } => {
                let root = folder.join("root");
                house(program, loader, &root)?;
                fs::rename(memory, root.join("initramfs"))?;
                command.args(["sh", "-c", ENTER]).arg(&root);
                command.arg(format!("mem={MEGABYTES}M")).args([
                    "initrd=/initramfs",
                    "con0=fd:0,fd:1",
                    "con=null",
                ]);
                command.args(["quiet", "loglevel=1", "panic=-1"]);
                // There it keeps a folder, without which it faults, and its memory.
                command.env("HOME", "/tmp").env("TMPDIR", "/tmp");
            }
            Self::Qemu { qemu, kernel } => {
                command.arg(qemu.program());
                for folder in ["qemu", "seabios"] {
                    command.arg("-L").arg(qemu.path(&format!("usr/share/{folder}")));
                }
                let libraries =
                    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| qemu.path(path));
                if qemu.unpacked.is_some() {
                    let libraries = libraries.map(|path| path.display().to_string()).join(":");
                    command.env("LD_LIBRARY_PATH", libraries);
                }
                command.args(["-accel", "tcg", "-cpu", "max", "-m", &MEGABYTES.to_string()]);
                command.args([
                    "-nodefaults",
                    "-nic",
                    "none",
                    "-display",
                    "none",
                    "-serial",
                    "stdio",
                    "-no-reboot",
                ]);
                command.arg("-kernel").arg(kernel).arg("-initrd").arg(memory);
                command.args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1"]);
            }
        }
        Ok(command)
    }
}

/// Starts user-mode Linux with its own C library. The loader cannot be given the program: its heap would be out of place then. So it is
/// started where the loader and the libraries are those of the system. The folder is the script's first argument.
const ENTER: &str = "mount --rbind /proc $0/proc && mount --rbind /dev $0/dev && mount -t tmpfs tmp $0/tmp \
                     && exec chroot $0 /linux.uml \"$@\"";

/// Makes a system of a program and its C library.
fn house(program: &Path, loader: &Path, root: &Path) -> anyhow::Result<()> {
    let libraries = root.join("lib/x86_64-linux-gnu");
    for folder in
        [root.join("lib64"), root.join("proc"), root.join("dev"), root.join("tmp"), libraries.clone()]
    {
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    copy(program, &root.join("linux.uml"))?;
    copy(loader, &root.join("lib64/ld-linux-x86-64.so.2"))?;
    for library in fs::read_dir(loader.parent().unwrap_or(loader))? {
        let library = library?.path();
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("lib") && name.contains(".so.") {
            copy(&library, &libraries.join(name))?;
        }
    }
    Ok(())
}

impl Qemu {
    pub(super) const PROGRAM: &'static str = "qemu-system-x86_64";

    fn path(&self, path: &str) -> PathBuf {
        self.unpacked.as_deref().unwrap_or(Path::new("/")).join(path)
    }

    fn program(&self) -> PathBuf {
        match self.unpacked {
            Some(_) => self.path(&format!("usr/bin/{}", Self::PROGRAM)),
            None => Self::PROGRAM.into(),
        }
    }

    /// What it says of its version.
    pub(super) fn version(&self) -> anyhow::Result<String> {
        let mut command = Command::new(self.program());
        if self.unpacked.is_some() {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| self.path(path));
            command.env("LD_LIBRARY_PATH", libraries.map(|path| path.display().to_string()).join(":"));
        }
        let told = output(command.arg("--version"))?;
        let version = told.split_whitespace().skip_while(|word| *word != "version").nth(1);
        Ok(version.context("qemu does not say its version")?.to_owned())
    }
}

/// The first program of the guest.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin LC_ALL=C
for folder in proc sys dev tmp run; do busybox mkdir -p /$folder; done
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t tmpfs tmp /tmp
for module in /modules/*; do busybox insmod $module; done
echo @release $(busybox uname -r)
busybox sh /load > /tmp/told 2> /tmp/said
status=$?
echo
busybox cat /tmp/said /tmp/told
echo @status $status
busybox poweroff -f
";

impl Load {
    /// Packs all that the guest has into one file, from which its kernel makes its first file system.
    fn pack(&self, modules: &[PathBuf], tree: &Path, into: &Path) -> anyhow::Result<()> {
        for folder in ["bin", "modules"] {
            fs::create_dir_all(tree.join(folder)).with_context(|| tree.display().to_string())?;
        }
        copy(&self.busybox, &tree.join("bin/busybox"))?;
        symlink("busybox", tree.join("bin/sh"))?;
        for program in &self.programs {
            copy(program, &tree.join("bin").join(program.file_name().context("a program has a name")?))?;
            for library in libraries(program)? {
                let inside = tree.join(library.strip_prefix("/").unwrap_or(&library));
                if let Some(folder) = inside.parent() {
                    fs::create_dir_all(folder)?;
                }
                copy(&library, &inside)?;
            }
        }
        for (place, module) in modules.iter().enumerate() {
            // In this order they are loaded.
            fs::write(tree.join(format!("modules/{place:02}.ko")), unpacked(module)?)?;
        }
        fs::write(tree.join("load"), &self.script)?;
        fs::write(tree.join("init"), INIT)?;
        fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
        let pack = format!("{0} find . | {0} cpio -o -H newc 2> /dev/null", self.busybox.display());
        let archive = fs::File::create(into)?;
        let packed = Command::new("sh").args(["-c", &pack]).current_dir(tree).stdout(archive).output()?;
        ensure!(packed.status.success(), "cannot pack the guest's files into {}", into.display());
        fs::remove_dir_all(tree)?;
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("{} to {}", from.display(), to.display()))
}

/// The libraries of a program, by the paths under which its loader looks for them; the loader too.
fn libraries(program: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let told = output(Command::new("ldd").arg(program)).with_context(|| program.display().to_string())?;
    ensure!(!told.contains("not found"), "{}: {}", program.display(), told.trim());
    Ok(listed(&told))
}

fn listed(told: &str) -> BTreeSet<PathBuf> {
    let words = told.lines().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// A module as `insmod` wants it.
fn unpacked(module: &Path) -> anyhow::Result<Vec<u8>> {
    let program = match module.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(module).with_context(|| module.display().to_string()),
    };
    let output =
        Command::new(program).args(["--decompress", "--stdout"]).arg(module).output().context(program)?;
    ensure!(output.status.success(), "{program} cannot unpack {}", module.display());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_one_of_the_libraries() {
        let told = "\tlinux-vdso.so.1 (0x00007fa90c35e000)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fa90941e000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fa90c360000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(listed(told), expected.into());
        assert!(listed("\tnot a dynamic executable\n").is_empty());
    }
}
