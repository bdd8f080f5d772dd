//! The page as a browser would take it apart: every element is closed where it was opened, nothing is loaded, nothing but the
//! one script runs, and no stranger's text becomes markup.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::*;
use crate::{AnalyzerLimits, Confidence, Finding, Groups, examine};

const STRANGE: &str = "<script>alert(1)</script>\" onload='x'\u{202e}&";

fn examined(captures: &[&str]) -> (Vec<Examined>, Vec<Finding>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let mut findings = Vec::new();
    let files = captures
        .iter()
        .map(|name| {
            let path = folder.join(format!("{name}.pcap.gz"));
            examine(&path, AnalyzerLimits::default(), |finding| findings.push(finding)).unwrap()
        })
        .collect();
    (files, findings)
}

fn written(files: &[Examined], findings: Vec<Finding>) -> (String, Vec<Group>) {
    let mut groups = Groups::default();
    for finding in findings {
        groups.add(finding);
    }
    let groups = groups.sorted();
    let mut page = Vec::new();
    report(&mut page, files, &groups, 0, &Tools::default()).unwrap();
    (String::from_utf8(page).unwrap(), groups)
}

/// The tags of a page in their order, each with its attributes. Panics where one is closed that is not open.
fn tags(page: &str) -> Vec<(String, String)> {
    let (mut tags, mut open) = (Vec::new(), Vec::<String>::new());
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag ends");
        let (tag, more) = rest[at + 1..end].split_once(' ').unwrap_or((&rest[at + 1..end], ""));
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed), "before {}", &rest[at..rest.len().min(at + 200)]);
        } else {
            let empty = tag == "meta" || tag == "br" || tag.starts_with('!') || more.ends_with('/');
            tags.push((tag.to_owned(), more.to_owned()));
            if !empty {
                open.push(tag.to_owned());
            }
        }
        rest = &rest[end + 1..];
        // A style and a script are no markup.
        if tag == "style" || tag == "script" {
            rest = &rest[rest.find(&format!("</{tag}>")).expect("it ends")..];
        }
    }
    assert_eq!(open, Vec::<String>::new());
    tags
}

#[test]
fn the_page_is_whole_and_loads_nothing() {
    let captures = ["process-killed-unread.middle", "health-check.server", "data-after-close.client"];
    let (files, findings) = examined(&captures);
    assert!(findings.len() >= 3);
    let (page, groups) = written(&files, findings);
    let tags = tags(&page);
    let count = |name: &str| tags.iter().filter(|(tag, _)| tag == name).count();
    assert_eq!((count("article"), count("script"), count("h1")), (groups.len(), 1, 1));
    assert_eq!(
        tags.iter().filter(|(tag, more)| tag == "div" && more.contains("ladder")).count(),
        groups.len()
    );
    for (tag, more) in &tags {
        for attribute in [" src=", " on", "style=", "http:", "https:", "url("] {
            assert!(!format!(" {more}").contains(attribute), "<{tag} {more}>");
        }
        assert!(tag != "a" || more.starts_with("href=\"#f"), "<{tag} {more}>");
    }
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    // Each link of the table leads to an article.
    for at in 1..=groups.len() {
        assert!(
            page.contains(&format!("<a href=\"#f{at}\">{at}</a>"))
                && page.contains(&format!(" id=\"f{at}\">"))
        );
    }
}

/// So many findings of different listeners, all but the last two of one cause.
fn many(count: u16) -> Vec<Finding> {
    let (_, findings) = examined(&["data-after-close.client"]);
    let one = |port: u16| {
        let mut finding = findings[0].clone();
        finding.from.set_port(port);
        finding.client = Some(finding.to);
        match port {
            _ if port + 1 == count => finding.cause = Cause::Aborted,
            _ if port == count => (finding.cause, finding.harmless) = (Cause::BothClosed, true),
            _ => {}
        }
        finding
    };
    (1..=count).map(one).collect()
}

#[test]
fn only_the_first_few_hundred_findings_are_drawn_and_the_rest_are_rows() {
    let drawn = |count: u16| {
        let (page, groups) = written(&[], many(count));
        let tags = tags(&page);
        let of = |name: &str| tags.iter().filter(|(tag, _)| tag == name).count();
        assert_eq!((groups.len(), of("tr")), (usize::from(count), usize::from(count) + 2));
        assert_eq!(of("article"), of("svg") - 1, "the timeline is the other one");
        (of("article"), page, groups)
    };
    let (articles, page, _) = drawn(300);
    assert_eq!(articles, 300);
    assert!(!page.contains("others the table names") && !page.contains("in the table only"));
    let (articles, page, groups) = drawn(301);
    assert_eq!(articles, 300);
    assert!(page.contains("Of the 1 others the table names the frame"));
    assert_eq!(page.matches("One more finding stands in the table only.").count(), 1);
    // The rare causes are drawn whatever their place; the last of the common one is not, and its row says where it is.
    let place = |cause| groups.iter().position(|group| group.cause == cause).unwrap() + 1;
    for cause in [Cause::Aborted, Cause::BothClosed] {
        assert!(page.contains(&format!(" id=\"f{}\">", place(cause))), "{cause}");
    }
    let last = groups.iter().rposition(|group| group.cause == Cause::DataAfterClose).unwrap() + 1;
    assert!(!page.contains(&format!("#f{last}\"")) && !page.contains(&format!(" id=\"f{last}\">")));
    assert_eq!(page.matches("<span class=\"soft path\">frame ").count(), 1);
}

#[test]
fn of_many_connections_some_are_listed_and_the_others_counted() {
    let (_, findings) = examined(&["data-after-close.client"]);
    let page = |count: usize| written(&[], vec![findings[0].clone(); count]).0;
    let (fifty, more) = (page(50), page(52));
    assert!(fifty.contains("<summary>All 50 connections</summary>") && !fifty.contains("more</p>"));
    assert!(more.contains("<summary>50 of 52 connections</summary>") && more.contains("and 2 more</p>"));
    assert_eq!((fifty.matches("<tr>").count(), more.matches("<tr>").count()), (54, 54));
}

#[test]
fn the_first_line_says_what_since_when_whose_and_what_to_do() {
    let (files, mut findings) = examined(&["data-after-close.client", "health-check.server"]);
    let (page, _) = written(&files, findings.clone());
    let first = page.split_once("<h1>").unwrap().1.split_once("</h1>").unwrap().0;
    for part in [
        "data-after-close (certain): 1 connection of http (10.77.2.1:8080), at 20",
        " UTC. Look at the server 10.77.2.1:8080. If",
    ] {
        assert!(first.contains(part), "{first}");
    }
    // Without the harmful one.
    findings.retain(|finding| finding.harmless);
    let (page, groups) = written(&files, findings);
    assert!(!groups.is_empty() && page.contains("<h1 class=\"good\">Nothing was lost"));
}

#[test]
fn strangers_text_is_shown_and_does_nothing() {
    let (mut files, mut findings) = examined(&["data-after-close.client"]);
    files[0].file = STRANGE.into();
    files[0].stopped = Some(STRANGE.into());
    for finding in &mut findings {
        (finding.file, finding.asked_name) = (STRANGE.into(), Some(STRANGE.into()));
        finding.ladder[0].note = Some(STRANGE.repeat(9));
        finding.evidence[0].says = crate::Claim::Text(STRANGE.into());
        finding.confidence = Confidence::Likely;
    }
    let (page, _) = written(&files, findings);
    assert_eq!(tags(&page).iter().filter(|(tag, _)| tag == "script").count(), 1);
    assert!(!page.contains("alert(1)</script>") && !page.contains('\u{202e}'));
    assert!(page.matches("&lt;script&gt;alert(1)&lt;/script&gt;&quot;").count() >= 6);
}

#[test]
fn no_script_but_this_one_may_run() {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = Sha256::digest(SCRIPT.as_bytes());
    let mut base64 = String::new();
    for part in digest.chunks(3) {
        let bits =
            part.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - part.len()));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            base64.push(if at <= part.len() { char::from(letter) } else { '=' });
        }
    }
    assert_eq!(SCRIPT_HASH, base64, "the SHA-256 of page.js, which the page's policy names");
}
