//! The source files of a crate that its users get: those that are compiled for tests or loom models only are left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use syn::visit::Visit;

use crate::workspace::{find_sources, module_path};

/// A file of a crate's `src`.
pub(crate) struct SourceFile {
    /// The module: `closer::board`; `lib` or `main` for the root.
    pub(crate) module: String,
    pub(crate) path: PathBuf,
    pub(crate) syntax: syn::File,
}

impl SourceFile {
    /// Whether it is the root of a crate.
    pub(crate) fn is_root(&self) -> bool {
        self.module == "lib" || self.module == "main"
    }
}

/// All files of a crate's `src` but those for tests and models.
pub(crate) fn shipped(source: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let mut paths = Vec::new();
    find_sources(source, &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let syntax = syn::parse_file(&text).with_context(|| path.display().to_string())?;
        files.push(SourceFile { module: module_path(source, &path), path, syntax });
    }
    let mut for_tests = ForTests::default();
    // A file for tests can declare others.
    loop {
        let before = (for_tests.modules.len(), for_tests.files.len());
        for file in &files {
            for_tests.learn(file);
        }
        if before == (for_tests.modules.len(), for_tests.files.len()) {
            break;
        }
    }
    files.retain(|file| !for_tests.has(file));
    Ok(files)
}

/// Whether an item is compiled for tests or models only.
pub(crate) fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return attribute.path().is_ident("test") };
        let condition = list.tokens.to_string().replace(' ', "");
        list.path.is_ident("cfg")
            && (["test", "loom"].contains(&condition.as_str())
                || condition.starts_with("all(test,")
                || condition.starts_with("all(loom,"))
    })
}

/// The attributes of an item.
pub(crate) fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::ForeignMod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// What is compiled for tests only, in a whole crate.
#[derive(Default)]
struct ForTests {
    modules: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl ForTests {
    fn has(&self, file: &SourceFile) -> bool {
        let within = |test: &String| {
            file.module
                .strip_prefix(test.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        self.modules.iter().any(within) || self.files.contains(&file.path)
    }

    /// Adds the modules that a file declares for tests; all that it declares, if it is for tests itself.
    fn learn(&mut self, file: &SourceFile) {
        let mut declared = Declared { all: self.has(file), ..Declared::default() };
        declared.visit_file(&file.syntax);
        let children = declared.modules.into_iter();
        self.modules.extend(
            children.map(|child| if file.is_root() { child } else { format!("{}::{child}", file.module) }),
        );
        // Such a path is relative to the folder of the file that contains it.
        self.files.extend(declared.files.iter().map(|named| file.path.with_file_name(named)));
    }
}

/// The modules in files of their own that one file declares for tests.
#[derive(Default)]
struct Declared {
    /// Whether all that it declares is for tests.
    all: bool,
    /// By name.
    modules: Vec<String>,
    /// By the file that `#[path = "..."]` names.
    files: Vec<String>,
}

impl<'ast> Visit<'ast> for Declared {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_none() && (self.all || is_for_tests(&item.attrs)) {
            match named_file(&item.attrs) {
                Some(file) => self.files.push(file),
                None => self.modules.push(item.ident.to_string()),
            }
        }
        syn::visit::visit_item_mod(self, item);
    }
}

/// The file that a module's `#[path = "..."]` names.
fn named_file(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(file), .. }) = &pair.value else { return None };
        pair.path.is_ident("path").then(|| file.value())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_only_tests_are_compiled_with_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "lib.rs",
            "#[cfg(test)]\nmod models;\nmod testimony;\n#[cfg(test)]\n#[path = \"far.rs\"]\nmod tests;",
        );
        fs::create_dir(folder.path().join("models")).unwrap();
        write("far.rs", "#[path = \"farther.rs\"]\nmod more;");
        for name in ["models.rs", "models/more.rs", "farther.rs", "testimony.rs"] {
            write(name, "struct One;");
        }
        let modules: Vec<String> =
            shipped(folder.path()).unwrap().into_iter().map(|file| file.module).collect();
        assert_eq!(modules, ["lib", "testimony"]);
    }

    #[test]
    fn a_condition_that_excludes_tests_is_not_for_tests() {
        let of = |text: &str| is_for_tests(attributes(&syn::parse_str(text).unwrap()));
        assert!(of("#[cfg(test)] use a::B;") && of("#[cfg(all(test, unix))] struct A;"));
        assert!(!of("#[cfg(not(test))] struct A;") && !of("#[cfg(unix)] mod a;"));
    }
}
