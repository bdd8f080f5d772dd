//! What CI runs, and what a contributor runs before pushing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::commands::Known;
use crate::setup::allowed;
use crate::workspace::{Package, packages};
use crate::{call, cargo, docs, doors, fuzz, loom, package, portable, rooms, root, setup, shown};

/// A step: its name, and a function of the crates and of the file to which skips are appended.
type CiStep = (&'static str, fn(&[&Package], &Path) -> anyhow::Result<()>);

/// All steps of CI. Those that fail fastest come first.
const STEPS: [CiStep; 14] = [
    ("format", |_, _| call(&mut cargo(&["fmt", "--all", "--check"]))),
    ("rooms", |_, _| rooms::check()),
    ("documents", |all, _| documents(all)),
    ("licences", |_, _| licences()),
    ("clippy", |all, _| clippy(all)),
    ("features", |all, _| features(all)),
    ("oldest", |all, _| oldest(all)),
    ("portable", |_, _| portable::check()),
    ("tests", tests),
    ("package", |all, _| package::check(all)),
    ("doors", |_, _| doors::check()),
    ("loom", |all, _| loom::run(all)),
    ("fuzz", |_, _| fuzz::run()),
    ("rustdoc", |_, _| rustdoc()),
];

/// Runs all steps; or one step by its name; or all tests of some crates, by their names with or without `linger-`.
pub(crate) fn run(names: &[&str]) -> anyhow::Result<()> {
    let all = packages(&root().join("Cargo.toml"))?;
    let named = |steps: &[CiStep], name: &str| steps.iter().find(|(own, _)| *own == name).copied();
    let (steps, chosen) = match names {
        [] => (STEPS.to_vec(), all.iter().collect()),
        [name] if named(&STEPS, name).is_some() => {
            (named(&STEPS, name).into_iter().collect(), all.iter().collect())
        }
        names => (named(&STEPS, "tests").into_iter().collect(), choose(&all, names)?),
    };
    if steps.iter().any(|(name, _)| !["format", "rooms", "documents"].contains(name)) {
        setup::record_at_first()?;
    }
    let skips = root().join("target/skipped");
    let _ = fs::remove_file(&skips);
    let mut taken = Vec::new();
    let result = steps.iter().try_for_each(|(name, step)| {
        let (started, before) = (Instant::now(), processor_seconds());
        let result = step(&chosen, &skips);
        taken.push((name, started.elapsed().as_secs_f64(), processor_seconds() - before));
        // One step by its name, or the crates that were asked for.
        let again = if names.is_empty() { (*name).to_owned() } else { names.join(" ") };
        result.with_context(|| format!("{name} failed; again: `cargo xtask test {again}`"))
    });
    let sum = |one: fn(&(&&str, f64, f64)) -> f64| taken.iter().map(one).sum();
    let together = (&"together", sum(|taken| taken.1), sum(|taken| taken.2));
    for (name, seconds, busy) in taken.iter().chain([&together]) {
        println!("{name:<10} {seconds:>7.1} s, {busy:>7.1} s of processors");
    }
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    let skipped: BTreeSet<&str> = skipped.lines().collect();
    for line in &skipped {
        println!("skipped, as set-up has found it missing: {line}");
    }
    result?;
    println!("all passed, {} groups skipped", skipped.len());
    Ok(())
}

/// What the steps and their commands have taken of the processors until now: fields 14 to 17 of `/proc/PID/stat` (proc(5)).
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name, in parentheses.
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(4);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn choose<'a>(all: &'a [Package], names: &[&str]) -> anyhow::Result<Vec<&'a Package>> {
    let find = |name: &&str| {
        let with_prefix = format!("linger-{name}");
        all.iter().find(|package| package.name == *name || package.name == with_prefix)
    };
    names.iter().map(|name| find(name).with_context(|| format!("there is no crate `{name}`"))).collect()
}

fn documents(packages: &[&Package]) -> anyhow::Result<()> {
    docs::check(&Known { packages, steps: &STEPS.map(|(name, _)| name) })
}

fn clippy(all: &[&Package]) -> anyhow::Result<()> {
    let run = |targets: Vec<&str>| {
        let mut command = cargo(&["clippy", "--workspace", "--all-features", "--quiet"]);
        call(command.args(targets).args(["--", "-D", "warnings"]))
    };
    run(vec!["--all-targets"])?;
    // `--all-targets` does not include targets with `test = false`, and cannot be combined with names.
    run(named(all.iter().flat_map(|package| &package.guarded)))
}

fn named<'a>(tests: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    tests.flat_map(|name| ["--test", name]).collect()
}

/// Compiles the published crates with each feature alone and with none. A workspace build never does that.
fn features(all: &[&Package]) -> anyhow::Result<()> {
    if !is_there("cargo-hack")? {
        return Ok(());
    }
    let mut command = cargo(&["hack", "clippy", "--each-feature", "--lib", "--quiet"]);
    for package in all.iter().filter(|package| package.is_published) {
        command.args(["--package", &package.name]);
    }
    call(command.args(["--", "-D", "warnings"]))
}

/// Compiles the published crates and the program with the oldest compilers that their manifests promise.
fn oldest(all: &[&Package]) -> anyhow::Result<()> {
    let promised = all.iter().filter(|package| package.is_published || package.name == "linger-cli");
    let mut by_compiler = BTreeMap::<&str, Vec<&str>>::new();
    for package in promised {
        by_compiler.entry(&package.oldest).or_default().push(&package.name);
    }
    for (version, names) in by_compiler {
        if !setup::has_compiler(version) {
            allowed(&format!("rust {version}"))?;
            continue;
        }
        // Not `CARGO` of the present compiler. A target folder of its own, or each compiler would rebuild everything.
        let mut command = Command::new("cargo");
        command.arg(format!("+{version}")).args(["check", "--all-features", "--quiet"]);
        for name in names {
            command.args(["--package", name]);
        }
        call(command.env("CARGO_TARGET_DIR", root().join("target/oldest")).env_remove("RUSTUP_TOOLCHAIN"))?;
    }
    Ok(())
}

fn licences() -> anyhow::Result<()> {
    if !is_there("cargo-deny")? {
        return Ok(());
    }
    // cargo-deny wants every package of the lock file, also those for other systems. Fetching needs no network if all are there.
    call(&mut cargo(&["fetch", "--locked", "--quiet"]))?;
    call(&mut cargo(&["deny", "--offline", "--log-level", "error", "check", "licenses", "bans", "sources"]))
}

/// Whether a subcommand of cargo is installed. If not, it must be recorded as missing, and a line says that it is skipped.
fn is_there(name: &str) -> anyhow::Result<bool> {
    if setup::has_subcommand(name) {
        return Ok(true);
    }
    allowed(name).map(|()| false)
}

fn tests(packages: &[&Package], skips: &Path) -> anyhow::Result<()> {
    // The tests inherit the limit; some hold thousands of sockets.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("RLIMIT_NOFILE")?;
    let with = |arguments: &[&str], more: &[&str]| {
        let mut command = cargo(arguments);
        for package in packages {
            command.args(["--package", &package.name]);
        }
        command.args(more).env("LINGER_SKIPS", skips);
        command
    };
    // Some tests start examples as programs. The runner builds them as test binaries only.
    call(&mut with(&["build", "--quiet", "--all-features", "--examples"], &[])).context("the examples")?;
    // Select targets by name: `--tests` leaves out those with `test = false`, even if they are named as well.
    let mut targets = vec!["--all-features", "--lib", "--bins", "--examples"];
    targets.extend(named(packages.iter().flat_map(|package| package.fast.iter().chain(&package.guarded))));
    if has_runner()? {
        all_are_listed(with(&["nextest", "list", "--message-format", "json"], &targets), packages)?;
    }
    let run = runner()?;
    call(&mut with(&run.iter().map(String::as_str).collect::<Vec<_>>(), &targets))?;
    // Neither runs doc tests together with these targets.
    call(&mut with(&["test", "--doc", "--all-features", "--quiet"], &[]))
        .context("the examples in documentation")
}

pub(crate) fn has_runner() -> anyhow::Result<bool> {
    is_there("cargo-nextest")
}

/// The words that run tests: each in a process of its own, if cargo-nextest is there.
pub(crate) fn runner() -> anyhow::Result<Vec<String>> {
    let words: &[&str] = if has_runner()? { &["nextest", "run"] } else { &["test"] };
    let mut words: Vec<String> =
        [words, &["--no-fail-fast"]].concat().into_iter().map(str::to_owned).collect();
    if has_runner()? {
        // A test takes three of these threads, or fewer if it mostly waits (.config/nextest.toml).
        let threads = std::thread::available_parallelism().map_or(3, |processors| 3 * processors.get());
        words.extend(["--test-threads".to_owned(), threads.to_string()]);
    }
    Ok(words)
}

/// Fails if a test binary of the manifests has no test in the run: it would pass without having run anything.
fn all_are_listed(mut list: Command, packages: &[&Package]) -> anyhow::Result<()> {
    let output = list.stderr(Stdio::inherit()).output().context("cargo nextest list")?;
    anyhow::ensure!(output.status.success(), "{} failed: {}", shown(&list), output.status);
    let listed: Value = serde_json::from_slice(&output.stdout).context("cargo nextest list")?;
    for package in packages {
        for name in package.fast.iter().chain(&package.guarded) {
            let cases = &listed["rust-suites"][format!("{}::{name}", package.name)]["testcases"];
            let count = cases.as_object().map_or(0, |cases| cases.len());
            anyhow::ensure!(count > 0, "no test of {}/tests/{name}.rs is in the run", package.name);
        }
    }
    Ok(())
}

fn rustdoc() -> anyhow::Result<()> {
    let mut doc = cargo(&["doc", "--workspace", "--all-features", "--no-deps", "--quiet"]);
    call(doc.env("RUSTDOCFLAGS", "-D warnings"))
}
