//! The files of one verb: each is begun before the work, and no two are the same.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::file::{Content, NewFile, is_same};
use crate::exit;

/// Begins the files that options name. None may be one of `inputs`, nor that of another option.
///
/// # Errors
/// Returns the exit status after saying which file cannot be written, and why.
pub(crate) fn begin<'a, const N: usize>(
    options: [(&str, Option<&Path>, Content); N],
    inputs: impl IntoIterator<Item = &'a Path> + Clone,
) -> Result<[Option<NewFile>; N], ExitCode> {
    for (at, (option, path, _)) in options.iter().enumerate() {
        let Some(path) = path else { continue };
        if *path == Path::new("-") {
            let text = format_args!(
                "{option} needs a file: the report is on standard output (./- is a file of the name -)"
            );
            return Err(exit::fail(exit::BAD_USAGE, text));
        }
        let earlier =
            options[..at].iter().find(|(_, other, _)| other.is_some_and(|other| are_one(other, path)));
        if let Some((other, ..)) = earlier {
            return Err(exit::fail(exit::BAD_USAGE, format_args!("{other} and {option} need a file each")));
        }
    }
    let mut files = [const { None }; N];
    for (file, (_, path, content)) in files.iter_mut().zip(options) {
        let created = path.map(|path| NewFile::create(path, content, inputs.clone())).transpose();
        *file = created.map_err(|refused| refused.end())?;
    }
    Ok(files)
}

/// Whether two names are of one file, which may not exist yet. A character device, such as /dev/null, takes several.
fn are_one(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => is_same(&one, &other) && !one.file_type().is_char_device(),
        _ => one == other || target(one).is_some_and(|one| target(other) == Some(one)),
    }
}

/// Where a file of this name would be made: in the folder's own name, at the end of links that lead to nothing yet.
fn target(path: &Path) -> Option<PathBuf> {
    let last = super::file::end_of_links(path);
    let folder = last.parent().filter(|folder| !folder.as_os_str().is_empty());
    Some(folder.unwrap_or(Path::new(".")).canonicalize().ok()?.join(last.file_name()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn two_names_of_one_file_are_found_out_whether_it_exists_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("there"), "text").unwrap();
        fs::hard_link(at("there"), at("hard")).unwrap();
        symlink("there", at("soft")).unwrap();
        symlink("new", at("dangling")).unwrap();
        symlink("dangling", at("twice")).unwrap();
        for (one, other, same) in [
            ("there", "hard", true),
            ("there", "soft", true),
            ("new", "new", true),
            ("new", "./new", true),
            ("new", "dangling", true),
            ("twice", "new", true),
            ("new", "newer", false),
            ("there", "new", false),
        ] {
            assert_eq!(are_one(&at(one), &at(other)), same, "{one} and {other}");
            assert_eq!(are_one(&at(other), &at(one)), same, "{other} and {one}");
        }
        assert!(!are_one(Path::new("/dev/null"), Path::new("/dev/null")));
    }
}
