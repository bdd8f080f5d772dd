use super::*;
use crate::expectation::Share;

const GOOD: &str = r#"
title = "t"
[[host]]
name = "application"
run = "exec app"
ready = { port = 9002, within = "5s" }
sysctl = { "net.ipv4.tcp_syncookies" = 0 }
files = { "app.py" = "print()" }
[[host]]
name = "gateway"
run = "exec gate"
ready = { line = "up" }
[[host]]
name = "client"
[[link]]
between = ["client", "gateway"]
base = "lan"
[[link]]
between = ["gateway", "application"]
to-client = { delay = "5ms" }
[client]
run = "curl http://gateway/"
response = "67k"
requests = 20
[expect]
verdicts = { lost = "most" }
counters = { application = { ListenOverflows = "some", TCPAbortOnClose = 0 } }
why = { causes = ["data-after-close"], agrees-with-kernel = true }
"#;

#[test]
fn a_scenario_becomes_hosts_and_links() {
    assert!(NetworkPlan::is_in(GOOD) && !NetworkPlan::is_in("title = \"host\"\n[link]\nhost = 1\n"));
    let plan = NetworkPlan::parse("good.toml", GOOD).unwrap();
    let names: Vec<&str> = plan.hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["application", "gateway", "client"]);
    let [lan, slow] = &plan.links[..] else { panic!() };
    assert_eq!((lan.ends, slow.ends), ([1, 2], [0, 1]), "the server side stands first");
    assert_eq!((lan.link.name.as_str(), slow.link.name.as_str()), ("client-gateway", "gateway-application"));
    assert_eq!(slow.link.paths[0].delay, Duration::from_millis(5), "towards the client side");
    assert_eq!(slow.link.paths[1].delay, Duration::ZERO);
    let [application, gateway, _] = &plan.hosts[..] else { panic!() };
    let program = application.program.as_ref().unwrap();
    assert_eq!((&program.ready, program.within), (&Readiness::Listens(Some(9002)), Duration::from_secs(5)));
    assert_eq!(gateway.program.as_ref().unwrap().ready, Readiness::Says("up".to_owned()));
    assert_eq!(application.settings["net.ipv4.tcp_syncookies"], "0");
    assert_eq!((plan.client.host, plan.client.response, plan.client.requests), (2, 67_000, 20));
    let expected = Expectation::Each { lost: Some(Share::Most), at_risk: None };
    assert_eq!(plan.expect.verdicts, Some(expected));
    let counted = &plan.expect.counters["application"];
    assert_eq!((counted["ListenOverflows"], counted["TCPAbortOnClose"]), (Amount::Some, Amount::Exactly(0)));
    assert!(plan.expect.why.unwrap().agrees);
}

/// A mistake, and what its message must contain.
fn refused(from: &str, to: &str, contains: &[&str]) {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD);
    let error = NetworkPlan::parse("bad.toml", &text).unwrap_err();
    for part in ["bad.toml"].iter().chain(contains) {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn a_mistake_is_named_with_file_line_and_key() {
    refused(
        "[\"client\", \"gateway\"]",
        "[\"client\", \"gatway\"]",
        &["line 16", "between", "`gatway`", "application, gateway, client"],
    );
    refused("[\"client\", \"gateway\"]", "[\"client\"]", &["line 15", "`between` names the two hosts"]);
    refused("between = [\"client\", \"gateway\"]", "", &["line 15", "`between` names the two hosts"]);
    refused("[\"client\", \"gateway\"]", "[\"client\", \"client\"]", &["line 15", "joins two hosts"]);
    refused(
        "[client]",
        "[[link]]\nbetween = [\"application\", \"gateway\"]\n[client]",
        &["line 21", "have a link already (bad.toml, line 18)"],
    );
    refused(
        "[client]",
        "[[link]]\nbetween = [\"client\", \"application\"]\n[client]",
        &["line 21", "two ways"],
    );
    refused(
        "[client]",
        "[[host]]\nname = \"db\"\n[client]",
        &["line 22", "no link leads from `application` to `db`"],
    );
    refused("\"gateway\"\nrun", "\"application\"\nrun", &["line 10", "two hosts are called"]);
    refused("\"application\"", "\"Appl ication\"", &["line 4", "no host's name"]);
    refused("\"application\"", "\"upload\"", &["line 4", "none of localhost"]);
    refused("tcp_syncookies", "ip_forward", &["line 7", "ip_forward", "tcp_abort_on_overflow"]);
    refused("cookies\" = 0", "cookies\" = \"1; reboot\"", &["line 7", "whole number"]);
    refused("\"app.py\"", "\"../app.py\"", &["line 8", "no slash"]);
    refused("sysctl", "user = \"no such\"\nsysctl", &["line 7", "`user`", "no user of this machine"]);
    refused("port = 9002", "port = 0", &["line 6", "1 to 65535, not 0"]);
    refused("port = 9002", "port = 90020", &["line 6", "1 to 65535, not 90020"]);
    refused("port = 9002", "line = \"x\", port = 9002", &["line 6", "not both"]);
    refused("run = \"exec gate\"", "", &["line 12", "`ready`", "`run`"]);
    refused("name = \"client\"", "name = \"user\"", &["between"]);
    refused("[client]", "[client]\nhost = \"usr\"", &["line 22", "`host`", "`usr`"]);
    refused("requests = 20", "requests = 0", &["line 24", "requests", "1 to 10000"]);
    refused("\"67k\"", "0", &["response", "none can be lost"]);
    refused("application = { ListenO", "applikation = { ListenO", &["line 27", "applikation"]);
    refused("\"some\"", "\"any\"", &["line 27", "none, some, or a whole number"]);
    refused("[\"data-after-close\"]", "[]", &["line 28", "causes"]);
    refused("base = \"lan\"", "base = \"loopback\"", &["line 15", "no wire"]);
    refused("base = \"lan\"", "base = \"lann\"", &["line 15", "lann"]);
    refused("base = \"lan\"", "los = 0.1", &["line 17", "los"]);
}

#[test]
fn hosts_are_bounded() {
    let many: String = (0..6).map(|number| format!("[[host]]\nname = \"h{number}\"\n")).collect();
    refused("[[link]]", &format!("{many}[[link]]"), &["one host too many", "at most 8"]);
}

#[test]
fn a_cell_has_no_link_between_hosts() {
    let text = "title = \"t\"\nending = \"close\"\npeer = \"unread\"\n[link]\nbetween = [\"a\", \"b\"]\n";
    let error = crate::Scenario::parse("bad.toml", text).unwrap_err();
    assert!(error.contains("no `[[host]]`"), "{error}");
}
