//! The terminal view: top causes, top processes, the latest resets, one of them opened.

use std::collections::{BTreeMap, VecDeque};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Cell, List, Paragraph, Row, Table, TableState, Wrap};

use crate::{Notice, Reset, Warning, Watcher};

/// Resets kept for looking at.
const KEPT: usize = 1_000;
/// Lines in the top lists.
const TOP: usize = 6;

/// What the view shows; it draws itself and knows no terminal.
#[derive(Debug, Default)]
pub struct View {
    total: u64,
    lost: u64,
    causes: BTreeMap<&'static str, u64>,
    processes: BTreeMap<String, u64>,
    latest: VecDeque<Reset>,
    warnings: VecDeque<String>,
    table: TableState,
    opened: bool,
}

/// A key that the view answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Key {
    /// The reset above.
    Up,
    /// The reset below.
    Down,
    /// Open the selected reset, or close it again.
    Open,
    /// Close what is open.
    Back,
}

impl View {
    /// Takes in what happened.
    pub fn record(&mut self, notices: &[Notice], watcher: &Watcher) {
        self.lost = watcher.lost();
        for notice in notices {
            match notice {
                Notice::Reset(reset) => self.add((**reset).clone()),
                Notice::Warning(warning) => {
                    self.warnings.push_front(describe(warning));
                    self.warnings.truncate(TOP);
                }
            }
        }
    }

    fn add(&mut self, reset: Reset) {
        self.total += 1;
        *self.causes.entry(reset.cause.name()).or_default() += 1;
        let process = reset.process.as_ref().map_or("unknown", |process| &process.name);
        if self.processes.len() < KEPT || self.processes.contains_key(process) {
            *self.processes.entry(process.to_owned()).or_default() += 1;
        }
        self.latest.push_front(reset);
        self.latest.truncate(KEPT);
        // The selection stays on its reset while new ones come in above.
        if let Some(selected) = self.table.selected() {
            self.table.select(Some((selected + 1).min(self.latest.len() - 1)));
        }
    }

    /// Answers a key.
    pub fn key(&mut self, key: Key) {
        let last = self.latest.len().saturating_sub(1);
        match key {
            Key::Up => self.table.select(Some(self.table.selected().unwrap_or(0).saturating_sub(1))),
            Key::Down => self.table.select(Some(self.table.selected().map_or(0, |at| (at + 1).min(last)))),
            Key::Open => {
                self.opened = !self.opened && !self.latest.is_empty();
                if self.table.selected().is_none() {
                    self.table.select(Some(0));
                }
            }
            Key::Back => self.opened = false,
        }
    }

    /// Draws the view.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, tops, list, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(TOP as u16 + 2),
            Constraint::Min(5),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let lost = if self.lost > 0 { format!(", {} kernel events lost", self.lost) } else { String::new() };
        frame.render_widget(
            Line::styled(
                format!(" linger watch: {} resets{lost}", self.total),
                Style::new().add_modifier(Modifier::BOLD),
            ),
            head,
        );
        let [causes, processes, warnings] = Layout::horizontal([
            Constraint::Percentage(30),
            Constraint::Percentage(25),
            Constraint::Percentage(45),
        ])
        .areas(tops);
        top(frame, causes, " causes ", self.causes.iter().map(|(name, &count)| (*name, count)));
        top(
            frame,
            processes,
            " processes ",
            self.processes.iter().map(|(name, &count)| (name.as_str(), count)),
        );
        let items = self.warnings.iter().map(String::as_str);
        frame.render_widget(List::new(items).block(Block::bordered().title(" warnings ")), warnings);
        let opened = self.table.selected().filter(|_| self.opened).and_then(|at| self.latest.get(at));
        if let Some(reset) = opened {
            let block = Block::bordered().title(" one reset ");
            frame.render_widget(Paragraph::new(details(reset)).wrap(Wrap { trim: false }).block(block), list);
        } else {
            self.draw_list(frame, list);
        }
        frame.render_widget(Line::raw(" up/down select   enter open   esc back   q quit"), foot);
    }

    fn draw_list(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.latest.iter().map(|reset| {
            Row::new([
                Cell::from(clock(reset.time)),
                Cell::from(reset.direction.name()),
                Cell::from(reset.cause.name()),
                Cell::from(reset.confidence.name()),
                Cell::from(reset.local.to_string()),
                Cell::from(reset.remote.map_or("?".into(), |remote| remote.to_string())),
                Cell::from(reset.process.as_ref().map_or(String::new(), ToString::to_string)),
            ])
        });
        let widths = [
            Constraint::Length(12),
            Constraint::Length(8),
            Constraint::Length(24),
            Constraint::Length(8),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Length(22),
        ];
        let header = Row::new(["UTC", "way", "cause", "", "here", "there", "process"])
            .style(Style::new().add_modifier(Modifier::BOLD));
        let table = Table::new(rows, widths)
            .header(header)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::bordered().title(" latest "));
        frame.render_stateful_widget(table, area, &mut self.table);
    }
}

fn top<'a>(frame: &mut Frame<'_>, area: Rect, title: &str, counts: impl Iterator<Item = (&'a str, u64)>) {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
    let lines = counts.into_iter().take(TOP).map(|(name, count)| format!("{count:>7} {name}"));
    frame.render_widget(List::new(lines).block(Block::bordered().title(title.to_owned())), area);
}

/// The time of day in UTC, to the millisecond.
fn clock(time: f64) -> String {
    let millis = (time * 1e3) as u64;
    let seconds = millis / 1_000;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60, millis % 1_000)
}

/// One line that says what a warning warns of.
pub fn describe(warning: &Warning) -> String {
    let who = |process: &Option<crate::Process>| {
        process.as_ref().map_or(String::new(), |process| format!(" {process}"))
    };
    match warning {
        Warning::ListenerNearLimit { local, queue, process } => {
            format!("{local}{}: {} of {} wait for accept", who(process), queue.waiting, queue.limit)
        }
        Warning::UnreadAfterPeerClosed { local, remote, unread, process } => {
            format!("{local}{}: {unread} bytes of {remote} unread after its close", who(process))
        }
    }
}

fn details(reset: &Reset) -> Text<'static> {
    let candidates: Vec<_> = reset.candidates.iter().map(|cause| cause.name()).collect();
    let mut lines = vec![
        format!("{} ({})", reset.cause, reset.confidence),
        reset.cause.meaning().to_owned(),
        String::new(),
        format!(
            "{} {} {} -> {}",
            clock(reset.time),
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
        lines.push(format!("process: {process}"));
    }
    lines.extend(reset.evidence.iter().map(|says| format!("- {says}")));
    lines.push(format!("remedy: {}", reset.remedy));
    lines.into_iter().map(Line::from).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Direction;
    use linger_why::{Cause, Confidence};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn reset(cause: Cause) -> Reset {
        Reset {
            time: 1_700_000_000.5,
            direction: Direction::Sent,
            local: "10.0.0.1:80".parse().unwrap(),
            remote: Some("10.0.0.2:40000".parse().unwrap()),
            cause,
            confidence: Confidence::Certain,
            candidates: vec![cause],
            reason: Some("TCP_ABORT_ON_CLOSE".into()),
            state: Some("CLOSE"),
            process: Some(crate::Process { pid: 7, name: "httpd".into() }),
            listener: None,
            evidence: vec!["it says so".into()],
            remedy: cause.remedy(),
        }
    }

    fn screen(view: &mut View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(130, 30)).unwrap();
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
        view.key(Key::Down);
        view.key(Key::Down);
        view.key(Key::Open);
        let shown = screen(&mut view);
        assert!(shown.contains("TCP_ABORT_ON_CLOSE") && shown.contains("it says so"), "{shown}");
        view.key(Key::Back);
        assert!(!screen(&mut view).contains("it says so"));
    }
}
