//! Memory that stays with a virtual machine although nobody uses it, for the files that are about to be written.
//!
//! A guest can report free memory in whole blocks of 2 MiB to its host, which takes it back (`mm/page_reporting.c`,
//! the balloon's `VIRTIO_BALLOON_F_REPORTING`). Whoever writes a file there next pays for a fault of the host in
//! each block: three to seven times what writing costs. iperf3, which writes no file, does not pay, so no ratio to
//! it would mean anything.
//!
//! The remedy uses nothing but files. A file of huge pages is written, then all of each of them but its first 4 KiB
//! is punched out. The rest is free memory that the host has given already, and never a whole block again, so
//! it is not reported. It costs 1/512 of its size. Where memory is not reported it changes nothing.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// A huge page, and the smallest block that is reported.
const HUGE: usize = 2 << 20;
/// What of each stays in use.
const KEPT: usize = 4 << 10;

/// A process that holds the reserve; ended with the value.
pub(crate) struct Reserve(Option<Child>);

impl Reserve {
    /// Makes a reserve of `bytes`, or prints why there is none.
    pub(crate) fn hold(bytes: u64) -> Self {
        let gib = bytes as f64 / f64::from(1 << 30);
        eprintln!("keeping {gib:.1} GiB of memory from being given back to a host, for the files to come");
        let started = Instant::now();
        match start(bytes) {
            Ok(child) => {
                eprintln!("kept, after {:.0} s", started.elapsed().as_secs_f64());
                Self(Some(child))
            }
            Err(why) => {
                eprintln!("NOT KEPT: {why}");
                eprintln!(
                    "hint: in a virtual machine whatever writes files may be slowed down by its host now"
                );
                Self(None)
            }
        }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// Starts a process that has a mount namespace of its own, since only its owner may make a file system there.
fn start(bytes: u64) -> Result<Child, String> {
    let failed = |error: io::Error| format!("a process for it: {error}");
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::getuid().is_root() {
        command.arg("--map-root-user");
    }
    let mut child = command
        .arg(std::env::current_exe().map_err(failed)?)
        .args(["reserve", &bytes.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut told = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out).read_line(&mut told);
    }
    if told.trim_end() == "ready" {
        return Ok(child);
    }
    let _ = child.wait();
    Err(if told.is_empty() { "no mount namespace is to be had here".into() } else { told.trim_end().into() })
}

/// The process that holds the reserve: makes it, prints `ready` or what is wrong, and keeps it until its standard
/// input ends.
pub(crate) fn keep(bytes: u64) {
    match make(bytes) {
        Ok(_reserve) => {
            println!("ready");
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
        }
        Err(why) => println!("{why}"),
    }
}

fn make(bytes: u64) -> Result<OwnedFd, String> {
    let bytes = bytes.next_multiple_of(HUGE as u64);
    let available = meminfo("MemAvailable:");
    if available < bytes + (1 << 30) {
        return Err(format!("{} MiB of memory are available, that is too little", available >> 20));
    }
    let fd = file(bytes).map_err(|error| format!("a file of huge pages: {error}"))?;
    let huge_before = meminfo("ShmemHugePages:");
    let block = vec![1; HUGE];
    for at in (0..bytes).step_by(HUGE) {
        let written = rustix::io::pwrite(&fd, &block, at).map_err(|error| format!("write to it: {error}"))?;
        if written != HUGE {
            return Err(format!("write to it: {written} bytes of a huge page were taken"));
        }
    }
    let huge = meminfo("ShmemHugePages:").saturating_sub(huge_before);
    if huge < bytes / 10 * 9 {
        return Err(format!("only {} of {} MiB came as huge pages", huge >> 20, bytes >> 20));
    }
    for at in (0..bytes).step_by(HUGE) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&fd, flags, at + KEPT as u64, (HUGE - KEPT) as u64)
            .map_err(|error| format!("punch holes into it: {error}"))?;
    }
    Ok(fd)
}

/// An empty file of `bytes` on a file system of its own that is mounted nowhere, and gone with the descriptor.
fn file(bytes: u64) -> rustix::io::Result<OwnedFd> {
    use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen};
    let options = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(options.as_fd(), "huge", "within_size")?;
    fsconfig_set_string(options.as_fd(), "size", (bytes + HUGE as u64).to_string().as_str())?;
    fsconfig_create(options.as_fd())?;
    let top = fsmount(options.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&top, "reserve", flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&file, bytes)?;
    Ok(file)
}

/// A figure of `/proc/meminfo`, in bytes; 0 if the kernel does not tell it.
fn meminfo(name: &str) -> u64 {
    let told = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix(name));
    let kib =
        line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
