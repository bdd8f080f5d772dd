//! The terminal view: top causes, top processes, the latest resets, and the details of one of them.

use std::collections::{BTreeMap, VecDeque};

use linger_untrusted::Untrusted;
use linger_why::Tools;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Cell, List, Paragraph, Row, Table, TableState, Wrap};

use crate::{LiveReset, NamespaceId, Notice, ProcessRole, Warning, Watcher, Workload};

/// Most resets kept for the list, and most processes that are counted.
const KEPT: usize = 1_000;
/// Rows of each of the lists of top causes, top processes and latest warnings.
const TOP: usize = 6;

/// The state of the view. It draws into a ratatui frame and does no I/O.
#[derive(Debug)]
pub struct View {
    total: u64,
    lost: u64,
    causes: BTreeMap<&'static str, u64>,
    processes: BTreeMap<String, u64>,
    latest: VecDeque<LiveReset>,
    warnings: VecDeque<String>,
    /// The kernel's counters as text.
    counted: String,
    unread: u64,
    unacknowledged: u64,
    table: TableState,
    opened: bool,
    tools: Tools,
}

impl Default for View {
    fn default() -> Self {
        Self {
            total: 0,
            lost: 0,
            causes: BTreeMap::new(),
            processes: BTreeMap::new(),
            latest: VecDeque::new(),
            warnings: VecDeque::new(),
            counted: "nothing".to_owned(),
            unread: 0,
            unacknowledged: 0,
            table: TableState::default(),
            opened: false,
            tools: Tools::default(),
        }
    }
}

/// A command of the user to the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ViewKey {
    /// Select the reset above.
    Up,
    /// Select the reset below.
    Down,
    /// Show the details of the selected reset, or hide them.
    Open,
    /// Hide the details.
    Back,
}

impl View {
    /// An empty view. `tools` are the commands that its remedies name.
    pub fn new(tools: Tools) -> Self {
        Self { tools, ..Self::default() }
    }

    /// Adds notices. Returns whether the view has to be drawn again.
    pub fn record(&mut self, notices: &[Notice], watcher: &Watcher) -> bool {
        let news = !notices.is_empty() || self.lost != watcher.lost();
        self.lost = watcher.lost();
        for notice in notices {
            match notice {
                Notice::Reset(reset) => self.add((**reset).clone()),
                Notice::Warning(warning) => {
                    self.warnings.push_front(describe(warning));
                    self.warnings.truncate(TOP);
                }
                Notice::Further(further) => self.total += u64::from(further.resets),
                Notice::Counters(counted) => self.counted = counted.describe(),
            }
        }
        news
    }

    fn add(&mut self, reset: LiveReset) {
        self.total += u64::from(reset.connections) + u64::from(reset.further_resets);
        self.unread += u64::from(reset.bytes.unread.unwrap_or(0));
        self.unacknowledged += u64::from(reset.bytes.unacknowledged.unwrap_or(0));
        *self.causes.entry(reset.cause.name()).or_default() += u64::from(reset.connections);
        let mut process = reset.process.as_ref().map_or("unknown".into(), |process| process.name.label());
        if reset.role == Some(ProcessRole::Held) {
            process += " (held it)";
        }
        if self.processes.len() < KEPT || self.processes.contains_key(&process) {
            *self.processes.entry(process).or_default() += u64::from(reset.connections);
        }
        self.latest.push_front(reset);
        self.latest.truncate(KEPT);
        // The selection stays on the same reset while new ones are added above it.
        if let Some(selected) = self.table.selected() {
            self.table.select(Some((selected + 1).min(self.latest.len() - 1)));
        }
    }

    /// Handles a command of the user.
    pub fn key(&mut self, key: ViewKey) {
        let last = self.latest.len().saturating_sub(1);
        match key {
            ViewKey::Up => self.table.select(Some(self.table.selected().unwrap_or(0).saturating_sub(1))),
            ViewKey::Down => {
                self.table.select(Some(self.table.selected().map_or(0, |at| (at + 1).min(last))))
            }
            ViewKey::Open => {
                self.opened = !self.opened && !self.latest.is_empty();
                if self.table.selected().is_none() {
                    self.table.select(Some(0));
                }
            }
            ViewKey::Back => self.opened = false,
        }
    }

    /// Draws the view. On a small terminal the least important parts are left out first.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let tops = if area.height >= 20 { TOP as u16 + 2 } else { 0 };
        let foot = u16::from(area.height >= 8);
        let [head, kernel, tops, list, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(foot),
            Constraint::Length(tops),
            Constraint::Fill(1),
            Constraint::Length(foot),
        ])
        .areas(area);
        let bold = Style::new().add_modifier(Modifier::BOLD);
        frame.render_widget(Line::styled(self.summary(), bold), head);
        frame.render_widget(Line::raw(format!(" the kernel counted {}", self.counted)), kernel);
        self.draw_tops(frame, tops);
        let opened = self.table.selected().filter(|_| self.opened).and_then(|at| self.latest.get(at));
        if let Some(reset) = opened {
            let block = Block::bordered().title(" one reset ");
            frame.render_widget(
                Paragraph::new(details(reset, &self.tools)).wrap(Wrap { trim: false }).block(block),
                list,
            );
        } else {
            self.draw_list(frame, list);
        }
        frame.render_widget(Line::raw(" up/down select   enter open   esc back   q quit"), foot);
    }

    fn summary(&self) -> String {
        let mut summary = format!(" linger watch: {} resets", self.total);
        if self.total > 0 {
            summary +=
                &format!(", {} unread, {} unacknowledged", size(self.unread), size(self.unacknowledged));
        }
        if self.lost > 0 {
            summary += &format!(", {} kernel events lost", self.lost);
        }
        summary
    }

    fn draw_tops(&self, frame: &mut Frame<'_>, area: Rect) {
        if area.is_empty() {
            return;
        }
        let (processes, warnings) = if area.width >= 100 {
            (Constraint::Length(26), Constraint::Fill(1))
        } else {
            (Constraint::Fill(1), Constraint::Length(0))
        };
        let causes = Constraint::Length(34);
        let [causes, processes, warnings] = Layout::horizontal([causes, processes, warnings]).areas(area);
        top(frame, causes, " causes ", self.causes.iter().map(|(name, &count)| (*name, count)));
        let named = self.processes.iter().map(|(name, &count)| (name.as_str(), count));
        top(frame, processes, " processes ", named);
        if !warnings.is_empty() {
            let items = self.warnings.iter().map(String::as_str);
            frame.render_widget(List::new(items).block(Block::bordered().title(" warnings ")), warnings);
        }
    }

    fn draw_list(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let columns: Vec<&Column> = COLUMNS.iter().filter(|column| area.width >= column.from).collect();
        let rows = self
            .latest
            .iter()
            .map(|reset| Row::new(columns.iter().map(|column| Cell::from((column.text)(reset)))));
        let header = Row::new(columns.iter().map(|column| column.title))
            .style(Style::new().add_modifier(Modifier::BOLD));
        let table = Table::new(rows, columns.iter().map(|column| column.width))
            .header(header)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::bordered().title(" latest "));
        frame.render_stateful_widget(table, area, &mut self.table);
    }
}

/// A column of the list. It is shown if the terminal has at least `from` columns.
struct Column {
    title: &'static str,
    width: Constraint,
    from: u16,
    text: fn(&LiveReset) -> String,
}

const COLUMNS: [Column; 9] = [
    Column { title: "UTC", width: Constraint::Length(12), from: 62, text: |reset| clock(reset.time_seconds) },
    Column {
        title: "way",
        width: Constraint::Length(8),
        from: 72,
        text: |reset| reset.direction.name().to_owned(),
    },
    Column {
        title: "cause",
        width: Constraint::Length(23),
        from: 0,
        text: |reset| reset.cause.name().to_owned(),
    },
    Column {
        title: "sure",
        width: Constraint::Length(8),
        from: 120,
        text: |reset| reset.confidence.name().to_owned(),
    },
    Column { title: "here", width: Constraint::Fill(1), from: 143, text: |reset| reset.local.to_string() },
    Column {
        title: "there",
        width: Constraint::Fill(1),
        from: 94,
        text: |reset| reset.remote.map_or("?".into(), |remote| remote.to_string()),
    },
    Column {
        title: "unread",
        width: Constraint::Length(8),
        from: 112,
        text: |reset| reset.bytes.unread.map_or("?".into(), |bytes| size(bytes.into())),
    },
    Column {
        title: "unacked",
        width: Constraint::Length(8),
        from: 112,
        text: |reset| reset.bytes.unacknowledged.map_or("?".into(), |bytes| size(bytes.into())),
    },
    Column {
        title: "process",
        width: Constraint::Length(23),
        from: 0,
        text: |reset| reset.process.as_ref().map_or(String::new(), crate::NamedProcess::terminal),
    },
];

/// Formats a number of bytes, below 10 TB in at most seven characters.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

fn top<'a>(frame: &mut Frame<'_>, area: Rect, title: &str, counts: impl Iterator<Item = (&'a str, u64)>) {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
    let lines = counts.into_iter().take(TOP).map(|(name, count)| format!("{count:>7} {name}"));
    frame.render_widget(List::new(lines).block(Block::bordered().title(title.to_owned())), area);
}

/// Formats seconds since 1970 as the time of day in UTC, to the millisecond.
fn clock(time: f64) -> String {
    let millis = (time * 1e3) as u64;
    let seconds = millis / 1_000;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60, millis % 1_000)
}

/// Formats a warning as one line.
pub fn describe(warning: &Warning) -> String {
    let who = |process: &Option<crate::NamedProcess>| {
        process.as_ref().map_or(String::new(), |process| format!(" {}", process.plain()))
    };
    let place = warning.place();
    let at = parts(place.is_own, Some(place.namespace), place.name.as_ref(), place.workload.as_ref());
    let at = if at.is_empty() { String::new() } else { format!(" in {}", at.join(", ")) };
    match warning {
        Warning::ListenerNearLimit { local, queue, process, .. } => {
            format!("{local}{}{at}: {} of {} wait for accept", who(process), queue.waiting, queue.limit)
        }
        Warning::UnreadAfterPeerClosed { local, remote, unread, process, .. } => {
            format!("{local}{}{at}: {unread} bytes of {remote} unread after its close", who(process))
        }
        Warning::AcceptQueueOverflowed { local, process, overflows, .. } => {
            let listener = local.map_or("a listener".to_owned(), |local| format!("{local}{}", who(process)));
            format!("{listener}{at}: the accept queue overflowed {overflows} times")
        }
    }
}

/// Where a reset happened on this host, in one line: namespace (unless it is the watcher's own), container, pod and unit, as
/// far as they are known. `None` if there is nothing to say.
pub fn place(reset: &LiveReset) -> Option<String> {
    let mut parts = parts(
        reset.is_own_namespace,
        reset.namespace,
        reset.namespace_name.as_ref(),
        reset.workload.as_ref(),
    );
    if reset.namespace.is_none() {
        let unknown = match reset.namespace_candidates.len() {
            0 => "netns unknown".to_owned(),
            some => format!("netns unknown, one of {some}"),
        };
        parts.insert(0, unknown);
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What is known of a place: namespace (unless it is the watcher's own), container, pod and unit.
fn parts(
    is_own: bool,
    namespace: Option<NamespaceId>,
    name: Option<&Untrusted>,
    workload: Option<&Workload>,
) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some(id) = namespace.filter(|_| !is_own) {
        let name = name.map_or_else(|| id.inode().to_string(), |name| name.plain().to_string());
        parts.push(format!("netns {name}"));
    }
    if let Some(workload) = workload {
        let short = |id: &str| id.get(..12).unwrap_or(id).to_owned();
        parts.extend(workload.container.as_deref().map(|id| format!("container {}", short(id))));
        parts.extend(workload.pod.as_deref().map(|uid| format!("pod {uid}")));
        parts.extend(workload.unit.as_ref().map(|unit| format!("unit {}", unit.plain())));
    }
    parts
}

fn details(reset: &LiveReset, tools: &Tools) -> Text<'static> {
    let candidates: Vec<_> = reset.candidates.iter().map(|cause| cause.name()).collect();
    let mut lines = vec![
        format!("{} ({})", reset.cause, reset.confidence),
        reset.cause.meaning().to_owned(),
        String::new(),
        format!(
            "{} {} {} -> {}",
            clock(reset.time_seconds),
            reset.direction.name(),
            reset.local,
            reset.remote.map_or("?".into(), |remote| remote.to_string())
        ),
        format!("candidates: {}", candidates.join(", ")),
    ];
    if let Some(reason) = &reset.reason {
        lines.push(format!("reason: {reason}, state {}", reset.state.unwrap_or("unknown")));
    }
    if let Some(process) = &reset.process {
        lines.push(format!("{} {}", reset.role.map_or("process", ProcessRole::words), process.terminal()));
    }
    if reset.connections > 1 {
        lines.push(format!("{} connections", reset.connections));
    }
    if reset.further_resets > 0 {
        lines.push(format!("{} further resets for packets already under way", reset.further_resets));
    }
    if let Some(queue) = reset.listener {
        lines.push(format!("accept queue: {} of {}", queue.waiting, queue.limit));
    }
    lines.extend(place(reset));
    lines.push(reset.bytes.describe());
    lines.extend(reset.evidence.iter().map(|says| format!("- {says}")));
    lines.push(format!("remedy: {}", reset.remedy.words(tools)));
    lines.into_iter().map(Line::from).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live_reset::Direction;
    use linger_why::{Cause, Confidence};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn reset(cause: Cause) -> LiveReset {
        LiveReset {
            time_seconds: 1_700_000_000.5,
            direction: Direction::Sent,
            local: "10.0.0.1:80".parse().unwrap(),
            remote: Some("10.0.0.2:40000".parse().unwrap()),
            cause,
            confidence: Confidence::Certain,
            candidates: vec![cause],
            reason: Some("TCP_ABORT_ON_CLOSE".into()),
            state: Some("CLOSE"),
            process: Some(crate::NamedProcess { pid: 7, name: "httpd".into() }),
            role: Some(ProcessRole::Closed),
            namespace: None,
            is_own_namespace: false,
            namespace_candidates: Vec::new(),
            namespace_name: None,
            workload: None,
            connections: 1,
            further_resets: 0,
            bytes: crate::Bytes { unread: Some(6), ..Default::default() },
            listener: None,
            evidence: vec!["it says so".into()],
            remedy: cause.remedy(),
            recorded: None,
            others: Vec::new(),
            is_new: false,
            is_own: false,
        }
    }

    fn screen(view: &mut View) -> String {
        sized(view, 140, 30)
    }

    fn sized(view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let width = usize::from(buffer.area.width);
        let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(width).map(|row| row.concat() + "\n").collect()
    }

    #[test]
    fn it_lists_and_opens() {
        let mut view = View::default();
        assert!(screen(&mut view).contains("0 resets"));
        view.add(reset(Cause::ClosedWithUnreadData));
        view.add(reset(Cause::Aborted));
        let shown = screen(&mut view);
        assert!(shown.contains("2 resets") && shown.contains("closed-with-unread-data"), "{shown}");
        assert!(shown.contains("httpd[7]") && shown.contains("22:13:20.500"), "{shown}");
        view.key(ViewKey::Down);
        view.key(ViewKey::Down);
        view.key(ViewKey::Open);
        let shown = screen(&mut view);
        assert!(shown.contains("TCP_ABORT_ON_CLOSE") && shown.contains("it says so"), "{shown}");
        view.key(ViewKey::Back);
        assert!(!screen(&mut view).contains("it says so"));
    }

    #[test]
    fn a_small_terminal_shows_what_matters_most() {
        let mut view = View::default();
        for _ in 0..2_000 {
            view.add(reset(Cause::ClosedWithUnreadData));
        }
        for (width, height) in [(1, 1), (20, 5), (50, 8), (80, 24), (300, 100)] {
            let shown = sized(&mut view, width, height);
            if width >= 50 {
                assert!(shown.contains("2000 resets"), "{shown}");
                assert!(shown.contains("closed-with-unread-data") && shown.contains("httpd[7]"), "{shown}");
            }
            view.key(ViewKey::Open);
            sized(&mut view, width, height);
            view.key(ViewKey::Back);
        }
    }

    #[test]
    fn a_process_that_calls_itself_an_escape_sequence_is_shown_as_one() {
        let mut view = View::default();
        let mut reset = reset(Cause::ClosedWithUnreadData);
        reset.process = Some(crate::NamedProcess { pid: 7, name: "\u{1b}[2J\u{202e}".into() });
        view.add(reset.clone());
        let shown = screen(&mut view);
        assert!(shown.contains("\\u{1b}[2J\\u{202e}"), "{shown}");
        let warning = Warning::ListenerNearLimit {
            place: crate::KnownPlace { is_own: true, ..crate::KnownPlace::new(NamespaceId::from_inode(1)) },
            local: reset.local,
            queue: crate::AcceptQueue { waiting: 4, limit: 4 },
            process: Some(crate::NamedProcess { pid: 7, name: "x\nsent ok".into() }),
        };
        assert_eq!(describe(&warning), "10.0.0.1:80 x\\nsent\\x20ok[7]: 4 of 4 wait for accept");
    }

    #[test]
    fn sizes_fit_their_column() {
        for bytes in [0, 9_999, 10_000, 9_999_999, 10_000_000, 9_999_999_999, 999_000_000_000] {
            assert!(size(bytes).len() <= 7, "{}", size(bytes));
        }
    }
}
