//! Reports for CI as a program reads them.
#![allow(dead_code)] // Each test is compiled with a copy of this file.

/// The name of each test case, and the element in it with its message.
pub(crate) fn cases(junit: &str) -> Vec<(String, String, String)> {
    let document = roxmltree::Document::parse(junit).unwrap_or_else(|error| panic!("{error}: {junit}"));
    let suite = document.root_element().first_element_child().unwrap();
    assert_eq!(
        (document.root_element().tag_name().name(), suite.tag_name().name()),
        ("testsuites", "testsuite")
    );
    for needed in ["package", "id", "name", "timestamp", "hostname", "tests", "failures", "errors", "time"] {
        assert!(suite.has_attribute(needed), "{needed}: {junit}");
    }
    let children: Vec<&str> =
        suite.children().filter(|node| node.is_element()).map(|node| node.tag_name().name()).collect();
    assert_eq!(children.first(), Some(&"properties"), "{junit}");
    assert_eq!(children[children.len() - 2..], ["system-out", "system-err"], "{junit}");
    let all: Vec<_> = suite.children().filter(|node| node.has_tag_name("testcase")).collect();
    let of = |kind| all.iter().filter(|case| case.children().any(|node| node.has_tag_name(kind))).count();
    for (attribute, count) in [
        ("tests", all.len()),
        ("failures", of("failure")),
        ("errors", of("error")),
        ("skipped", of("skipped")),
    ] {
        assert_eq!(suite.attribute(attribute), Some(count.to_string().as_str()), "{attribute}: {junit}");
    }
    let case = |case: &roxmltree::Node<'_, '_>| {
        assert!(case.has_attribute("classname") && case.has_attribute("time"), "{junit}");
        let why = case.first_element_child();
        let of = |node: roxmltree::Node<'_, '_>| {
            (node.tag_name().name().to_owned(), node.attribute("message").unwrap().to_owned())
        };
        let (kind, message) = why.map_or(("pass".to_owned(), String::new()), of);
        (case.attribute("name").unwrap().to_owned(), kind, message)
    };
    all.iter().map(case).collect()
}
