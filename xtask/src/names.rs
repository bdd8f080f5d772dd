//! Checks names of types and lengths of functions: a type's name is defined in few files, and a function fits on a page.
//!
//! Only `src` folders count, without what is compiled for tests or loom models only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use syn::visit::Visit;

use crate::root;
use crate::sources::{SourceFile, attributes, is_for_tests};

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
}

/// All files of the workspace in which a name is defined.
pub(crate) type Definitions = BTreeMap<String, Vec<PathBuf>>;

/// Adds the types of a crate's files to `definitions`, and returns its functions that are too long.
pub(crate) fn collect(files: &[SourceFile], definitions: &mut Definitions) -> Vec<String> {
    let mut too_long = Vec::new();
    for SourceFile { path, syntax, .. } in files {
        let contents = contents(syntax);
        let file = path.strip_prefix(root()).unwrap_or(path).to_owned();
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
    too_long
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

fn contents(file: &syn::File) -> Contents {
    let mut contents = Contents::default();
    contents.visit_file(file);
    contents
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
        if is_for_tests(attributes(item)) {
            return;
        }
        let name = match item {
            syn::Item::Struct(item) => Some(&item.ident),
            syn::Item::Enum(item) => Some(&item.ident),
            syn::Item::Union(item) => Some(&item.ident),
            syn::Item::Trait(item) => Some(&item.ident),
            syn::Item::Type(item) => Some(&item.ident),
            syn::Item::Fn(_) | syn::Item::Impl(_) | syn::Item::Mod(_) => None,
            _ => return,
        };
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
        let types: Vec<String> = contents(&syn::parse_file(text).unwrap()).types.into_iter().collect();
        assert_eq!(types, ["A", "B", "C", "D", "E", "NotInTests"]);
    }

    #[test]
    fn functions_are_measured_from_fn_to_the_brace() {
        let body = "    let _ = 0;\n".repeat(LONGEST_FUNCTION - 2);
        let of = |more: &str| {
            let text = format!("/// A sentence.\n#[inline]\nfn f() {{\n{body}{more}}}\n");
            contents(&syn::parse_file(&text).unwrap()).functions
        };
        assert_eq!(of(""), [("f".to_owned(), LONGEST_FUNCTION)]);
        assert_eq!(of("    let _ = 1;\n"), [("f".to_owned(), LONGEST_FUNCTION + 1)]);
        let method = syn::parse_file("struct A;\nimpl A {\n    fn g(&self) {\n    }\n}\n").unwrap();
        let method = contents(&method);
        assert_eq!(method.functions, [("g".to_owned(), 2)]);
    }
}
