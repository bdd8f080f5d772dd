//! What CI runs, and what a contributor runs before pushing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::commands::Known;
use crate::runner::{has_runner, is_there, runner};
use crate::setup::allowed;
use crate::workspace::{Package, packages};
use crate::{call, cargo, docs, doors, fuzz, loom, package, portable, programs, rooms, root, setup, shown};

/// A step: its name, and a function of the crates and of the file to which skips are appended.
type CiStep = (&'static str, fn(&[&Package], &Path) -> anyhow::Result<()>);

/// All steps of CI. Those that fail fastest come first.
const STEPS: [CiStep; 16] = [
    ("format", |_, _| call(&mut cargo(&["fmt", "--all", "--check"]))),
    ("rooms", |_, _| rooms::check()),
    ("licences", |_, _| licences()),
    ("clippy", |all, _| clippy(all)),
    ("features", |all, _| features(all)),
    ("portable", |_, _| portable::check()),
    ("rustdoc", |_, _| rustdoc()),
    ("loom", |all, _| loom::run(all)),
    ("ahead", |_, _| ahead()),
    ("build", |all, _| build(all).map(drop)),
    ("documents", |all, _| documents(all)),
    ("tests", tests),
    ("elsewhere", |_, _| portable::tests()),
    ("package", |all, _| package::check(all)),
    ("doors", |_, _| doors::check()),
    ("fuzz", |_, _| fuzz::run()),
];

/// Steps that leave much of the processors' time unused, and those that mostly compile and run beside them if all steps are run. Of those
/// beside the tests the first two have target folders of their own: meanwhile the runner gets the main one's lock.
const BESIDE: [(&str, &[&str]); 2] = [
    ("tests", &["features", "loom", "documents", "clippy", "portable", "rustdoc", "ahead"]),
    ("elsewhere", &["package"]),
];

/// Runs all steps; or one step by its name; or all tests of some crates, by their names with or without `linger-`.
pub(crate) fn run(names: &[&str]) -> anyhow::Result<()> {
    let all = packages(&root().join("Cargo.toml"))?;
    let named = |name: &str| STEPS.iter().find(|(own, _)| *own == name).copied();
    let (steps, chosen) = match names {
        [] => {
            let is_alone = |name| !BESIDE.iter().any(|(_, beside)| beside.contains(name));
            (STEPS.iter().filter(|(name, _)| is_alone(name)).copied().collect(), all.iter().collect())
        }
        [name] if named(name).is_some() => {
            (named(name).into_iter().collect::<Vec<_>>(), all.iter().collect())
        }
        names => (named("tests").into_iter().collect(), choose(&all, names)?),
    };
    if steps.iter().any(|(name, _)| !["format", "rooms", "documents"].contains(name)) {
        setup::record_at_first()?;
    }
    let skips = root().join("target/skipped");
    let runs_tests = steps.iter().any(|(name, _)| *name == "tests");
    if runs_tests {
        let _ = fs::remove_file(&skips);
    }
    let mut taken = Vec::new();
    let result = steps.iter().try_for_each(|(name, step)| {
        let (started, before) = (Instant::now(), processor_seconds());
        // One step by its name, or the crates that were asked for.
        let again = if names.is_empty() { (*name).to_owned() } else { names.join(" ") };
        let own = || step(&chosen, &skips).with_context(|| failed(name, &again));
        let result = match BESIDE.iter().find(|(of, _)| of == name) {
            Some((_, others)) if names.is_empty() => beside(name, others, own),
            _ => own(),
        };
        taken.push((name, started.elapsed().as_secs_f64(), processor_seconds() - before));
        result
    });
    let sum = |one: fn(&(&&str, f64, f64)) -> f64| taken.iter().map(one).sum();
    let together = (&"together", sum(|taken| taken.1), sum(|taken| taken.2));
    for (name, seconds, busy) in taken.iter().chain([&together]) {
        println!("{name:<10} {seconds:>7.1} s, {busy:>7.1} s of processors");
    }
    let skipped = if runs_tests { fs::read_to_string(&skips).unwrap_or_default() } else { String::new() };
    let skipped: BTreeSet<&str> = skipped.lines().collect();
    for line in &skipped {
        println!("skipped, as set-up has found it missing: {line}");
    }
    result?;
    println!("all passed, {} groups skipped", skipped.len());
    Ok(())
}

fn failed(name: &str, again: &str) -> String {
    format!("{name} failed; again: `cargo xtask test {again}`")
}

/// Runs a step, and beside it others. These run one after the other, each in a process of its own, which gives way to the step (nice 19)
/// and prints nothing before it has ended.
fn beside(name: &str, others: &[&str], step: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let run_all = || others.iter().map(|other| run_beside(other, name)).collect::<Vec<_>>();
        let others = scope.spawn(run_all);
        let own = step();
        let others = others.join().expect("it returns its errors");
        others.into_iter().fold(own, |before, one| match (before, one) {
            (Err(before), Err(one)) => Err(before.context(format!("{one:#}, and"))),
            (before, one) => before.and(one),
        })
    })
}

fn run_beside(name: &str, step: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(std::env::current_exe()?).args(["test", name]);
    let output = command.stdin(Stdio::null()).output().context("nice")?;
    let text = [output.stdout, output.stderr].concat();
    let seconds = started.elapsed().as_secs_f64();
    println!("beside {step}, {name}, {seconds:.1} s:\n{}", String::from_utf8_lossy(&text).trim_end());
    anyhow::ensure!(output.status.success(), failed(name, name));
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
    run(named(all.iter().flat_map(|package| &package.guarded)))?;
    default_features(all)
}

/// The tests of crates that have features, as `cargo test` compiles them: of the published crates together, and of each such crate
/// with the features that other crates turn on, if those are not all it has. Of crates without features nothing differs.
fn default_features(all: &[&Package]) -> anyhow::Result<()> {
    let check = |packages: Vec<&str>, features: &str| {
        let mut command = cargo(&["clippy", "--quiet", "--tests", "--examples", "--features", features]);
        command.args(packages.iter().flat_map(|name| ["--package", name]));
        call(command.args(["--", "-D", "warnings"]))
    };
    let with_features = || all.iter().filter(|package| !package.features.is_empty());
    let names = |package: &&&Package| package.is_published;
    check(with_features().filter(names).map(|package| &*package.name).collect(), "")?;
    let mut tree =
        cargo(&["tree", "--locked", "--quiet", "--depth", "0", "--prefix", "none", "--format", "{p} {f}"]);
    let output = tree.output().context("cargo tree")?;
    anyhow::ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).context("cargo tree")?;
    for package in with_features() {
        let is_its = |line: &&str| line.split(' ').next() == Some(&package.name);
        // `xtask` is none of the crates that `cargo test` compiles.
        let Some(line) = lines.lines().find(is_its) else { continue };
        let on = line.rsplit(' ').next().unwrap_or_default().split(',').filter(|name| !name.is_empty());
        let count = on.clone().count();
        if count == package.features.len() || count == 0 && package.is_published {
            // Checked above.
            continue;
        }
        // Alone: the tests of another one may turn on more.
        let features: Vec<String> = on.map(|name| format!("{}/{name}", package.name)).collect();
        check(vec![&*package.name], &features.join(","))?;
    }
    Ok(())
}

fn named<'a>(tests: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    tests.flat_map(|name| ["--test", name]).collect()
}

/// Compiles the published crates with each feature alone, with none and with all, which a workspace build never does; with the
/// oldest compilers that their manifests promise. The program as well, unless all else is built with its oldest compiler.
fn features(all: &[&Package]) -> anyhow::Result<()> {
    let mut by_compiler = BTreeMap::<&str, Vec<&str>>::new();
    for package in all.iter().filter(|package| package.is_published) {
        by_compiler.entry(&package.oldest).or_default().push(&package.name);
    }
    if is_there("cargo-hack")? {
        for (version, names) in by_compiler {
            oldest(version, &["hack", "check", "--each-feature", "--lib"], &names)?;
        }
    }
    let program = all.iter().find(|package| package.name == "linger-cli").context("no crate `linger-cli`")?;
    if setup::is_built_with(&program.oldest) {
        return Ok(());
    }
    oldest(&program.oldest, &["check"], &[&program.name])
}

/// Runs a command of cargo with an old compiler, in whose eyes a warning is an error. Not at all if it was recorded as missing.
fn oldest(version: &str, words: &[&str], packages: &[&str]) -> anyhow::Result<()> {
    if !setup::has_compiler(version) {
        return allowed(&format!("rust {version}"));
    }
    // Not `CARGO` of the present compiler.
    let mut command = Command::new("cargo");
    command.arg(format!("+{version}")).args(words).arg("--quiet");
    for name in packages {
        command.args(["--package", name]);
    }
    // A target folder of its own, or each compiler and each set of flags would rebuild everything.
    command.env("CARGO_TARGET_DIR", root().join("target/oldest")).env("RUSTFLAGS", "-D warnings");
    call(command.env_remove("RUSTUP_TOOLCHAIN"))
}

fn licences() -> anyhow::Result<()> {
    if !is_there("cargo-deny")? {
        return Ok(());
    }
    // cargo-deny wants every package of the lock file, also those for other systems. Fetching needs no network if all are there.
    call(&mut cargo(&["fetch", "--locked", "--quiet"]))?;
    call(&mut cargo(&["deny", "--offline", "--log-level", "error", "check", "licenses", "bans", "sources"]))
}

/// Compiles all that the tests need. Returns the arguments that select the tests of these crates.
fn build(packages: &[&Package]) -> anyhow::Result<Vec<String>> {
    let selected = programs::compile(packages)?;
    if has_runner()? {
        let mut list = cargo(&["nextest", "list", "--message-format", "json"]);
        list.args(&selected);
        all_are_listed(list, packages)?;
    }
    Ok(selected)
}

fn tests(packages: &[&Package], skips: &Path) -> anyhow::Result<()> {
    let selected = build(packages)?;
    // The tests inherit the limit; some hold thousands of sockets.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("RLIMIT_NOFILE")?;
    call(cargo(&[]).args(runner()?).args(selected).env("LINGER_SKIPS", skips))?;
    // Neither runs doc tests together with these targets.
    let mut with_examples = Vec::new();
    for package in packages {
        if has_examples(&package.folder.join("src"))? {
            with_examples.extend(["--package", package.name.as_str()]);
        }
    }
    if with_examples.is_empty() {
        return Ok(());
    }
    let mut documented = cargo(&["test", "--doc", "--all-features", "--quiet"]);
    call(documented.args(with_examples).env("LINGER_SKIPS", skips)).context("the examples in documentation")
}

/// Whether a comment in a folder of sources, or a text that is taken for one, has an example. To look for them takes as long as to compile.
fn has_examples(folder: &Path) -> anyhow::Result<bool> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let has = if path.is_dir() {
            has_examples(&path)?
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            text.contains("```") || text.contains("doc = include_str!")
        } else {
            false
        };
        if has {
            return Ok(true);
        }
    }
    Ok(false)
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

/// Compiles what the steps after the tests run.
fn ahead() -> anyhow::Result<()> {
    portable::compile()?;
    doors::compile()?;
    fuzz::compile().map(drop)
}

fn rustdoc() -> anyhow::Result<()> {
    // The examples as well: without a target that has development dependencies, their features are not chosen, and clippy's
    // checked dependencies are of no use here.
    let targets = ["--lib", "--bin", "xtask", "--examples"];
    let mut doc = cargo(&["doc", "--workspace", "--all-features", "--no-deps", "--quiet"]);
    doc.args(targets);
    call(doc.env("RUSTDOCFLAGS", "-D warnings"))
}
