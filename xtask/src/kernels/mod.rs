//! `cargo xtask kernels [NAME ...]`: runs the lab inside the kernels of Debian's releases, and writes docs/kernels.md and
//! docs/kernels.json.
//!
//! Without root and without KVM. A release is named, never a version: what it has today is fetched into `target/kernels`. A kernel
//! that cannot be had, does not boot or hangs is told in the table. With names, only kernels whose names contain one of them
//! are run: their results take the place of the earlier ones, if those are of the same experiment, and are printed otherwise.
//! `LINGER` names another program than the one that is built here.

mod console;
mod differences;
mod guest;
mod registry;
mod result;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use self::console::Console;
use self::guest::{Guest, GuestMachine, Load, Qemu};
use self::registry::{Installed, PackageSuite, Registry, find, output};
use self::result::{KernelResult, VerdictCounts};
use self::table::KernelReport;
use crate::{call, cargo, root};

/// The kernels: how each runs, and the release of Debian that it comes from. The last is this machine's own.
const KERNELS: [&str; 9] = [
    "uml bullseye",
    "uml bookworm",
    "uml trixie",
    "uml sid",
    "qemu bullseye",
    "qemu bookworm",
    "qemu trixie",
    "qemu sid",
    HERE,
];

const HERE: &str = "here";

/// Lines of releases, such as 6.1, that a complete table has at least.
const LINES: usize = 4;

/// The lab's endings and client models, and what the clients do.
const ENDINGS: [&str; 6] = ["close", "shutdown-close", "so-linger=5", "abort", "exit", "lingering"];
const CLIENTS: [&str; 4] = ["usual", "sends-first", "reads-late=0.5", "discards"];
const PEERS: [&str; 4] = ["reads-all", "unread", "late", "upload"];

const TRIALS: u64 = 4;
const SEED: u64 = 1;

/// The longest time that a kernel may take. The slowest takes half of it on two busy processors.
const WITHIN: Duration = Duration::from_secs(400);

/// What the fetched kernels and a guest's files take.
const ROOM_BYTES: u64 = 2_000_000_000;

pub(crate) fn run(only: &[&str]) -> anyhow::Result<()> {
    let started = Instant::now();
    let asked: Vec<&str> = KERNELS.into_iter().filter(|name| is_asked(name, only)).collect();
    ensure!(
        !asked.is_empty(),
        "no kernel is called anything like {}; there are {}",
        only.join(", "),
        KERNELS.join(", ")
    );
    let folder = root().join("target/kernels");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    has_room(&folder)?;
    let linger = program()?;
    let registry = Registry::configured()?;
    let tools = Tools::fetch(&registry, &folder)?;
    let stripped = tempfile::tempdir()?;
    let linger = strip(&linger, stripped.path());
    let load = Load {
        busybox: tools.busybox.clone(),
        programs: vec![linger.clone()],
        script: format!("{}\n", command().join(" ")),
    };
    let kernels = prepare_all(&asked, &registry, &tools, &folder);
    let results = run_all(&kernels, &load, &linger);
    let mut report = KernelReport {
        written_by: "cargo xtask kernels".to_owned(),
        day: output(Command::new("date").arg("+%Y-%m-%d"))?.trim().to_owned(),
        version: output(Command::new(&linger).arg("--version"))?
            .trim()
            .trim_start_matches("linger ")
            .to_owned(),
        command: command().join(" "),
        qemu: tools.qemu.as_ref().ok().and_then(|qemu| qemu.version().ok()),
        kernels: results,
    };
    eprintln!("kernels: {:.0} s", started.elapsed().as_secs_f64());
    let (text, lines) = written();
    if !only.is_empty() {
        // The others' results stand, if it was the same experiment.
        let earlier = fs::read_to_string(&lines).ok().and_then(|text| serde_json::from_str(&text).ok());
        let Some(earlier) = earlier.filter(|earlier| report.is_like(earlier)) else {
            println!("{}", report.markdown());
            return Ok(());
        };
        report.fill(earlier);
    }
    fs::write(&text, report.markdown()).with_context(|| text.display().to_string())?;
    fs::write(&lines, json(&report)?).with_context(|| lines.display().to_string())?;
    println!("kernels: docs/kernels.md and docs/kernels.json are written");
    let gaps = report.gaps();
    ensure!(gaps.is_empty(), "the table is not complete: {}", gaps.join("; "));
    Ok(())
}

/// Whether a kernel has this word in its name.
pub(crate) fn knows(word: &str) -> bool {
    KERNELS.iter().any(|name| name.contains(word))
}

fn is_asked(name: &str, only: &[&str]) -> bool {
    only.is_empty() || only.iter().any(|part| name.contains(part))
}

fn written() -> (PathBuf, PathBuf) {
    (root().join("docs/kernels.md"), root().join("docs/kernels.json"))
}

/// A line for each kernel, so that a difference between two runs can be read.
fn json(report: &KernelReport) -> anyhow::Result<String> {
    let mut head = report.clone();
    head.kernels.clear();
    let lines = report.kernels.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    let head = serde_json::to_string(&head)?;
    let head = head.strip_suffix("[]}").context("the kernels stand last")?;
    Ok(format!("{head}[\n{}\n]}}\n", lines.join(",\n")))
}

/// What each kernel is given.
fn command() -> Vec<String> {
    let (endings, peers, clients) = (ENDINGS.join(","), PEERS.join(","), CLIENTS.join(","));
    let words = ["linger", "lab", "--json", "--ending", &endings, "--peer", &peers, "--client", &clients];
    let (trials, seed) = (TRIALS.to_string(), SEED.to_string());
    let more = ["--link", "wifi", "--trials", &trials, "--seed", &seed];
    words.iter().chain(&more).map(|word| (*word).to_owned()).collect()
}

fn has_room(folder: &Path) -> anyhow::Result<()> {
    for folder in [folder, &std::env::temp_dir()] {
        let told = rustix::fs::statvfs(folder).with_context(|| folder.display().to_string())?;
        let free = told.f_bavail.saturating_mul(told.f_frsize);
        ensure!(
            free >= ROOM_BYTES,
            "{} has room for {free} bytes, and the kernels take {ROOM_BYTES}",
            folder.display()
        );
    }
    Ok(())
}

/// The program that runs in the guests.
fn program() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("LINGER") {
        let named = PathBuf::from(named);
        ensure!(named.is_file(), "LINGER: there is no {}", named.display());
        return Ok(fs::canonicalize(named)?);
    }
    call(&mut cargo(&["build", "--quiet", "--release", "--package", "linger-cli"]))?;
    Ok(root().join("target/release/linger"))
}

/// A program without its symbols, which are most of it; or as it is.
fn strip(program: &Path, folder: &Path) -> PathBuf {
    let stripped = folder.join("linger");
    let done = Command::new("strip").arg("-o").arg(&stripped).arg(program).status();
    if done.is_ok_and(|status| status.success()) { stripped } else { program.to_owned() }
}

/// What the guests need beside their kernels.
struct Tools {
    busybox: PathBuf,
    /// Or why there is none.
    qemu: Result<Qemu, String>,
}

impl Tools {
    fn fetch(registry: &Registry, folder: &Path) -> anyhow::Result<Self> {
        let installed = &registry.codename;
        // The release's own qemu may be too old for new kernels: that of Debian 12 lets 6.12 fault.
        let newer = format!("{installed}-backports");
        let own = folder.join("tools");
        let (suite, release) = match registry.open(&[installed, &newer], &own, Installed::Here) {
            Ok(suite) => (suite, &newer),
            Err(_) => (registry.open(&[installed], &own, Installed::Here)?, installed),
        };
        let unpacked = suite.unpack(["busybox-static"], &["*/bin/busybox"])?;
        let busybox = unpacked.iter().find_map(|folder| find(folder, &["bin/busybox"]));
        let qemu = suite.unpack_with_needs("qemu-system-x86", release).and_then(|folder| {
            let is_installed = find(&folder, &[&format!("bin/{}", Qemu::PROGRAM)]).is_none();
            let qemu = Qemu { unpacked: (!is_installed).then_some(folder) };
            qemu.version().map(|_| qemu)
        });
        Ok(Self {
            busybox: busybox.context("busybox-static has no busybox")?,
            qemu: qemu.map_err(|error| format!("no qemu: {error:#}")),
        })
    }
}

/// A kernel that is ready to boot, or why it is not; and its package with its version.
struct PreparedKernel {
    name: &'static str,
    ready: Result<(Option<Guest>, String), String>,
}

fn prepare_all(
    asked: &[&'static str],
    registry: &Registry,
    tools: &Tools,
    folder: &Path,
) -> Vec<PreparedKernel> {
    let mut suites: Vec<(&str, Result<PackageSuite, String>)> = Vec::new();
    let mut prepared = Vec::new();
    for name in asked.iter().copied() {
        let Some((machine, release)) = name.split_once(' ') else {
            prepared.push(PreparedKernel { name, ready: Ok((None, String::new())) });
            continue;
        };
        if !suites.iter().any(|(known, _)| *known == release) {
            let opened = registry.open(&[release], &folder.join(release), Installed::None);
            suites.push((release, opened.map_err(|error| format!("{error:#}"))));
        }
        let suite = suites.iter().find(|(known, _)| *known == release).map(|(_, suite)| suite.clone());
        let ready = suite.unwrap_or_else(|| Err("it has no lists".to_owned())).and_then(|suite| {
            eprintln!("kernels: {name}: fetching");
            let guest = if machine == "uml" { uml(&suite) } else { qemu(&suite, tools.qemu.clone()) };
            guest.map(|(guest, package)| (Some(guest), package)).map_err(|error| format!("{error:#}"))
        });
        prepared.push(PreparedKernel { name, ready });
    }
    prepared
}

fn uml(suite: &PackageSuite) -> anyhow::Result<(Guest, String)> {
    let version = suite.record("user-mode-linux")?.version;
    let kernel = suite.unpack(["user-mode-linux"], &["*/linux.uml", "*/veth.ko*"])?.remove(0);
    let library = suite.unpack(["libc6"], &[])?.remove(0);
    let program = find(&kernel, &["linux.uml"]).context("user-mode-linux has no kernel")?;
    let loader = find(&library, &["ld-linux-x86-64.so.2", "ld-2*"]).context("libc6 has no loader")?;
    let machine = GuestMachine::Uml { program, loader };
    Ok((Guest { machine, modules: vec![veth(&[kernel])?] }, format!("user-mode-linux {version}")))
}

fn qemu(suite: &PackageSuite, qemu: Result<Qemu, String>) -> anyhow::Result<(Guest, String)> {
    const PACKAGE: &str = "linux-image-cloud-amd64";
    let qemu = qemu.map_err(anyhow::Error::msg)?;
    let version = suite.record(PACKAGE)?.version;
    let parts = suite.with_parts(PACKAGE, &["linux-image-", "linux-binary-", "linux-modules-"])?;
    let folders = suite.unpack(parts.iter().map(String::as_str), &["*/vmlinuz*", "*/veth.ko*"])?;
    let kernel = folders.iter().find_map(|folder| find(folder, &["vmlinuz*"]));
    let machine =
        GuestMachine::Qemu { qemu, kernel: kernel.with_context(|| format!("{PACKAGE} has no kernel"))? };
    Ok((Guest { machine, modules: vec![veth(&folders)?] }, format!("{PACKAGE} {version}")))
}

/// What joins two hosts; every other need of the lab is built into these kernels.
fn veth(folders: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let names = ["veth.ko", "veth.ko.xz", "veth.ko.zst"];
    folders.iter().find_map(|folder| find(folder, &names)).context("the kernel has no module veth")
}

/// Runs the load in every kernel, as many at a time as there are processors.
fn run_all(kernels: &[PreparedKernel], load: &Load, linger: &Path) -> Vec<KernelResult> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<KernelResult>>> = Mutex::new(vec![None; kernels.len()]);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((place, kernel)) = {
                    let place = next.fetch_add(1, Ordering::SeqCst);
                    kernels.get(place).map(|kernel| (place, kernel))
                } {
                    let result = kernel.run(load, linger);
                    let told = result.missing.clone().unwrap_or_else(|| format!("{} s", result.seconds));
                    eprintln!("kernels: {}: {} {told}", kernel.name, result.release);
                    results.lock().expect("no thread panics with it")[place] = Some(result);
                }
            });
        }
    });
    results.into_inner().expect("no thread panicked").into_iter().flatten().collect()
}

impl PreparedKernel {
    fn run(&self, load: &Load, linger: &Path) -> KernelResult {
        let mut result = KernelResult { name: self.name.to_owned(), ..KernelResult::default() };
        let console = match &self.ready {
            Err(why) => Err(why.clone()),
            Ok((guest, package)) => {
                result.package.clone_from(package);
                let ran = guest.as_ref().map_or_else(|| here(linger), |guest| guest.run(load, WITHIN));
                ran.map_err(|error| format!("{error:#}"))
            }
        };
        match console {
            Ok(console) => result.take(&console),
            Err(why) => result.missing = Some(why),
        }
        result
    }
}

/// The same on this machine's own kernel.
fn here(linger: &Path) -> anyhow::Result<Console> {
    let started = Instant::now();
    let mut lab = Command::new("timeout");
    lab.args(["--signal", "KILL", &WITHIN.as_secs().to_string()]).arg(linger).args(&command()[1..]);
    let ended = lab.output().context("the lab cannot be started")?;
    let mut console = Console::read(&String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    console.release = Some(release.trim().to_owned());
    console.status = ended.status.code().filter(|status| *status < 128);
    console.seconds = started.elapsed().as_secs_f64();
    Ok(console)
}

impl KernelResult {
    /// Takes what a guest has told. What is not there is said to be missing.
    fn take(&mut self, console: &Console) {
        self.release = console.release.clone().unwrap_or_default();
        self.seconds = console.seconds.ceil() as u64;
        self.missing = console.failure();
        let cells = console.cells().unwrap_or_else(|error| {
            self.missing.get_or_insert(error);
            Vec::new()
        });
        self.accidents = cells.iter().filter_map(|cell| cell.link_accidents).sum();
        for cell in &cells {
            let key = Self::key(&cell.peer, &cell.ending, &cell.client);
            self.cells.insert(key, VerdictCounts(cell.kept, cell.at_risk, cell.lost));
        }
        let wanted = ENDINGS.len() * CLIENTS.len() * PEERS.len();
        let whole = self.cells.values().filter(|counted| counted.trials() == TRIALS).count();
        if whole != wanted {
            let said = console.text().last().unwrap_or("nothing").to_owned();
            self.missing.get_or_insert(format!("{whole} of {wanted} cells are there; it last said: {said}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use linger_lab::{ClientModel, Ending, Peer};

    use super::*;

    #[test]
    fn the_document_is_what_the_counts_come_to() {
        let (text, lines) = written();
        let report: KernelReport = serde_json::from_str(&fs::read_to_string(lines).unwrap()).unwrap();
        assert_eq!(fs::read_to_string(text).unwrap(), report.markdown(), "run `cargo xtask kernels`");
        // A gap is no failure here, if the document says so.
        let told = fs::read_to_string(written().0).unwrap();
        assert!(report.gaps().iter().all(|gap| told.contains(gap)), "{:?}", report.gaps());
        assert_eq!(
            report.command,
            command().join(" "),
            "it was another experiment: run `cargo xtask kernels`"
        );
        let names: Vec<&str> = report.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, KERNELS);
    }

    #[test]
    fn the_report_is_read_as_it_is_written() {
        let kernels = vec![KernelResult { name: "uml sid".into(), ..KernelResult::default() }; 2];
        let report = KernelReport {
            written_by: String::new(),
            day: String::new(),
            version: String::new(),
            command: String::new(),
            qemu: None,
            kernels,
        };
        let read: KernelReport = serde_json::from_str(&json(&report).unwrap()).unwrap();
        assert_eq!(read.kernels, report.kernels);
        let mut again = report.clone();
        again.kernels = vec![KernelResult { name: "uml sid".into(), seconds: 7, ..KernelResult::default() }];
        let mut earlier = read;
        earlier.kernels[0].name = "uml trixie".into();
        assert!(again.is_like(&earlier));
        again.fill(earlier);
        let seconds: Vec<_> = again.kernels.iter().map(|kernel| (&*kernel.name, kernel.seconds)).collect();
        assert_eq!(seconds, [("uml trixie", 0), ("uml sid", 7)]);
        again.command = "another".into();
        assert!(!again.is_like(&report));
    }

    #[test]
    fn every_ending_and_client_model_of_the_lab_is_run() {
        let begins = |name: &str| name.split('=').next().unwrap_or_default().to_owned();
        let all = |names: &[&str]| names.iter().map(|name| begins(name)).collect::<Vec<_>>();
        assert_eq!(all(&ENDINGS), all(&Ending::NAMES));
        assert_eq!(all(&CLIENTS), all(&ClientModel::NAMES));
        assert!(PEERS.iter().all(|name| Peer::ALL.iter().any(|peer| peer.name() == *name)));
    }

    #[test]
    fn a_missing_kernel_and_too_few_lines_are_gaps() {
        let mut kernel =
            KernelResult { name: "uml sid".into(), release: "7.2.7".into(), ..KernelResult::default() };
        let text = "@release 7.2.7\n{\"type\":\"cell\",\"ending\":\"close\",\"peer\":\"unread\",\"client\":\"usual\",\"kept\":4,\"at_risk\":0,\"lost\":0,\"link_accidents\":2}\n@status 0\n";
        kernel.take(&Console::read(text));
        assert_eq!(
            (kernel.accidents, kernel.cell("unread", "close", "usual")),
            (2, Some(VerdictCounts(4, 0, 0)))
        );
        assert_eq!(kernel.missing.as_deref(), Some("1 of 96 cells are there; it last said: nothing"));
        let mut none = KernelResult { name: "uml trixie".into(), ..KernelResult::default() };
        none.take(&Console::read("no such file\n"));
        assert!(none.missing.unwrap().starts_with("it did not boot"));
    }

    #[test]
    fn kernels_are_asked_for_by_any_part_of_their_names() {
        let asked = |only: &[&str]| KERNELS.iter().filter(|name| is_asked(name, only)).count();
        assert_eq!(
            (asked(&[]), asked(&["uml"]), asked(&["sid", HERE]), asked(&["6.1"])),
            (KERNELS.len(), 4, 3, 0)
        );
        assert!(knows("trixie") && !knows("plan9"));
    }
}
