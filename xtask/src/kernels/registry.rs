//! Packages of other releases of Debian, by name, from the registry that this machine is configured for. Nothing is installed: each
//! release has lists of its own below `target/kernels`, and its packages are unpacked there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Debian's keys, by which lists of all its releases are checked.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What `apt-get indextargets` is asked to tell of each list that this machine is configured for.
const TOLD: &str = "$(CREATED_BY)|$(LABEL)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)";

/// Where this machine's packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registry {
    uri: String,
    /// The release that is installed.
    pub(super) codename: String,
}

impl Registry {
    pub(super) fn configured() -> anyhow::Result<Self> {
        let mut asked = Command::new("apt-get");
        let told = output(asked.args(["indextargets", "--format", TOLD]))
            .context("no kernels without Debian's packages")?;
        Self::parse(&told)
            .context("this machine is configured for no release of Debian (`apt-get update` first)")
    }

    fn parse(told: &str) -> Option<Self> {
        told.lines().find_map(|line| {
            let [made, label, component, codename, uri] = line.split('|').collect::<Vec<_>>()[..] else {
                return None;
            };
            // Updates and backports have a hyphen in their names.
            let is_main =
                (made, label, component) == ("Packages", "Debian", "main") && !codename.contains('-');
            is_main.then(|| Self { uri: uri.to_owned(), codename: codename.to_owned() })
        })
    }

    /// Fetches the lists of some suites, which become one choice of packages, into a folder.
    pub(super) fn open(
        &self,
        suites: &[&str],
        folder: &Path,
        installed: Installed,
    ) -> anyhow::Result<PackageSuite> {
        for name in ["lists/partial", "cache/archives/partial", "archives", "unpacked"] {
            fs::create_dir_all(folder.join(name)).with_context(|| folder.display().to_string())?;
        }
        let signed =
            if Path::new(KEYRING).is_file() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let line = |suite: &&str| format!("deb {signed}{} {suite} main\n", self.uri);
        fs::write(folder.join("sources.list"), suites.iter().map(line).collect::<String>())?;
        fs::write(folder.join("none-installed"), "")?;
        let suite = PackageSuite { folder: folder.to_owned(), installed };
        // Otherwise an old list, or none, would do.
        let update = ["update", "--quiet", "--option", "APT::Update::Error-Mode=any"];
        output(suite.apt("apt-get").args(update))
            .with_context(|| format!("no list of {}", suites.join(", ")))?;
        Ok(suite)
    }
}

/// Which packages count as installed, so that they are not fetched with those that need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Installed {
    None,
    /// Those of this machine.
    Here,
}

/// The packages of a release.
#[derive(Clone, Debug)]
pub(super) struct PackageSuite {
    folder: PathBuf,
    installed: Installed,
}

/// What a list says of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PackageRecord {
    pub(super) version: String,
    /// The names of what it needs; of alternatives the first.
    depends: Vec<String>,
}

impl PackageRecord {
    fn parse(told: &str) -> Option<Self> {
        let field = |name: &str| {
            told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
        };
        let needs = field("Depends").split(", ").filter_map(|one| one.split([' ', '|', ':']).next());
        let depends = needs.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let version = field("Version").to_owned();
        (!version.is_empty()).then_some(Self { version, depends })
    }
}

impl PackageSuite {
    /// A command of apt that knows these lists and no others.
    fn apt(&self, program: &str) -> Command {
        let own = |name: &str| self.folder.join(name).display().to_string();
        let mut options = vec![
            format!("Dir::State::lists={}", own("lists")),
            format!("Dir::Cache={}", own("cache")),
            // A container's image may say that there be none.
            "Dir::Cache::pkgcache=pkgcache.bin".to_owned(),
            "Dir::Cache::srcpkgcache=srcpkgcache.bin".to_owned(),
            format!("Dir::Etc::SourceList={}", own("sources.list")),
            "Dir::Etc::SourceParts=-".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Keep-Downloaded-Packages=true".to_owned(),
            // Nothing is installed, so no lock of the machine's is needed.
            "Debug::NoLocking=true".to_owned(),
        ];
        if self.installed == Installed::None {
            options.push(format!("Dir::State::status={}", own("none-installed")));
        }
        if rustix::process::geteuid().is_root() {
            // The user `_apt` may not enter the folder.
            options.push("APT::Sandbox::User=root".to_owned());
        }
        let mut command = Command::new(program);
        command.args(options.iter().flat_map(|option| ["--option", option]));
        command
    }

    pub(super) fn record(&self, package: &str) -> anyhow::Result<PackageRecord> {
        let mut asked = self.apt("apt-cache");
        asked.args(["show", "--no-all-versions", package]);
        let told = output(&mut asked).with_context(|| format!("no package {package}"))?;
        PackageRecord::parse(&told).with_context(|| format!("no package {package}"))
    }

    /// A package, and those that it needs whose names begin with one of these.
    pub(super) fn with_parts(&self, package: &str, parts: &[&str]) -> anyhow::Result<BTreeSet<String>> {
        let (mut known, mut asked) = (BTreeSet::new(), vec![package.to_owned()]);
        while let Some(name) = asked.pop() {
            if known.contains(&name) {
                continue;
            }
            let needed = self.record(&name)?.depends;
            asked.extend(needed.into_iter().filter(|name| parts.iter().any(|part| name.starts_with(part))));
            known.insert(name);
        }
        Ok(known)
    }

    /// Fetches packages, and unpacks of them the files that match one of these patterns of tar, or all without one. Returns a folder
    /// for each package.
    pub(super) fn unpack<'a>(
        &self,
        packages: impl IntoIterator<Item = &'a str>,
        patterns: &[&str],
    ) -> anyhow::Result<Vec<PathBuf>> {
        let archives = self.folder.join("archives");
        let packages: Vec<&str> = packages.into_iter().collect();
        let mut download = self.apt("apt-get");
        output(download.args(["download", "--quiet"]).args(&packages).current_dir(&archives))
            .with_context(|| format!("cannot fetch {}", packages.join(", ")))?;
        let newest = |package: &&str| -> anyhow::Result<PathBuf> {
            // A colon of the version is `%3a` in the name of the file.
            let version = self.record(package)?.version.replace(':', "%3a");
            let is_it = |path: &PathBuf| name(path).starts_with(&format!("{package}_{version}_"));
            entries(&archives)?.into_iter().find(is_it).with_context(|| format!("{package} was not fetched"))
        };
        packages.iter().map(|package| self.unpack_file(&newest(package)?, patterns)).collect()
    }

    fn unpack_file(&self, archive: &Path, patterns: &[&str]) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join("unpacked").join(archive.file_stem().unwrap_or_default());
        if folder.is_dir() {
            return Ok(folder);
        }
        // What is half unpacked has another name.
        let part = folder.with_extension("part");
        let _ = fs::remove_dir_all(&part);
        fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
        let mut opened = Command::new("dpkg-deb");
        let mut opened =
            opened.arg("--fsys-tarfile").arg(archive).stdout(Stdio::piped()).spawn().context("dpkg-deb")?;
        let mut tar = Command::new("tar");
        tar.arg("--extract")
            .arg("--directory")
            .arg(&part)
            .args(["--wildcards", "--no-same-owner"])
            .args(patterns);
        let unpacked = opened.stdout.take().map(|from| tar.stdin(from).output());
        let opened = opened.wait()?;
        let unpacked = unpacked.context("dpkg-deb has no output")?.context("tar")?;
        let said = String::from_utf8_lossy(&unpacked.stderr);
        // tar fails for a pattern without a file: who needs that file will miss it.
        let words = said.lines().find(|line| {
            !line.contains("Not found in archive") && !line.contains("Exiting with failure status")
        });
        let words = words.map(str::to_owned);
        ensure!(
            words.is_none() && (opened.success() || !patterns.is_empty()),
            "cannot unpack {}: {}",
            name(archive),
            words.unwrap_or_else(|| opened.to_string())
        );
        fs::rename(&part, &folder)?;
        Ok(folder)
    }

    /// Fetches a program with all that it needs and this machine lacks, and unpacks it into one folder.
    pub(super) fn unpack_with_needs(&self, package: &str, release: &str) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join("unpacked").join(format!("{package}-{release}"));
        if folder.is_dir() {
            return Ok(folder);
        }
        let mut install = self.apt("apt-get");
        install.args(["install", "--yes", "--quiet", "--download-only", "--no-install-recommends"]);
        output(install.args(["--target-release", release, package]))
            .with_context(|| format!("cannot fetch {package}"))?;
        let part = folder.with_extension("part");
        let _ = fs::remove_dir_all(&part);
        fs::create_dir_all(&part)?;
        for archive in entries(&self.folder.join("cache/archives"))? {
            if archive.extension().is_some_and(|ending| ending == "deb") {
                output(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&part))?;
            }
        }
        fs::rename(&part, &folder)?;
        Ok(folder)
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(listed.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

/// The first file below a folder whose path ends with one of these, or whose name begins with one that ends with `*`. Links are not
/// followed.
pub(super) fn find(folder: &Path, wanted: &[&str]) -> Option<PathBuf> {
    let mut below = entries(folder).ok()?;
    below.sort();
    let is_it = |path: &Path, wanted: &str| match wanted.strip_suffix('*') {
        Some(beginning) => name(path).starts_with(beginning),
        None => path.ends_with(wanted),
    };
    let found = wanted
        .iter()
        .find_map(|wanted| below.iter().find(|path| path.is_file() && is_it(path, wanted)).cloned());
    let folders = below.iter().filter(|path| path.is_dir() && !path.is_symlink());
    found.or_else(|| folders.filter_map(|folder| find(folder, wanted)).next())
}

/// What a command prints. What it says of a failure is the error.
pub(super) fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output().context(program.clone())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // The first error of apt's is the cause, the others follow from it.
        let words = said.lines().find(|line| line.starts_with("E: ")).or_else(|| said.lines().last());
        bail!("{program}: {}", words.unwrap_or(&output.status.to_string()).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_that_of_the_release_itself() {
        let told = "DEP-11|Debian|main|bookworm|http://one/debian/\n\
                    Packages|Debian-Security|main|bookworm-security|http://one/security/\n\
                    Packages|Other|main|stable|http://two/\n\
                    Packages|Debian|main|bookworm-updates|http://one/debian/\n\
                    Packages|Debian|contrib|bookworm|http://one/debian/\n\
                    Packages|Debian|main|bookworm|http://one/debian/\n";
        let registry = Registry::parse(told).unwrap();
        assert_eq!((registry.uri.as_str(), registry.codename.as_str()), ("http://one/debian/", "bookworm"));
        let without = told.lines().take(5).collect::<Vec<_>>().join("\n");
        assert_eq!(Registry::parse(&without), None);
    }

    #[test]
    fn a_record_names_what_is_needed() {
        let told = "Package: linux-image-7.2-cloud-amd64\nVersion: 7.2.13-1\n\
                    Depends: dracut | initramfs-tools (>= 0.120), linux-binary-7.2-cloud-amd64 (= 7.2.13-1), kmod:any\n";
        let record = PackageRecord::parse(told).unwrap();
        assert_eq!(record.version, "7.2.13-1");
        assert_eq!(record.depends, ["dracut", "linux-binary-7.2-cloud-amd64", "kmod"]);
        assert_eq!(PackageRecord::parse("Package: nothing\n"), None);
        assert!(PackageRecord::parse("Version: 1\n").unwrap().depends.is_empty());
    }

    #[test]
    fn files_are_found_by_the_end_of_their_path_or_the_beginning_of_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("usr/lib/modules/6.12/net");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("veth.ko.xz"), "").unwrap();
        fs::write(deep.join("vmlinuz-6.12"), "").unwrap();
        assert_eq!(find(folder.path(), &["veth.ko", "veth.ko.xz"]), Some(deep.join("veth.ko.xz")));
        assert_eq!(find(folder.path(), &["vmlinuz*"]), Some(deep.join("vmlinuz-6.12")));
        assert_eq!(find(folder.path(), &["eth.ko.xz", "config*"]), None);
    }
}
