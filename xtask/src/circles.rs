//! Finds circles inside a crate: cycles of files that depend on each other. Two files that need each other can neither be
//! understood nor moved alone.
//!
//! A file needs the modules that it names in paths beginning with `crate::` or `super::`, and those whose names the
//! crate's root re-exports. Comments and tests are left out. A module and its submodules may need each other.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

use crate::sources::{SourceFile, attributes, is_for_tests};

/// The modules that each module needs.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The circles among a crate's files, each as the list of its modules.
pub(crate) fn circles(files: &[SourceFile]) -> Vec<Vec<String>> {
    strongly_connected(&graph(files))
}

fn graph(files: &[SourceFile]) -> Graph {
    let modules: BTreeSet<&str> =
        files.iter().filter(|file| !file.is_root()).map(|file| file.module.as_str()).collect();
    let exported: BTreeMap<String, String> =
        files.iter().filter(|file| file.is_root()).flat_map(|file| exported(file, &modules)).collect();
    let resolve = |path: &[String]| {
        longest(path, &modules).map(str::to_owned).or_else(|| exported.get(path.first()?).cloned())
    };
    let within = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}::"));
    let needs = |file: &SourceFile| {
        let own = file.module.as_str();
        let all = paths(file).into_iter().filter_map(|path| resolve(&path));
        all.filter(|need| need != own && !within(need, own) && !within(own, need)).collect()
    };
    files.iter().filter(|file| !file.is_root()).map(|file| (file.module.clone(), needs(file))).collect()
}

/// The longest beginning of a path that is a module.
fn longest<'m>(path: &[String], modules: &BTreeSet<&'m str>) -> Option<&'m str> {
    let beginnings = (1..=path.len()).rev().map(|length| path[..length].join("::"));
    beginnings.into_iter().find_map(|name| modules.get(name.as_str()).copied())
}

/// Names that the crate's root re-exports, with their modules: a path `crate::Closer` needs `closer`.
fn exported(root: &SourceFile, modules: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let uses = root.syntax.items.iter().filter_map(|item| match item {
        syn::Item::Use(item) if !matches!(item.vis, syn::Visibility::Inherited) => Some(&item.tree),
        _ => None,
    });
    let mut found = BTreeMap::new();
    for mut path in uses.flat_map(used) {
        if path.first().is_some_and(|first| first == "crate" || first == "self") {
            path.remove(0);
        }
        if let (Some(name), Some(module)) = (path.last(), longest(&path, modules)) {
            found.insert(name.clone(), module.to_owned());
        }
    }
    found
}

/// The paths in a file that stay within the crate, from the crate's root.
fn paths(file: &SourceFile) -> Vec<Vec<String>> {
    let own = if file.is_root() { Vec::new() } else { file.module.split("::").map(str::to_owned).collect() };
    let mut paths = Paths { at: own, found: Vec::new() };
    paths.visit_file(&file.syntax);
    paths.found
}

/// The names that a `use` imports, each as its whole path, without what it is renamed to.
fn used(tree: &syn::UseTree) -> Vec<Vec<String>> {
    let below = |name: &syn::Ident, rest: Vec<Vec<String>>| {
        rest.into_iter().map(|path| [vec![name.to_string()], path].concat()).collect()
    };
    match tree {
        syn::UseTree::Path(path) => below(&path.ident, used(&path.tree)),
        syn::UseTree::Name(name) if name.ident == "self" => vec![Vec::new()],
        syn::UseTree::Name(name) => vec![vec![name.ident.to_string()]],
        syn::UseTree::Rename(name) => vec![vec![name.ident.to_string()]],
        syn::UseTree::Glob(_) => vec![Vec::new()],
        syn::UseTree::Group(group) => group.items.iter().flat_map(used).collect(),
    }
}

/// Collects the paths of a file.
struct Paths {
    /// The module whose code is visited, which may be within another in the same file.
    at: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Paths {
    /// Notes a path that begins with `crate`, `self` or `super`. Other paths begin with a module of the file itself, with
    /// something imported, or with another crate.
    fn note(&mut self, path: &[String]) {
        let ups = path.iter().take_while(|word| *word == "super").count();
        let base = match path.first().map(String::as_str) {
            Some("crate") => &[],
            Some("self") => self.at.as_slice(),
            Some("super") => &self.at[..self.at.len().saturating_sub(ups)],
            _ => return,
        };
        self.found.push([base, &path[ups.max(1)..]].concat());
    }

    /// The paths in a macro's words, which only the macro understands.
    fn words(&mut self, words: TokenStream) {
        let (mut path, mut colons) = (Vec::new(), 0);
        for word in words {
            match word {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.note(&std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.words(group.stream());
                    self.note(&std::mem::take(&mut path));
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.note(&std::mem::take(&mut path)),
            }
        }
        self.note(&path);
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.at.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.at.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for path in used(&item.tree) {
            self.note(&path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&words);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        self.words(item.tokens.clone());
    }
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
    use std::path::PathBuf;

    use super::*;

    fn found(files: &[(&str, &str)], root: &str) -> Vec<Vec<String>> {
        let all = files.iter().copied().chain([("lib", root)]).map(|(module, text)| SourceFile {
            module: module.to_owned(),
            path: PathBuf::new(),
            syntax: syn::parse_file(text).unwrap(),
        });
        circles(&all.collect::<Vec<_>>())
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

    #[test]
    fn whatever_is_written_after_an_import_for_tests_counts() {
        let a = "#[cfg(test)]\nuse std::fs;\nuse crate::b::B;";
        assert_eq!(found(&[("a", a), ("b", "use crate::a::A;")], ""), [["a", "b"]]);
        assert!(found(&[("a", "#[cfg(test)]\nuse crate::b::B;"), ("b", "use crate::a::A;")], "").is_empty());
    }

    #[test]
    fn paths_in_macros_and_in_inner_modules_count() {
        let b = "use crate::a::A;";
        for a in ["fn f() { println!(\"{}\", crate::b::B) }", "mod inner { use super::super::b::B; }"] {
            assert_eq!(found(&[("a", a), ("b", b)], ""), [["a", "b"]], "{a}");
        }
        assert!(found(&[("a", "fn f() { println!(\"crate::b::B\") }"), ("b", b)], "").is_empty(), "a text");
        assert!(found(&[("a", "mod inner { use super::b::B; }"), ("b", b)], "").is_empty(), "its own part");
    }
}
