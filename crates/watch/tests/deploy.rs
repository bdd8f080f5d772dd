//! Checks the files in `deploy/` with the programs they are meant for. The dashboard is checked in `prometheus.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use linger_testing::skip;

const PODS: [&str; 2] = ["deploy/linger-watch.daemonset.yaml", "deploy/linger-watch-record.daemonset.yaml"];

const SENDING_POD: &str = "deploy/linger-watch-otlp.daemonset.yaml";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn systemd_understands_the_unit() {
    let unit = std::fs::read_to_string(root().join("deploy/linger-watch.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/linger watch --prometheus"), "{unit}");
    // The program is not installed here; use any other that exists.
    let unit = unit.replace("/usr/bin/linger ", "/bin/true ");
    let folder = std::env::temp_dir().join(format!("linger-watch-unit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("linger-watch.service");
    std::fs::write(&file, unit).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
    let _ = std::fs::remove_dir_all(&folder);
    let Ok(output) = output else { return skip("systemd", "systemd-analyze is not installed") };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("linger-watch.service"), "{said}");
}

#[test]
fn kubernetes_understands_the_daemon_set() {
    let program = root().join("target/peers/python/bin/kubernetes-validate");
    for name in PODS.iter().chain(&[SENDING_POD]) {
        let output = Command::new(&program).arg("--strict").arg(root().join(name)).output();
        let Ok(output) = output else {
            return skip("kubernetes-validate", "it is not installed");
        };
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("daemonset/linger-watch"), "{name}: {said}");
    }
}

/// The pod that records is the other one, with what recording takes and nothing else.
#[test]
fn the_pod_that_records_has_one_right_more() {
    let [plain, recording] = PODS.map(|name| std::fs::read_to_string(root().join(name)).unwrap());
    let of = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_owned).collect()
    };
    let (plain, recording) = (of(&plain), of(&recording));
    let only = |lines: &[String], others: &[String]| -> Vec<String> {
        lines.iter().filter(|line| !others.contains(line)).map(|line| line.trim().to_owned()).collect()
    };
    let removed = only(&plain, &recording);
    let recorded: Vec<String> = removed
        .iter()
        .map(|line| match line.strip_suffix("\"NET_BROADCAST\"]") {
            Some(rights) => format!("{rights}\"NET_BROADCAST\", \"NET_RAW\"]"),
            None if line.starts_with("limits:") => line.replace("128Mi", "256Mi"),
            None => line
                .replace("9464\"]", "9464\", \"--record\", \"/var/lib/linger-watch\", \"--keep\", \"1GiB\"]"),
        })
        .collect();
    let added = only(&recording, &plain);
    assert_eq!(removed.len(), 3, "{removed:?}");
    assert!(recorded.iter().all(|line| added.contains(line)), "{added:?}");
    let rest: Vec<_> = added.iter().filter(|line| !recorded.contains(line)).collect();
    let is_of_records = |line: &&&String| line.contains("records") || line.contains("/var/lib/linger-watch");
    assert!(rest.len() == 3 && rest.iter().all(|line| is_of_records(&line)), "{rest:?}");
}

/// To send to a collector takes no further right of the pod, nor of the unit.
#[test]
fn what_sends_to_a_collector_has_no_right_more() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (plain, sending) = (read(PODS[0]), read(SENDING_POD));
    let command = "\"--prometheus\", \"127.0.0.1:9464\"";
    let plain = plain.replace(command, &format!("{command}, \"--otlp\""));
    let is_known = |line: &&str| plain.lines().any(|known| known == *line) || line.starts_with('#');
    let added: Vec<&str> = sending.lines().filter(|line| !is_known(line)).map(str::trim).collect();
    let of_environment = |line: &str| {
        line.contains("env:") || line.contains("name: ") || line.starts_with("valueFrom: {fieldRef")
    };
    let is_harmless = |line: &&str| {
        of_environment(line) || line.contains("dnsPolicy") || line.contains("names of the cluster")
    };
    assert!(added.iter().all(is_harmless) && added.len() == 9, "{added:?}");
    assert!(
        sending.contains("OTEL_EXPORTER_OTLP_ENDPOINT, value: \"http://$(NODE_ADDRESS):4318\""),
        "{sending}"
    );
    let drop_in = read("deploy/linger-watch-otlp.conf");
    let settings: Vec<&str> = drop_in.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let settings: Vec<&str> = settings.into_iter().filter(|name| !name.starts_with('#')).collect();
    assert_eq!(settings, ["ExecStart", "ExecStart", "Environment", "EnvironmentFile"]);
}

/// Under the `kernel.perf_event_paranoid` of Debian and Ubuntu CAP_PERFMON is not enough, and many processors need
/// more locked memory than the defaults allow.
#[test]
fn both_are_made_for_debian_ubuntu_and_many_processors() {
    let unit = std::fs::read_to_string(root().join("deploy/linger-watch.service")).unwrap();
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    for key in ["CapabilityBoundingSet=", "AmbientCapabilities="] {
        let capabilities: Vec<&str> = value(key).split(' ').collect();
        assert!(capabilities.contains(&"CAP_SYS_ADMIN") && capabilities.contains(&"CAP_PERFMON"), "{key}");
    }
    assert_eq!(value("LimitMEMLOCK="), "infinity");
    let pod = std::fs::read_to_string(root().join("deploy/linger-watch.daemonset.yaml")).unwrap();
    let added = pod.lines().find_map(|line| line.trim().strip_prefix("add: ")).unwrap();
    assert!(added.contains("\"SYS_ADMIN\"") && added.contains("\"IPC_LOCK\""), "{added}");
    // Kubernetes' API refuses a container that has both.
    assert!(!pod.lines().any(|line| line.trim() == "allowPrivilegeEscalation: false"));
}
