//! An assignment on its way from one process to another, which here are one.

use std::os::unix::net::UnixStream;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::*;
use crate::Place;
use crate::kernel::own_pidfd;

fn pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// Options that differ from the usual ones wherever they are sent.
fn options() -> Options {
    let mut options = Options::default();
    options.policy.total = Duration::from_millis(1_234);
    options.policy.idle = Duration::from_millis(567);
    options.budget.sockets = 99;
    options.linger_at_exit = Duration::from_millis(89);
    options.manner = "json".to_owned();
    options.ports = vec![80, 443];
    options.exclude_ports = vec![443];
    options
}

fn parts(options: &Options, metrics: Option<TcpListener>) -> Parts {
    let address = Address::new().unwrap();
    let library = Preload::unpack(&address.name, address.token, 3, options).unwrap();
    let way: Arc<Way> = library.into();
    let means = Means::new(std::process::id(), 3, way.mark(), options);
    Parts { limit: getrlimit(Resource::Nofile), address, metrics, way, means, watch: None }
}

fn inode(fd: impl AsFd) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

#[test]
fn what_is_sent_arrives() {
    let (ours, theirs) = pair();
    let (options, metrics) = (options(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = metrics.local_addr().unwrap();
    let parts = parts(&options, Some(metrics));
    let program = own_pidfd().unwrap();
    send(ours.as_fd(), program.as_fd(), &parts, &options).unwrap();
    let got = receive(theirs.as_fd()).unwrap();
    assert_eq!((got.options.policy, got.options.budget), (options.policy, options.budget));
    assert_eq!((got.options.linger_at_exit, &*got.options.manner), (options.linger_at_exit, "json"));
    assert_eq!((&*got.options.ports, &*got.options.exclude_ports), (&[80, 443][..], &[443][..]));
    assert_eq!(
        (&got.parts.address.name, got.parts.address.token),
        (&parts.address.name, parts.address.token)
    );
    assert_eq!(inode(got.parts.address.listener()), inode(parts.address.listener()));
    assert_eq!((inode(&got.program), inode(&got.stderr)), (inode(&program), inode(io::stderr())));
    assert_eq!(got.parts.metrics.unwrap().local_addr().unwrap(), address);
    assert_eq!((got.parts.means.root, got.parts.means.filters), (std::process::id(), 3));
    assert_eq!(got.parts.way.mark(), parts.way.mark());
    // The receiver removes what the sender has unpacked, by fds: it may see another file system.
    let directory = std::path::PathBuf::from(parts.way.preload().unwrap().name());
    assert!(directory.join("liblinger_preload.so").exists());
    got.parts.way.remove();
    assert!(!directory.exists());
}

#[test]
fn without_metrics_no_listener_is_sent() {
    let (ours, theirs) = pair();
    let options = options();
    let parts = parts(&options, None);
    send(ours.as_fd(), own_pidfd().unwrap().as_fd(), &parts, &options).unwrap();
    assert!(receive(theirs.as_fd()).unwrap().parts.metrics.is_none());
}

#[test]
fn what_cannot_be_sent_is_said() {
    let (ours, _theirs) = pair();
    let (mut options, program) = (options(), own_pidfd().unwrap());
    let own = parts(&options, None);
    options.manner = "x".repeat(LONGEST);
    let error = send(ours.as_fd(), program.as_fd(), &own, &options).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let (way, watch) = (Arc::new(Way::Seccomp(Arc::default())), None);
    let seccomp = Parts { way, watch, ..own };
    let error = send(ours.as_fd(), program.as_fd(), &seccomp, &Options::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
}

/// The supervisor of a program with a filter gets the other end of the filter's socket, and tries first whether it may supervise.
#[test]
fn a_filter_takes_the_place_of_the_library() {
    let _turn = crate::turns::minds_processes();
    let (ours, theirs) = pair();
    let options = options();
    let mut own = parts(&options, None);
    own.way = Arc::new(Way::Seccomp(Arc::default()));
    let mut command = std::process::Command::new("/bin/true");
    let watch = Watch::new(&mut command, &options, own.limit, Place::Itself, 3).unwrap();
    own.watch = Some(watch);
    send(ours.as_fd(), own_pidfd().unwrap().as_fd(), &own, &options).unwrap();
    let got = receive(theirs.as_fd()).unwrap();
    assert!(got.parts.watch.is_some() && got.parts.way.preload().is_none());
    // Which address there is something at the program's starter says: another can lie.
    let lies = |words: &mut serde_json::Value| {
        words["library"] = serde_json::Value::Null;
        words["watch"] = own.watch.as_ref().unwrap().lend().unwrap().1;
        words["watch"]["something"] = 0.into();
    };
    assert_eq!(forged(lies, 5).err().unwrap().raw_os_error(), Some(libc::EFAULT));
    let both = |words: &mut serde_json::Value| words["watch"] = true.into();
    assert!(forged(both, 5).err().unwrap().to_string().contains("either"));
}

/// A message as it is sent, of which a stranger has changed one thing.
fn forged(change: impl FnOnce(&mut serde_json::Value), fds: usize) -> io::Result<Assignment> {
    let (ours, theirs) = pair();
    let options = options();
    let parts = parts(&options, None);
    send(ours.as_fd(), own_pidfd()?.as_fd(), &parts, &options)?;
    let mut text = [0; LONGEST];
    let length = rustix::net::recv(&theirs, &mut text[..], RecvFlags::empty())?.0;
    let mut words: serde_json::Value = serde_json::from_slice(&text[..length])?;
    change(&mut words);
    let text = serde_json::to_vec(&words)?;
    let lent = [own_pidfd()?, own_pidfd()?, own_pidfd()?, own_pidfd()?, own_pidfd()?];
    let lent: Vec<_> = lent.iter().take(fds).map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&lent)));
    rustix::net::sendmsg(&ours, &[IoSlice::new(&text)], &mut control, SendFlags::empty())?;
    receive(theirs.as_fd())
}

#[test]
fn what_a_stranger_sends_is_refused() {
    assert!(forged(|_| {}, 5).is_ok());
    let refused = |change: fn(&mut serde_json::Value), fds| match forged(change, fds) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was taken"),
    };
    assert!(refused(|_| {}, 4).contains("an fd is missing"));
    assert!(refused(|words| words["scraped"] = true.into(), 5).contains("an fd is missing"));
    assert!(refused(|words| words["version"] = "0.0.0".into(), 5).contains("another version"));
    assert!(refused(|words| words["more"] = 1.into(), 5).contains("unknown field"));
    assert!(refused(|words| words["library"] = "/etc/passwd".into(), 5).contains("unpacked"));
    let policy = |words: &mut serde_json::Value| words["policy"]["idle"] = words["policy"]["total"].clone();
    assert!(forged(policy, 5).is_ok(), "the same time is no contradiction");
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::io::write(&ours, b"no assignment").unwrap();
    assert!(receive(theirs.as_fd()).is_err());
}
