//! Finds circles inside a crate: cycles of files that depend on each other. Two files that need each other can neither be
//! understood nor moved alone.
//!
//! A file needs the modules that it names in paths beginning with `crate::` or `super::`, and those whose names the
//! crate's root re-exports. Comments and tests are left out. A module and its submodules may need each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::workspace::{find_sources, module_path};

/// The modules that each module needs, by path within the crate, such as `closer::board`.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The circles in a crate's `src`, each as the list of its modules.
pub(crate) fn circles(source: &Path) -> anyhow::Result<Vec<Vec<String>>> {
    let mut files = Vec::new();
    find_sources(source, &mut files)?;
    let mut texts = BTreeMap::new();
    let mut root = String::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        match module_path(source, &file).as_str() {
            "lib" | "main" => root.push_str(&text),
            name if name.contains("test") => {}
            name => drop(texts.insert(name.to_owned(), text)),
        }
    }
    Ok(strongly_connected(&graph(&texts, &root)))
}

fn graph(texts: &BTreeMap<String, String>, root: &str) -> Graph {
    let exported = exported(texts, root);
    let resolve = |path: &[String]| -> Option<String> {
        let longest = (1..=path.len()).rev().map(|length| path[..length].join("::"));
        let module = longest.into_iter().find(|name| texts.contains_key(name));
        module.or_else(|| exported.get(path.first()?).cloned())
    };
    let within = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}::"));
    texts
        .iter()
        .map(|(own, text)| {
            let paths = paths(own, text);
            let needs = paths
                .iter()
                .filter_map(|path| resolve(path))
                .filter(|need| need != own && !within(need, own) && !within(own, need));
            (own.clone(), needs.collect())
        })
        .collect()
}

/// Names that the crate's root re-exports, with their modules: a path `crate::Closer` needs `closer`.
fn exported(texts: &BTreeMap<String, String>, root: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in root.split("pub use ").skip(1) {
        let part = part.split(';').next().unwrap_or_default();
        for path in expand(part.trim_start_matches("crate::")) {
            let module = (1..path.len()).rev().map(|length| path[..length].join("::"));
            if let (Some(name), Some(module)) =
                (path.last(), module.into_iter().find(|name| texts.contains_key(name)))
            {
                found.insert(name.clone(), module);
            }
        }
    }
    found
}

/// The paths in a module's text that stay within the crate, from the crate's root.
fn paths(own: &str, text: &str) -> Vec<Vec<String>> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        // `pub(crate)` has no `::` and is not matched. `$crate::` occurs only in macros.
        found.extend(expand(rest));
    }
    let parent: Vec<String> = own.split("::").map(str::to_owned).collect();
    let mut pieces = code.split("super::").peekable();
    let mut ups = 0;
    pieces.next();
    while let Some(rest) = pieces.next() {
        ups += 1;
        // Between the two of `super::super::x` the text is empty.
        if rest.is_empty() && pieces.peek().is_some() {
            continue;
        }
        let base = &parent[..parent.len().saturating_sub(ups)];
        found.extend(expand(rest).into_iter().map(|path| [base, &path].concat()));
        ups = 0;
    }
    found
}

/// Parses the paths at the beginning of a text: `a::b`, or `{a::{b, c}, d}`.
fn expand(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if let Some(inner) = text.strip_prefix('{') {
        return items(inner).into_iter().flat_map(expand).collect();
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    if end == 0 {
        return Vec::new();
    }
    let name = text[..end].to_owned();
    let rest = text[end..].strip_prefix("::").map(expand).unwrap_or_default();
    if rest.is_empty() {
        return vec![vec![name]];
    }
    rest.into_iter().map(|path| [vec![name.clone()], path].concat()).collect()
}

/// The items of a group in braces; `text` begins after the opening brace.
fn items(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0usize, 0, Vec::new());
    for (place, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&text[start..place]);
                return found;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&text[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    found
}

/// The sets of two or more modules in which each can reach every other.
fn strongly_connected(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|from| (from, reach(graph, from))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (from, to) in &reached {
        let both = to.iter().filter(|other| reached.get(**other).is_some_and(|back| back.contains(from)));
        let circle: Vec<String> = both.map(|other| (*other).clone()).collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn reach<'g>(graph: &'g Graph, from: &'g String) -> BTreeSet<&'g String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(next) = todo.pop() {
        todo.extend(graph.get(next).into_iter().flatten().filter(|need| seen.insert(*need)));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)], root: &str) -> Vec<Vec<String>> {
        let texts = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        strongly_connected(&graph(&texts, root))
    }

    #[test]
    fn two_that_need_each_other_are_a_circle() {
        let (a, b) = ("use crate::b::B;", "fn b() -> crate::a::A { todo!() }");
        assert_eq!(found(&[("a", a), ("b", b)], ""), [["a", "b"]]);
        assert!(found(&[("a", a), ("b", "fn b() {}")], "").is_empty(), "one way");
        assert!(found(&[("a", a), ("b", "// crate::a\n#[cfg(test)]\nuse crate::a::A;")], "").is_empty());
    }

    #[test]
    fn what_the_root_exports_is_its_modules() {
        let (a, b) = ("use crate::{B, c::C};", "use crate::A;");
        let files = [("a", a), ("b", b), ("c", "")];
        assert_eq!(found(&files, "pub use a::A;\npub use b::{B, D};"), [["a", "b"]]);
        assert!(found(&files, "pub use b::{B, D};").is_empty());
    }

    #[test]
    fn siblings_are_found_by_super() {
        let files =
            [("x::a", "use super::b::B;"), ("x::b", "use super::super::y;"), ("y", "use crate::x::a::A;")];
        assert_eq!(found(&files, ""), [["x::a", "x::b", "y"]]);
    }

    #[test]
    fn a_module_and_its_parts_are_no_circle() {
        assert!(found(&[("x", "use crate::x::a::A;"), ("x::a", "use crate::x::X;")], "").is_empty());
    }
}
