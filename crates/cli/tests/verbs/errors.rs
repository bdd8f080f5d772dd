//! Files and addresses that cannot be used: what every verb says of them, and its exit status.

use std::fs;
use std::io::BufRead as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use linger_testing::skip;

use crate::common::share::Share;

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Runs the program in `folder` as `user`, and compares its message and its status with the expected ones.
#[track_caller]
fn says(program: &Path, folder: &Path, user: Option<u32>, words: &str, status: i32, said: &str) {
    let mut command = Command::new(program);
    command.args(words.split(' ')).current_dir(folder).env("HOME", folder).env_remove("XDG_CONFIG_HOME");
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains(said), "linger {words}: {complaint}");
    assert_eq!(output.status.code(), Some(status), "linger {words}: {complaint}");
    assert!(output.stdout.is_empty(), "linger {words}: {}", String::from_utf8_lossy(&output.stdout));
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("dir")).unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    fs::write(folder.path().join("text"), "10:00:00 IP 192.0.2.1 > 192.0.2.2: Flags [R]").unwrap();
    fs::write(folder.path().join("binary"), [0x7f, 0xff, 0xfe, 0]).unwrap();
    folder
}

#[test]
fn a_capture_that_cannot_be_read_is_named_with_what_to_do() {
    let folder = folder();
    let says = |words: &str, said: &str| says(Path::new(LINGER), folder.path(), None, words, 3, said);
    says(
        "why none.pcap",
        "linger: none.pcap: cannot be opened: No such file or directory (os error 2); is the path right?",
    );
    says("why dir", "linger: dir: cannot be opened: no capture is in it; is the path right?");
    says("why empty", "linger: empty: is empty");
    says("why -", "linger: -: is empty");
    says("why text", "it begins with the text \"10:0\"); tcpdump and tshark write one with -w");
    says("why binary", "it begins with 7f ff fe 00)");
    says(
        "why text --html none/page.html",
        "cannot write none/page.html: no file can be made in none: No such file",
    );
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_to_do() {
    let folder = folder();
    let says = |words: &str, status: i32, said: &str| {
        says(Path::new(LINGER), folder.path(), None, words, status, said)
    };
    says("lab none.toml", 3, "cannot read none.toml: No such file");
    says("lab dir", 3, "cannot read dir: Is a directory (os error 21); name a file");
    says("lab binary", 3, "cannot read binary: stream did not contain valid UTF-8; name a text file");
    says("lab --link lan --pcap none", 3, "cannot write to none: No such file");
    says("lab --link lan --decisions text", 3, "cannot write to text: not a directory");
    says(
        "lab exec --server true --client true --pcap none/x",
        3,
        "cannot write none/x: no file can be made in none: No such file",
    );
    says("probe tcp://127.0.0.1:1 --payload none", 3, "cannot read none: No such file");
    says("probe http://192.0.2.1/ --method POST", 2, "if it may be asked, say --active");
    says("probe http://192.0.2.1/ --method POST --dry-run", 2, "may change something at a server");
    says("probe http://192.0.2.1/ --method HEAD", 2, "the response to HEAD has no body");
    says("probe http://192.0.2.1/ --header Host", 2, "write NAME: VALUE");
    says("probe http://192.0.2.1/ --connect-to ::1:80", 2, "an IPv6 address in brackets");
    says("probe http://192.0.2.1/ --resolve x:80:y", 2, "the address is none: a name is for --connect-to");
    says(
        "probe http://192.0.2.1/ --proxy socks5://192.0.2.2:1080",
        2,
        "only proxies that speak HTTP are known",
    );
    says("probe fcgi://192.0.2.1/x --proxy 192.0.2.2:3128", 2, "that is for http:// and https://");
    says("probe http://192.0.2.1/ --proxy 127.0.0.1:3128 --hostile", 2, "--i-own-this-server");
    says("probe http://192.0.2.1/ --only reload", 2, "with --reload COMMAND or --pid PID:SIGNAL");
    says("probe http://192.0.2.1/ --reload true --pid 1:HUP", 2, "name one of them");
    says("probe http://192.0.2.1/ --pid 1:KILL", 2, "`KILL` is no signal by which a server is told");
    says("probe http://192.0.2.1/ --pid 0:HUP", 2, "`0` is no pid");
    says("probe http://me:secret@192.0.2.1/", 2, "a name and a password do not belong in it");
    says("probe tcp://127.0.0.1:1 --payload empty", 2, "--payload: empty is empty");
    says(
        "probe tcp://127.0.0.1:1 --payload /dev/zero",
        2,
        "--payload: /dev/zero has more than 16777216 bytes",
    );
    says("fcgi get 127.0.0.1:1 /x --body none", 3, "cannot read none: No such file");
    says("fcgi serve --root none --listen 127.0.0.1:0", 3, "cannot serve none: No such file");
    says("fcgi serve --root text --listen 127.0.0.1:0", 3, "cannot serve text: Not a directory");
    says("fcgi serve --echo --listen unix:none/socket", 3, "unix:none/socket: No such file");
    says("share none", 3, "cannot open the directory none: No such file");
    says("share dir --config none", 2, "cannot read none: No such file");
    says("share dir --config text", 2, "text: TOML parse error");
    says(
        "put text 127.0.0.1: --receipt none/r",
        2,
        "cannot write none/r: no file can be made in none: No such file",
    );
    says("put text 127.0.0.1: --exclude-from none", 2, "cannot read none: No such file");
    says("put text 127.0.0.1: --tls --code-file none", 2, "cannot read none: No such file");
    says("receipt verify none text", 2, "cannot read none: No such file");
    says("receipt verify dir text", 2, "cannot read dir: Is a directory");
    says("receipt verify binary text", 2, "cannot read binary: ");
    says("receipt verify empty text", 2, "empty has no receipt in it");
    says("man none", 3, "cannot write to none: No such file");
}

#[test]
fn an_address_in_use_is_status_3_and_said() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for verb in ["server --listen", "fcgi serve --echo --listen", "share dir --listen"] {
        let said = format!(
            "cannot listen on {address}: Address already in use (os error 98); another program has it"
        );
        says(Path::new(LINGER), folder.path(), None, &format!("{verb} {address}"), 3, &said);
    }
    let words = format!("run --metrics {address} -- true");
    says(Path::new(LINGER), folder.path(), None, &words, 3, "Address already in use");
}

#[test]
fn what_a_user_may_not_is_said_so() {
    let folder = folder();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // Root may do everything. So root runs the test as user 65534, with a copy of the program that this user
    // can reach.
    let (program, user) = if rustix::process::getuid().is_root() {
        let copy = folder.path().join("linger");
        fs::copy(LINGER, &copy).unwrap();
        open(folder.path(), 0o755);
        (copy, Some(65_534))
    } else {
        (LINGER.into(), None)
    };
    if user.is_some()
        && !Command::new(&program)
            .uid(65_534)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    {
        return skip("temporary files for all", "nobody cannot reach the directory for temporary files");
    }
    open(&folder.path().join("text"), 0);
    open(&folder.path().join("dir"), if user.is_some() { 0o700 } else { 0o500 });
    let says =
        |words: &str, status: i32, said: &str| says(&program, folder.path(), user, words, status, said);
    let denied = "Permission denied (os error 13)";
    says("why text", 3, &format!("text: cannot be opened: {denied}; read it as a user who may"));
    if user.is_some() {
        // Without root the lab runs in a user namespace, where its owner may do everything with his own
        // files.
        says("lab text", 3, &format!("cannot read text: {denied}; `namei -l` of the path says who may"));
        says("lab --link lan --pcap dir", 3, &format!("cannot write to dir: {denied}"));
    }
    says("probe tcp://127.0.0.1:1 --payload text", 3, &format!("cannot read text: {denied}; `namei"));
    says("fcgi serve --echo --listen unix:dir/socket", 4, &format!("unix:dir/socket: {denied}; ports below"));
    says("receipt verify text binary", 2, &format!("cannot read text: {denied}"));
    says(
        "why empty --html dir/page.html",
        3,
        &match user {
            Some(_) => format!("cannot write dir/page.html: {denied}"),
            // His own directory can be entered.
            None => format!("cannot write dir/page.html: no file can be made in dir: {denied}"),
        },
    );
}

/// The counter-example is one field away: an input that is there and empty is sent.
#[test]
fn a_standard_stream_that_is_closed_is_neither_read_nor_written() {
    let place = tempfile::tempdir().unwrap();
    let shared = place.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("there"), b"content").unwrap();
    let share = Share::new(place.path(), &shared, &["--insecure-loopback"]);
    let run = |words: &str, streams: &str| {
        let script =
            format!("exec \"$0\" {words} {streams}").replace("HOST", &format!("127.0.0.1:{}", share.port));
        let output = Command::new("sh")
            .args(["-c", &script, LINGER])
            .env("XDG_CONFIG_HOME", place.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, told) = run("put - HOST:new", "<&-");
    assert!(status == Some(2) && told.contains("standard input is closed"), "{status:?} {told}");
    assert!(!shared.join("new").exists());
    let (status, told) = run("get HOST:there -", ">&-");
    assert!(status == Some(2) && told.contains("standard output is closed"), "{status:?} {told}");
    let (status, told) = run("put - HOST:new", "</dev/null");
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(fs::read(shared.join("new")).unwrap(), b"");
}

/// A `get` may write where it receives and nowhere else (Landlock): that is where a link leads, not where it lies.
#[test]
fn a_link_to_a_directory_is_received_into() {
    let place = tempfile::tempdir().unwrap();
    let (shared, real, near) =
        (place.path().join("shared"), place.path().join("real"), place.path().join("near"));
    [&shared, &real, &near].into_iter().for_each(|directory| fs::create_dir(directory).unwrap());
    fs::write(shared.join("there"), b"content").unwrap();
    let share = Share::new(place.path(), &shared, &["--insecure-loopback"]);
    for (name, leads) in [("absolute", "REAL"), ("relative", "../real"), ("chain", "absolute")] {
        let leads = leads.replace("REAL", real.to_str().unwrap());
        std::os::unix::fs::symlink(leads, near.join(name)).unwrap();
        let output = Command::new(LINGER)
            .args(["get", &format!("127.0.0.1:{}:there", share.port), name])
            .current_dir(&near)
            .env("XDG_CONFIG_HOME", place.path().join("keys"))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{name}: {told}");
        assert_eq!(fs::read(real.join("there")).unwrap(), b"content", "{name}");
        assert!(fs::symlink_metadata(near.join(name)).unwrap().is_symlink(), "{name} is still a link");
        fs::remove_file(real.join("there")).unwrap();
    }
}

/// A directory of this user's in one of somebody else's, such as a home, is received into, once and again; and for a directory
/// that is somebody else's, a large file is refused before its first byte.
#[test]
fn a_directory_of_ones_own_is_received_into_wherever_it_lies() {
    let place = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let (shared, others) = (place.path().join("shared"), place.path().join("others"));
    let mine = others.join("mine");
    fs::create_dir_all(shared.join("tree")).unwrap();
    fs::create_dir_all(&mine).unwrap();
    fs::write(shared.join("tree/small"), b"x").unwrap();
    let content: Vec<u8> = (0..3 << 20).map(|number: u32| (number / 1000) as u8).collect();
    fs::write(shared.join("tree/large"), &content).unwrap();
    let (program, user) = if rustix::process::getuid().is_root() {
        let copy = place.path().join("linger");
        fs::copy(LINGER, &copy).unwrap();
        open(place.path(), 0o755);
        std::os::unix::fs::chown(&mine, Some(65_534), None).unwrap();
        (copy, Some(65_534))
    } else {
        (LINGER.into(), None)
    };
    open(&others, 0o555);
    let share = Share::new(&place.path().join("keys"), &shared, &["--insecure"]);
    let get = |words: &str| {
        let mut command = Command::new(&program);
        let words = words.replace("HOST", &format!("127.0.0.1:{}", share.port));
        command.args(words.split(' ')).current_dir(&others).env("XDG_CONFIG_HOME", &mine);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let output = command.stdin(Stdio::null()).output();
        let output = match output {
            Err(error) if user.is_some() => return Err(error.to_string()),
            output => output.unwrap(),
        };
        Ok((output.status.code(), String::from_utf8(output.stderr).unwrap()))
    };
    for words in ["get --insecure HOST:tree mine", "get --insecure --replace HOST:tree mine"] {
        match get(words) {
            Ok(done) => assert_eq!(done, (Some(0), String::new()), "{words}"),
            Err(why) => return skip("temporary files for all", &why),
        }
        assert!(fs::read(mine.join("large")).unwrap() == content);
        let mut names: Vec<_> =
            fs::read_dir(&mine).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["large", "small"], "nothing is left over");
        fs::write(shared.join("tree/large"), [&content[..], b"more"].concat()).unwrap();
        fs::write(shared.join("tree/large"), &content).unwrap();
    }
    let (status, told) = get("get --insecure HOST:tree/large .").unwrap();
    assert_eq!(status, Some(1));
    assert!(told.contains("cannot write into the directory of large: Permission denied"), "{told}");
    open(&others, 0o755);
}

/// What to do is told to whoever asked, and not to whoever shares.
#[test]
fn a_share_tells_no_remedies_that_are_for_the_other_side() {
    let place = tempfile::tempdir().unwrap();
    let mut share = Command::new(LINGER)
        .args(["share", "--once", "--insecure-loopback", "--listen", "127.0.0.1:0", "."])
        .current_dir(place.path())
        .env("XDG_CONFIG_HOME", place.path().join("keys"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(share.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.next().unwrap();
    let address = address.split_whitespace().last().unwrap();
    let output = Command::new(LINGER)
        .args(["get", &format!("{address}:gone"), "there"])
        .current_dir(place.path())
        .env("XDG_CONFIG_HOME", place.path().join("keys"))
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("cannot find gone") && told.contains("\nhint: "), "{told}");
    let told: Vec<_> = lines.collect();
    assert_eq!(share.wait().unwrap().code(), Some(1));
    assert!(told.iter().any(|line| line.contains("ended early: cannot find gone")), "{told:?}");
    assert!(!told.iter().any(|line| line.contains("hint")), "{told:?}");
}
