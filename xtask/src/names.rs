//! Checks names of types and lengths of functions: a type's name is defined in few files, and a function fits on a page.
//!
//! Only `src` folders count, without what is compiled for tests or loom models only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use syn::visit::Visit;

use crate::root;
use crate::workspace::{find_sources, module_path};

/// From this many files on, a type's name is defined too often: two are allowed.
const TOO_MANY_FILES: usize = 3;

/// The longest function, in lines from `fn` to its closing brace.
const LONGEST_FUNCTION: usize = 80;

/// What one file of a crate's `src` defines.
#[derive(Debug, Default)]
struct Contents {
    /// Names of structs, enums, unions, traits and type aliases. Associated types and types inside functions do not count.
    types: BTreeSet<String>,
    /// Functions, methods included, by name and length in lines.
    functions: Vec<(String, usize)>,
    /// Modules in files of their own that are compiled for tests only, by name.
    test_modules: Vec<String>,
    /// Files, named by `#[path]`, of modules that are compiled for tests only.
    test_files: Vec<String>,
}

/// All files of the workspace in which a name is defined.
pub(crate) type Definitions = BTreeMap<String, Vec<PathBuf>>;

/// Adds the types of a crate's `src` to `definitions`, and returns its functions that are too long.
pub(crate) fn collect(source: &Path, definitions: &mut Definitions) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    find_sources(source, &mut files)?;
    let mut modules = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let contents = contents(&text).with_context(|| file.display().to_string())?;
        modules.insert(module_path(source, &file), (file, contents));
    }
    let tests = test_modules(&modules);
    let test_files = test_files(&modules);
    let is_test = |module: &str| {
        tests.iter().any(|test| {
            module.strip_prefix(test.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    };
    let mut too_long = Vec::new();
    for (module, (file, contents)) in modules {
        if is_test(&module) || test_files.contains(&file) {
            continue;
        }
        let file = file.strip_prefix(root()).unwrap_or(&file).to_owned();
        for (name, length) in contents.functions.iter().filter(|(_, length)| *length > LONGEST_FUNCTION) {
            too_long.push(format!(
                "{}: `{name}` has {length} lines, more than {LONGEST_FUNCTION}",
                file.display()
            ));
        }
        for name in contents.types {
            definitions.entry(name).or_default().push(file.clone());
        }
    }
    Ok(too_long)
}

/// The names that are defined in too many files.
pub(crate) fn ambiguous(definitions: &Definitions) -> Vec<String> {
    let too_many = definitions.iter().filter(|(_, files)| files.len() >= TOO_MANY_FILES);
    let told = too_many.map(|(name, files)| {
        let all: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        format!("the type name `{name}` is defined in {} files: {}", files.len(), all.join(", "))
    });
    told.collect()
}

fn test_modules(modules: &BTreeMap<String, (PathBuf, Contents)>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (module, (_, contents)) in modules {
        for child in &contents.test_modules {
            let is_root = module == "lib" || module == "main";
            found.insert(if is_root { child.clone() } else { format!("{module}::{child}") });
        }
    }
    found
}

/// The test modules' files that some `#[path]` names. Such a path is relative to the folder of the file that contains it.
fn test_files(modules: &BTreeMap<String, (PathBuf, Contents)>) -> BTreeSet<PathBuf> {
    let all = modules
        .values()
        .flat_map(|(file, contents)| contents.test_files.iter().map(|named| file.with_file_name(named)));
    all.collect()
}

fn contents(text: &str) -> anyhow::Result<Contents> {
    let file = syn::parse_file(text)?;
    let mut contents = Contents::default();
    contents.visit_file(&file);
    Ok(contents)
}

/// The file that a module's `#[path = "..."]` names.
fn named_file(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(file), .. }) = &pair.value else { return None };
        pair.path.is_ident("path").then(|| file.value())
    })
}

/// Whether an item is compiled for tests or models only.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return attribute.path().is_ident("test") };
        let condition = list.tokens.to_string().replace(' ', "");
        list.path.is_ident("cfg")
            && (["test", "loom"].contains(&condition.as_str())
                || condition.starts_with("all(test,")
                || condition.starts_with("all(loom,"))
    })
}

impl Contents {
    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let first = signature.fn_token.span.start().line;
        let last = body.brace_token.span.close().end().line;
        self.functions.push((signature.ident.to_string(), last + 1 - first));
    }
}

impl<'ast> Visit<'ast> for Contents {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let (name, attributes) = match item {
            syn::Item::Struct(item) => (Some(&item.ident), &item.attrs),
            syn::Item::Enum(item) => (Some(&item.ident), &item.attrs),
            syn::Item::Union(item) => (Some(&item.ident), &item.attrs),
            syn::Item::Trait(item) => (Some(&item.ident), &item.attrs),
            syn::Item::Type(item) => (Some(&item.ident), &item.attrs),
            syn::Item::Fn(item) => (None, &item.attrs),
            syn::Item::Impl(item) => (None, &item.attrs),
            syn::Item::Mod(item) => {
                if item.content.is_none() && is_for_tests(&item.attrs) {
                    match named_file(&item.attrs) {
                        Some(file) => self.test_files.push(file),
                        None => self.test_modules.push(item.ident.to_string()),
                    }
                }
                (None, &item.attrs)
            }
            _ => return,
        };
        if is_for_tests(attributes) {
            return;
        }
        self.types.extend(name.map(ToString::to_string));
        syn::visit::visit_item(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(count: usize) -> Vec<PathBuf> {
        (0..count).map(|index| PathBuf::from(format!("{index}.rs"))).collect()
    }

    #[test]
    fn a_name_in_three_files_is_wrong() {
        let of = |count| ambiguous(&Definitions::from([("State".to_owned(), files(count))]));
        assert_eq!(of(2), [""; 0]);
        assert_eq!(of(3), ["the type name `State` is defined in 3 files: 0.rs, 1.rs, 2.rs"]);
    }

    #[test]
    fn types_are_counted_once_a_file_and_without_tests() {
        let text = "
            struct A; pub(crate) enum B {} trait C { type Item; } type D = A;
            mod inner { struct A; struct E; }
            fn f() { struct Local; }
            impl Iterator for A { type Item = u8; fn next(&mut self) -> Option<u8> { None } }
            #[cfg(test)] mod tests { struct InTests; }
            #[cfg(all(test, unix))] struct ForTests;
            #[cfg(not(test))] struct NotInTests;
        ";
        let types: Vec<String> = contents(text).unwrap().types.into_iter().collect();
        assert_eq!(types, ["A", "B", "C", "D", "E", "NotInTests"]);
    }

    #[test]
    fn files_that_only_tests_are_compiled_with_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "lib.rs",
            "#[cfg(test)]\nmod models;\nmod code;\n#[cfg(test)]\n#[path = \"far.rs\"]\nmod tests;",
        );
        write("models.rs", "struct Model;");
        write("far.rs", "struct Far;");
        write("code.rs", "struct Code;");
        let mut definitions = Definitions::new();
        collect(folder.path(), &mut definitions).unwrap();
        assert_eq!(definitions.into_keys().collect::<Vec<_>>(), ["Code"]);
    }

    #[test]
    fn functions_are_measured_from_fn_to_the_brace() {
        let body = "    let _ = 0;\n".repeat(LONGEST_FUNCTION - 2);
        let of = |more: &str| {
            let text = format!("/// A sentence.\n#[inline]\nfn f() {{\n{body}{more}}}\n");
            contents(&text).unwrap().functions
        };
        assert_eq!(of(""), [("f".to_owned(), LONGEST_FUNCTION)]);
        assert_eq!(of("    let _ = 1;\n"), [("f".to_owned(), LONGEST_FUNCTION + 1)]);
        let method = contents("struct A;\nimpl A {\n    fn g(&self) {\n    }\n}\n").unwrap();
        assert_eq!(method.functions, [("g".to_owned(), 2)]);
    }
}
