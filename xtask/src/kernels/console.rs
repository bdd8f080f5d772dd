//! What a guest said: lines of the init program, lines of the lab, and words of a kernel that failed.

use serde::Deserialize;

/// All that came of a guest's console.
#[derive(Clone, Debug, Default)]
pub(super) struct Console {
    /// The kernel's release, if the guest came so far.
    pub(super) release: Option<String>,
    /// The exit status of its load, if it ended.
    pub(super) status: Option<i32>,
    /// Lines of JSON.
    pub(super) json: Vec<String>,
    /// The other lines.
    said: Vec<String>,
    /// How long it took.
    pub(super) seconds: f64,
    /// Whether the time was over before it had halted.
    pub(super) is_late: bool,
}

/// The longest sentence of a guest that is repeated.
const LONGEST: usize = 160;

impl Console {
    pub(super) fn read(text: &str) -> Self {
        let mut console = Self::default();
        for line in text.lines().map(str::trim_end) {
            if let Some(release) = line.strip_prefix("@release ") {
                console.release = Some(release.to_owned());
            } else if let Some(status) = line.strip_prefix("@status ") {
                console.status = status.parse().ok();
            } else if let Some(at) = line.find("{\"type\":") {
                // What the kernel said before it may have had no end of line.
                console.json.push(line[at..].to_owned());
            } else if !line.trim().is_empty() {
                console.said.push(line.trim().to_owned());
            }
        }
        console
    }

    /// The lines that are no JSON.
    pub(super) fn text(&self) -> impl Iterator<Item = &str> {
        self.said.iter().map(String::as_str)
    }

    /// Why there is no result, or not all of one, in a sentence; `None` if the load came to its end.
    pub(super) fn failure(&self) -> Option<String> {
        let last = self.said.iter().rev().find(|line| line.chars().any(char::is_alphabetic));
        let last: String = last.map_or("nothing", |line| line).chars().take(LONGEST).collect();
        let what = match (&self.release, self.status) {
            (_, Some(_)) => return None,
            (None, None) if self.is_late => "it did not boot in time",
            (None, None) => "it did not boot",
            (Some(_), None) if self.is_late => "it hung, or was too slow",
            (Some(_), None) => "it ended amid its work",
        };
        Some(format!("{what} ({:.0} s); it last said: {last}", self.seconds))
    }
}

/// One cell of the lab, as `linger lab --json` tells it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct LabCell {
    pub(super) ending: String,
    pub(super) peer: String,
    pub(super) client: String,
    pub(super) kept: u64,
    pub(super) at_risk: u64,
    pub(super) lost: u64,
    /// Frames that the machine lost, not the link.
    pub(super) link_accidents: Option<u64>,
}

impl Console {
    /// The lab's cells. A line that is cut or mixed with another is an error.
    pub(super) fn cells(&self) -> Result<Vec<LabCell>, String> {
        let cells = self.json.iter().filter(|line| line.starts_with("{\"type\":\"cell\","));
        cells
            .map(|line| serde_json::from_str(line))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("a line of its lab cannot be read: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: &str = r#"{"type":"cell","ending":"close","peer":"unread","client":"usual","kept":1,"at_risk":2,"lost":3,"link_accidents":null,"seed":7}"#;

    #[test]
    fn a_guest_that_came_to_its_end_has_no_failure() {
        let text = format!(
            "Core dump limits :\r\n@release 6.1.176\r\nrandom: ready {CELL}\r\n@status 1\r\nreboot: System halted\r\n"
        );
        let console = Console::read(&text);
        assert_eq!((console.release.as_deref(), console.status), (Some("6.1.176"), Some(1)));
        assert_eq!(console.failure(), None);
        let cells = console.cells().unwrap();
        assert_eq!((cells.len(), cells[0].lost, cells[0].link_accidents), (1, 3, None));
        assert_eq!(console.text().count(), 2);
    }

    #[test]
    fn a_guest_that_did_not_is_told_by_what_it_last_said() {
        let told = |text: &str, is_late| {
            let console = Console { is_late, seconds: 3.0, ..Console::read(text) };
            console.failure().unwrap()
        };
        assert_eq!(told("", false), "it did not boot (3 s); it last said: nothing");
        assert_eq!(
            told("Kernel panic - not syncing: VFS\n---\n", false),
            "it did not boot (3 s); it last said: Kernel panic - not syncing: VFS"
        );
        assert!(told("Booting\n", true).starts_with("it did not boot in time"));
        assert!(told("@release 6.1\n", true).starts_with("it hung, or was too slow"));
        assert!(told("@release 6.1\nOops\n", false).starts_with("it ended amid its work"));
    }

    #[test]
    fn a_line_that_is_cut_is_no_cell() {
        let cut = Console::read(&format!("@release 6.1\n{}\n@status 0\n", &CELL[..CELL.len() - 30]));
        assert!(cut.cells().unwrap_err().starts_with("a line of its lab cannot be read"));
    }
}
