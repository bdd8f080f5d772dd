//! The table of rules against the cases and the documents.

use std::path::Path;

use linger_why::Rule;

fn recorded() -> impl Iterator<Item = (String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules/recorded");
    std::fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    })
}

/// The verdicts of a recorded change, as `cause/class`.
fn verdicts(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let mut words = line.strip_prefix("  frame ")?.split_whitespace().skip(1);
        let (cause, class) = (words.next()?, words.nth(1)?);
        Some(format!("{cause}/{class}"))
    })
}

#[test]
fn each_verdict_has_a_rule_and_each_rule_a_counter_example() {
    let rules: Vec<String> = Rule::all().iter().map(Rule::name).collect();
    let mut unique = rules.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), rules.len());
    let mut cases = 0;
    for (name, text) in recorded() {
        for verdict in verdicts(&text).filter(|verdict| !verdict.starts_with("unknown/")) {
            cases += 1;
            assert!(rules.contains(&verdict), "{name}: no rule {verdict}");
        }
    }
    assert!(cases > 350, "{cases}");
    for rule in Rule::all() {
        let Some((file, change)) = rule.counter_example else { continue };
        let (_, text) = recorded().find(|(name, _)| name == file).unwrap_or_else(|| panic!("no file {file}"));
        let begin = format!("{change}:\n");
        let after = text.split(&begin).nth(1).unwrap_or_else(|| panic!("{file} has no case {change}"));
        let end = after.lines().take_while(|line| line.starts_with(' ')).collect::<Vec<_>>().join("\n");
        let judged = verdicts(&end).last();
        assert_ne!(judged.as_deref(), Some(&*rule.name()), "{file}, {change}");
    }
}

#[test]
fn the_document_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/why-rules.md");
    let text = std::fs::read_to_string(&path).unwrap();
    if std::env::var_os("RECORD").is_some() {
        let head = text.split("| rule |").next().unwrap();
        std::fs::write(&path, format!("{head}{}", Rule::table())).unwrap();
        return;
    }
    assert!(
        text.ends_with(&Rule::table()),
        "cargo xtask corpus --rules prints what docs/why-rules.md ends with"
    );
}
