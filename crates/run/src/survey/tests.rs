//! When the program is looked at, which of its processes are found, and what is said of them.

use std::net::TcpListener;
use std::os::fd::AsFd;

use super::*;
use crate::ProgramKind;

/// The pauses between looks that show nothing new, until `end`.
fn pauses(pace: &mut SurveyPauses, mut now: Instant, end: Duration, listens: Option<u64>) -> Vec<Duration> {
    let (mut last, mut all) = (now, Vec::new());
    while now < pace.started + end {
        now += pace.wait(now);
        if pace.note_listens(now, listens) {
            all.push(now - last);
            last = now;
            pace.looked(now, false);
        }
    }
    all
}

#[test]
fn looks_are_frequent_while_programs_start() {
    let start = Instant::now();
    let all = pauses(&mut SurveyPauses::new(start), start, Duration::from_secs(60), None);
    assert!(all.iter().filter(|pause| **pause == LONGEST_AT_START).count() > 30, "{all:?}");
    assert_eq!(all.last(), Some(&LONGEST));
}

#[test]
fn a_call_of_listen_is_looked_at_soon_and_nothing_else_often() {
    let start = Instant::now();
    let mut pace = SurveyPauses::new(start);
    let all = pauses(&mut pace, start, Duration::from_secs(20), Some(1));
    assert!(all.len() < 12, "{all:?}");
    let now = start + Duration::from_secs(20);
    assert!(pace.wait(now) <= LONGEST_AT_START);
    assert!(pace.note_listens(now, Some(2)));
    pace.looked(now, false);
    assert_eq!(pace.wait(now), FIRST * 2);
    assert!(!pace.note_listens(now, Some(2)));
}

fn means(mark: Option<&str>) -> Means {
    Means::new(
        std::process::id(),
        0,
        mark.map(|maps| Mark { maps: maps.to_owned(), preloaded: maps.to_owned(), owner: None }),
        &Options::default(),
    )
}

#[test]
fn a_port_is_looked_at_if_it_is_wanted_and_not_left_out() {
    let mut means = means(None);
    for (ports, exclude_ports, expected) in [
        (vec![], vec![], [true, true]),
        (vec![80], vec![], [true, false]),
        (vec![], vec![80], [false, true]),
        (vec![80, 81], vec![80], [false, true]),
    ] {
        (means.ports, means.exclude_ports) = (ports, exclude_ports);
        assert_eq!([80, 81].map(|port| means.wants(port)), expected);
    }
}

#[test]
fn all_below_the_root_are_the_programs_however_deep() {
    let stat = |parent| proc::Stat { parent, born_by_ms: 10 * u64::from(parent) };
    let stats = HashMap::from([(5, stat(1)), (6, stat(5)), (7, stat(6)), (8, stat(1)), (9, stat(8))]);
    let pids = |root: u32, kept: u32| {
        let mut pids: Vec<u32> = below(root, &stats, |pid, _| pid == kept).into_keys().collect();
        pids.sort_unstable();
        pids
    };
    assert_eq!((pids(5, 0), pids(6, 0), pids(4, 0)), (vec![5, 6, 7], vec![6, 7], vec![]));
    assert_eq!(pids(5, 8), [5, 6, 7, 8, 9], "an orphan that was found before, and what it has made");
    assert_eq!(below(6, &stats, |_, _| false), HashMap::from([(6, 50), (7, 60)]));
    // The root is this process, which is not among those that are listed.
    assert_eq!(pids(1, 0), [5, 6, 7, 8, 9]);
}

#[test]
fn what_stays_is_told_once_and_a_gap_of_a_moment_is_not() {
    let one = |inode, process, covered| CoveredListener {
        address: Untrusted::from(&b"*:80"[..]),
        inode,
        process,
        name: Untrusted::from(&b"srv"[..]),
        covered,
    };
    let coverage = |listeners: &[CoveredListener]| Coverage { listeners: listeners.to_vec() };
    let (covered, gap) = (one(1, 7, Ok(Via::Preload)), one(1, 8, Err(Gap::NotLoaded)));
    let mut told = ToldCoverage::default();
    assert!(!told.note(&coverage(&[])) && !told.note(&coverage(&[])), "nobody listens");
    assert!(!told.note(&coverage(std::slice::from_ref(&covered))), "seen once");
    assert!(told.note(&coverage(std::slice::from_ref(&covered))));
    // A child that is about to call `execve`.
    assert!(!told.note(&coverage(&[covered.clone(), gap.clone()])));
    assert!(!told.note(&coverage(std::slice::from_ref(&covered))));
    // One that stays, and is told once.
    let both = coverage(&[covered.clone(), gap]);
    assert!(!told.note(&both) && told.note(&both) && !told.note(&both));
    // The same listener with another process, and one more that is covered.
    let more = coverage(&[covered, one(1, 9, Err(Gap::NotLoaded)), one(2, 7, Ok(Via::Preload))]);
    assert!(!told.note(&more) && told.note(&more) && !told.note(&more));
}

/// This process is its own program: its listeners are found, and who has them.
#[test]
fn the_listeners_of_the_program_are_found_with_their_processes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut means = means(None);
    means.ports = vec![address.port()];
    let mut surveyor = Surveyor { means, family: HashMap::new(), has_cookies: true };
    let [found] = surveyor.look().listeners.try_into().unwrap();
    assert_eq!((found.process, found.covered), (std::process::id(), Ok(Via::Seccomp)));
    assert_eq!(found.address.terminal().to_string(), address.to_string());
    surveyor.has_cookies = false;
    assert_eq!(surveyor.look().listeners[0].covered, Err(Gap::NoCookie));
    surveyor.means.exclude_ports = vec![address.port()];
    assert!(surveyor.look().listeners.is_empty());
    surveyor.means.exclude_ports.clear();
    drop(listener);
    assert!(surveyor.look().listeners.is_empty());
}

/// A process that is about to become the program has the supervisor's listeners, too.
#[test]
fn the_supervisors_own_listeners_are_none_of_the_programs() {
    let [metrics, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let intake = crate::intake::Address::new().unwrap();
    let [own, others] = [&metrics, &other].map(|listener| listener.local_addr().unwrap());
    let seen = |means: Means| {
        let mut surveyor = Surveyor { means, family: HashMap::new(), has_cookies: true };
        let seen = surveyor.look().listeners.into_iter().map(|one| one.address.terminal().to_string());
        let wanted = [own.to_string(), others.to_string(), format!("@{}", intake.name)];
        let seen: HashSet<String> = seen.collect();
        wanted.map(|wanted| seen.contains(&wanted))
    };
    assert_eq!(seen(means(None)), [true; 3]);
    assert_eq!(seen(means(None).without([metrics.as_fd(), intake.listener()])), [false, true, false]);
}

#[test]
fn the_report_is_about_the_listeners_that_there_were() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut means = means(None);
    means.ports = vec![listener.local_addr().unwrap().port()];
    let (survey, alive) = Survey::start(means, || Some(0)).unwrap();
    assert_eq!(survey.look().counts(), (1, 1));
    drop(listener);
    assert_eq!((survey.look().counts(), survey.counts()), ((0, 0), (1, 1)));
    assert!(survey.take_part().then(|| survey.news()).flatten().is_none(), "nothing that stays");
    drop(alive);
}

/// By what this process has in its memory.
#[test]
fn a_process_is_covered_if_the_library_is_in_its_memory_and_no_filter_of_its_own() {
    let own = std::process::id();
    let executable = std::env::current_exe().unwrap();
    let mapped = executable.file_name().unwrap().to_str().unwrap();
    let surveyor = |mark, filters| {
        let means = Means { filters, ..means(Some(mark)) };
        Surveyor { means, family: HashMap::new(), has_cookies: true }
    };
    assert_eq!(surveyor(mapped, proc::filters(own)).covered(own), Some(Ok(Via::Preload)));
    assert_eq!(surveyor("no such library", 0).covered(own), Some(Err(Gap::NotLoaded)));
    // No process.
    assert_eq!(surveyor(mapped, 0).covered(u32::MAX), Some(Err(Gap::Hidden)));
    assert!(ProgramKind::Dynamic.obstacle().is_none());
}

/// The thread that passes on the program's signals asks for news with each.
#[test]
fn who_asks_for_news_waits_for_no_look() {
    let (survey, _alive) = Survey::start(means(None), || Some(0)).unwrap();
    let _look = lock(&survey.0.surveyor);
    let (tell, told) = std::sync::mpsc::channel();
    let asks = survey.clone();
    thread::spawn(move || tell.send((asks.news().is_none(), asks.counts())));
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok((true, (0, 0))));
}
