//! Names the container, pod and systemd unit of a process by its cgroup.
//!
//! The paths are those of Docker, containerd, CRI-O, Podman and the kubelet, with their cgroupfs and systemd drivers. They are
//! untrusted: whoever may create cgroups chooses their names.

use linger_untrusted::Untrusted;
use serde::Serialize;

use crate::namespace_id::NamespaceId;

/// What a cgroup's path says of the processes in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Workload {
    /// The container's id, 64 hexadecimal digits.
    pub container: Option<String>,
    /// The uid of the Kubernetes pod, in the form that the API server has it.
    pub pod: Option<String>,
    /// The innermost systemd service or scope that is no container.
    pub unit: Option<Untrusted>,
    /// The cgroup's path: the unified hierarchy's, or the first that says more than `/`.
    pub cgroup: Option<Untrusted>,
}

/// A place on this host: a network namespace, and the workload there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KnownPlace {
    /// The network namespace.
    pub namespace: NamespaceId,
    /// Whether that is the namespace of the watcher itself.
    pub is_own: bool,
    /// The namespace's name (`ip netns`, Docker), if it has one.
    pub name: Option<Untrusted>,
    /// The workload of the process concerned, or of a process in the namespace if none is known.
    pub workload: Option<Workload>,
}

impl KnownPlace {
    /// A place of which no more is known yet.
    pub(crate) fn new(namespace: NamespaceId) -> Self {
        Self { namespace, is_own: false, name: None, workload: None }
    }
}

/// Length of a container's id.
const ID: usize = 64;

impl Workload {
    /// The workload of a process, if it still exists and may be read.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        std::fs::read(format!("/proc/{pid}/cgroup")).ok().map(|text| Self::parse(&text))
    }

    /// Parses `/proc/PID/cgroup`: lines `ID:CONTROLLERS:PATH`, the unified hierarchy's with ID 0 and no controllers.
    fn parse(text: &[u8]) -> Self {
        let paths = || {
            text.split(|byte| *byte == b'\n').filter_map(|line| {
                let mut parts = line.splitn(3, |byte| *byte == b':');
                let (id, _, path) = (parts.next()?, parts.next()?, parts.next()?);
                Some((id == b"0", path))
            })
        };
        let unified = paths().find(|(unified, path)| *unified && *path != b"/");
        let Some((_, path)) = unified.or_else(|| paths().find(|(_, path)| *path != b"/")) else {
            return Self { cgroup: Some("/".into()), ..Self::default() };
        };
        let mut workload = Self { cgroup: Some(path.into()), ..Self::default() };
        // With cgroup v1 the hierarchies may differ: a container is one in any of them.
        for (_, path) in std::iter::once((true, path)).chain(paths()) {
            workload.read(path);
        }
        workload
    }

    fn read(&mut self, path: &[u8]) {
        let path = String::from_utf8_lossy(path);
        let mut unit = None;
        for part in path.split('/').flat_map(|part| part.split(':')) {
            if let Some(container) = container(part) {
                self.container.get_or_insert(container);
            } else if let Some(pod) = pod(part) {
                self.pod.get_or_insert(pod);
            } else if is_unit(part) {
                unit = Some(part.into());
            }
        }
        if self.unit.is_none() {
            self.unit = unit;
        }
    }
}

/// The container's id in one part of a path: `ID`, or `RUNTIME-ID.scope`.
fn container(part: &str) -> Option<String> {
    let stem = part.strip_suffix(".scope").unwrap_or(part);
    let id = stem.rsplit('-').next()?;
    let is_id = id.len() == ID && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // `crio-conmon-ID.scope` and `libpod-conmon-ID.scope` are the container's monitor, outside of it.
    (is_id && !stem.contains("conmon-")).then(|| id.to_owned())
}

/// The pod's uid in one part of a path: `podUID`, or `kubepods-QOS-podUID.slice`, where systemd wants `_` for `-`.
fn pod(part: &str) -> Option<String> {
    let stem = part.strip_suffix(".slice").unwrap_or(part);
    let uid = if stem.contains("kubepods-") {
        stem.rsplit('-').next()?.strip_prefix("pod")?.replace('_', "-")
    } else {
        stem.strip_prefix("pod")?.to_owned()
    };
    // A uid of the API server, or the hash of a static pod's manifest.
    let is_uid =
        matches!(uid.len(), 32 | 36) && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

fn is_unit(part: &str) -> bool {
    [".service", ".scope"].iter().any(|suffix| part.len() > suffix.len() && part.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: &str = "3f1a9c0d5e7b2468ace013579bdf02468ace13579bdf02468ace13579bdf0246";
    const P: &str = "0f8a7c52-1d3e-4b6a-9c55-2f1e0d9b8a77";

    /// A `/proc/PID/cgroup`, then container, pod and unit.
    type Sample = (&'static str, String, Option<&'static str>, Option<&'static str>, Option<&'static str>);

    fn samples() -> Vec<Sample> {
        let p_ = P.replace('-', "_");
        vec![
            ("docker, v1", format!("12:pids:/docker/{C}\n1:name=systemd:/docker/{C}\n"), Some(C), None, None),
            ("docker, v2, systemd", format!("0::/system.slice/docker-{C}.scope\n"), Some(C), None, None),
            ("docker, v2, cgroupfs", format!("0::/docker/{C}\n"), Some(C), None, None),
            (
                "docker in a service of its own slice",
                format!("0::/system.slice/containerd.service/docker/{C}\n"),
                Some(C),
                None,
                Some("containerd.service"),
            ),
            (
                "containerd, kubelet, v2, systemd",
                format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{p_}.slice/cri-containerd-{C}.scope\n"),
                Some(C),
                Some(P),
                None,
            ),
            (
                "containerd, kubelet, v2, systemd, guaranteed",
                format!("0::/kubepods.slice/kubepods-pod{p_}.slice/cri-containerd-{C}.scope\n"),
                Some(C),
                Some(P),
                None,
            ),
            (
                "containerd, kubelet, v1, cgroupfs",
                format!("11:memory:/kubepods/besteffort/pod{P}/{C}\n1:name=systemd:/kubepods/besteffort/pod{P}/{C}\n"),
                Some(C),
                Some(P),
                None,
            ),
            (
                "containerd, v1, systemd, as runc names it",
                format!("9:cpu,cpuacct:/system.slice/containerd.service/kubepods-burstable-pod{p_}.slice:cri-containerd:{C}\n"),
                Some(C),
                Some(P),
                Some("containerd.service"),
            ),
            (
                "cri-o, v2, systemd",
                format!("0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{p_}.slice/crio-{C}.scope/container\n"),
                Some(C),
                Some(P),
                None,
            ),
            (
                "cri-o's monitor is not in the container",
                format!("0::/system.slice/crio-conmon-{C}.scope\n"),
                None,
                None,
                Some("crio-conmon-3f1a9c0d5e7b2468ace013579bdf02468ace13579bdf02468ace13579bdf0246.scope"),
            ),
            (
                "a static pod",
                format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podb2d9c4f1e0a7485396c1d2e3f4a5b6c7.slice/cri-containerd-{C}.scope\n"),
                Some(C),
                Some("b2d9c4f1e0a7485396c1d2e3f4a5b6c7"),
                None,
            ),
            (
                "kind: a node that is a container",
                format!("0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{p_}.slice/cri-containerd-{C}.scope\n"),
                Some(C),
                Some(P),
                None,
            ),
            (
                "podman, rootless",
                format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{C}.scope/container\n"),
                Some(C),
                None,
                Some("user@1000.service"),
            ),
            ("a service", "0::/system.slice/nginx.service\n".into(), None, None, Some("nginx.service")),
            (
                "a service, hybrid",
                "5:memory:/system.slice/nginx.service\n1:name=systemd:/system.slice/nginx.service\n0::/system.slice/nginx.service\n"
                    .into(),
                None,
                None,
                Some("nginx.service"),
            ),
            (
                "a user's session",
                "0::/user.slice/user-1000.slice/session-3.scope\n".into(),
                None,
                None,
                Some("session-3.scope"),
            ),
            ("no cgroup of its own", "0::/\n".into(), None, None, None),
            ("not one hexadecimal digit too few", format!("0::/docker/{}\n", &C[1..]), None, None, None),
            ("a pod that is none", "0::/podcast/podium.slice\n".into(), None, None, None),
        ]
    }

    #[test]
    fn paths_of_the_runtimes_are_understood() {
        for (name, text, container, pod, unit) in samples() {
            let workload = Workload::parse(text.as_bytes());
            assert_eq!(workload.container.as_deref(), container, "{name}");
            assert_eq!(workload.pod.as_deref(), pod, "{name}");
            assert_eq!(workload.unit, unit.map(Untrusted::from), "{name}");
        }
    }

    #[test]
    fn odd_files_are_no_workload() {
        for text in ["", "\n", "0:", "0::", "::/", "0::/\u{1b}[2J.service\n"] {
            let workload = Workload::parse(text.as_bytes());
            assert_eq!((workload.container, workload.pod), (None, None), "{text:?}");
        }
    }
}
