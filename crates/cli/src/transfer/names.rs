//! Patterns for names on another machine, as a shell has them: `*`, `?` and `[...]` within one name.
//!
//! The names come from the other side, which may mean harm: only those that match are taken, and a name that begins with a
//! dot matches only a pattern that begins with one.

use globset::{GlobBuilder, GlobMatcher};
use linger_transfer::{Client, Destination, Error, Item, Kind, Reason, Refusal, RelPath, Remedy};

/// Whether a place is a pattern.
pub(super) fn is_pattern(place: &Destination) -> bool {
    matches!(place, Destination::Path { path, .. } if has_pattern(path.as_bytes()))
}

fn has_pattern(name: &[u8]) -> bool {
    name.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// The places that a pattern stands for; a place that is no pattern is itself.
pub(super) fn places(client: &Client, place: &Destination) -> Result<Vec<Destination>, Error> {
    let Destination::Path { path, into, .. } = place else { return Ok(vec![place.clone()]) };
    if !has_pattern(path.as_bytes()) {
        return Ok(vec![place.clone()]);
    }
    let mut found = vec![RelPath::root()];
    let names: Vec<_> = path.as_bytes().split(|byte| *byte == b'/').collect();
    for (number, name) in names.iter().enumerate() {
        let is_last = number + 1 == names.len();
        let mut next = Vec::new();
        for above in &found {
            if has_pattern(name) {
                matching(client, above, name, is_last, &mut next)?;
            } else {
                next.extend(above.child(name).ok());
            }
        }
        found = next;
    }
    if found.is_empty() {
        let told = Reason::from(format!("nothing there matches {path}"));
        return Err(Error::Refused(Refusal::NotFound, told.with(Remedy::ListFirst)));
    }
    found.sort();
    found
        .iter()
        .map(|path| {
            // `./` before it: the name may begin with `@`.
            let typed = [&b"./"[..], path.as_bytes(), if *into { b"/" } else { b"" }].concat();
            Destination::typed(&typed).map_err(|why| Error::Usage(format!("{path}: {why}").into()))
        })
        .collect()
}

/// What a listing of a place shows: of a directory what is in it, of a pattern what matches.
pub(super) fn listing(client: &Client, place: &Destination) -> Result<Vec<Item>, Error> {
    let Destination::Path { path, .. } = place else {
        return Err(Error::Usage("a sink or source cannot be listed".into()));
    };
    let mut items = Vec::new();
    let Some((above, pattern)) = path.split().filter(|(_, name)| has_pattern(name)) else {
        for place in places(client, place)? {
            if let Destination::Path { path, .. } = &place {
                client.list(path, &mut |item| items.push(item))?;
            }
        }
        return Ok(items);
    };
    let typed = [&b"./"[..], above.as_bytes()].concat();
    let above = Destination::typed(&typed).map_err(|why| Error::Usage(format!("{above}: {why}").into()))?;
    let matcher = matcher(pattern);
    for above in places(client, &above)? {
        let Destination::Path { path: above, .. } = &above else { continue };
        client.list(above, &mut |mut item| {
            let name = item.name.raw();
            let matches = matcher.as_ref().is_some_and(|matcher| matches_name(matcher, pattern, name));
            if name == pattern || matches {
                if let Ok(path) = above.child(name) {
                    item.name = path.as_bytes().into();
                }
                items.push(item);
            }
        })?;
    }
    if items.is_empty() {
        let told = Reason::from(format!("nothing there matches {path}"));
        return Err(Error::Refused(Refusal::NotFound, told.with(Remedy::ListFirst)));
    }
    Ok(items)
}

fn matching(
    client: &Client,
    above: &RelPath,
    pattern: &[u8],
    is_last: bool,
    found: &mut Vec<RelPath>,
) -> Result<(), Error> {
    let matcher = matcher(pattern);
    client.list(above, &mut |item| {
        let name = item.name.raw();
        let matches = matcher.as_ref().is_some_and(|matcher| matches_name(matcher, pattern, name));
        let is_wanted = name == pattern || matches;
        if is_wanted && (is_last || item.kind == Kind::Directory) {
            found.extend(above.child(name).ok());
        }
    })
}

fn matches_name(matcher: &GlobMatcher, pattern: &[u8], name: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let is_hidden = name.starts_with(b".") && !pattern.starts_with(b".");
    !is_hidden && matcher.is_match(std::ffi::OsStr::from_bytes(name))
}

/// `None` for a text that is no pattern after all, such as `a[`: it is an ordinary name.
fn matcher(pattern: &[u8]) -> Option<GlobMatcher> {
    let text = std::str::from_utf8(pattern).ok()?;
    GlobBuilder::new(text).literal_separator(true).build().ok().map(|glob| glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_in_a_shell() {
        for (pattern, name, matches) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("*.txt", ".txt", false),
            ("*", ".bashrc", false),
            (".*", ".bashrc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[ab]", "b", true),
            ("[ab]", "c", false),
            ("*", "a/b", false),
        ] {
            let matcher = matcher(pattern.as_bytes()).unwrap();
            assert_eq!(
                matches_name(&matcher, pattern.as_bytes(), name.as_bytes()),
                matches,
                "{pattern} {name}"
            );
        }
    }
}
