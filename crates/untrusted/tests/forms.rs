//! What each form lets through, and whether a text can be read back from it.

use linger_untrusted::{Untrusted, message, to_json};
use proptest::prelude::*;

/// What no form may let through to a terminal: written down here a second time, from the Unicode standard.
fn is_dangerous(c: char) -> bool {
    let c = c as u32;
    c < 0x20
        || (0x7f..0xa0).contains(&c)
        || [0x061c, 0x200e, 0x200f, 0x2028, 0x2029].contains(&c)
        || (0x202a..=0x202e).contains(&c)
        || (0x2066..=0x2069).contains(&c)
}

/// Texts in which half of the characters are ones that an attacker would use.
fn texts() -> impl Strategy<Value = String> {
    let harm = prop::sample::select(vec![
        '\x1b', '\n', '\r', '\0', '\t', '\x7f', '\u{9b}', '\u{85}', '\u{202e}', '\u{2066}', '\u{2028}',
        '\u{200f}', '\u{61c}', '\\', '"', '\'', '<', '>', '&', ' ', 'x', 'u', 'n', '{', '}',
    ]);
    prop::collection::vec(prop_oneof![harm, any::<char>()], 0..40).prop_map(|all| all.into_iter().collect())
}

/// Reads Rust's escapes back into bytes.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    let push = |bytes: &mut Vec<u8>, c: char| bytes.extend(c.to_string().bytes());
    while let Some(c) = rest.next() {
        if c != '\\' {
            push(&mut bytes, c);
            continue;
        }
        match rest.next().unwrap() {
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'x' => {
                let digits: String = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            'u' => {
                let digits: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                push(&mut bytes, char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap());
            }
            other => push(&mut bytes, other),
        }
    }
    bytes
}

fn without_entities(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

proptest! {
    #[test]
    fn nothing_reaches_a_terminal_that_it_would_obey(text in texts()) {
        let untrusted = Untrusted::from(text.as_str());
        for form in [
            untrusted.terminal().to_string(),
            untrusted.plain().to_string(),
            untrusted.label(),
            untrusted.html().to_string(),
            to_json(&untrusted).unwrap(),
            format!("{untrusted:?}"),
            message(&text).replace(['\n', '\t'], ""),
        ] {
            prop_assert!(!form.chars().any(is_dangerous), "{form:?}");
        }
        prop_assert!(!untrusted.plain().to_string().contains(char::is_whitespace));
    }

    #[test]
    fn each_form_can_be_read_back(text in texts()) {
        let untrusted = Untrusted::from(text.as_str());
        prop_assert_eq!(unescaped(&untrusted.terminal().to_string()), text.as_bytes());
        prop_assert_eq!(unescaped(&untrusted.plain().to_string()), text.as_bytes());
        prop_assert_eq!(unescaped(&untrusted.label()), text.as_bytes());
        prop_assert_eq!(unescaped(&without_entities(&untrusted.html().to_string())), text.as_bytes());
        prop_assert_eq!(serde_json::from_str::<String>(&to_json(&untrusted).unwrap()).unwrap(), text);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_one_by_one(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let untrusted = Untrusted::from(bytes.as_slice());
        prop_assert_eq!(unescaped(&untrusted.terminal().to_string()), bytes.clone());
        prop_assert_eq!(unescaped(&without_entities(&untrusted.html().to_string())), bytes);
        prop_assert!(serde_json::from_str::<String>(&to_json(&untrusted).unwrap()).is_ok());
    }

    /// The text can neither begin markup nor end a quoted attribute.
    #[test]
    fn html_stays_text(text in texts()) {
        let html = Untrusted::from(text).html().to_string();
        prop_assert!(!html.contains(['<', '>', '"', '\'']));
    }
}

#[test]
fn what_is_harmless_stays_as_it_is() {
    for text in ["nginx: worker", "naïve é 漢字 🙂", "a-b_c.d/e%20f", ""] {
        assert_eq!(Untrusted::from(text).terminal().to_string(), text);
    }
    assert_eq!(Untrusted::from("a b").plain().to_string(), "a\\x20b");
    assert_eq!(format!("[{:>6}]", Untrusted::from("a\n").terminal()), "[   a\\n]");
    assert_eq!(message("two\nlines \x1b[2J é"), "two\nlines \\u{1b}[2J é");
}
