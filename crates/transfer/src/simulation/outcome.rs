//! What a schedule came to.

/// The result of a schedule.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScheduleOutcome {
    /// What has happened and must not happen; `None` if all went well.
    pub fault: Option<String>,
    /// How many of the events have happened.
    pub happened: u32,
    /// How many receipts were checked.
    pub receipts: u64,
    /// The client's exit status; `None` if it was killed.
    pub client: Option<u8>,
    /// The exit status of the server's last session; `None` if it ended before it could say.
    pub server: Option<u8>,
    /// The number of sessions, in both runs of the client.
    pub sessions: usize,
    /// How many commands were started.
    pub commands: usize,
    /// How many more were started when the same content was put once more, with no fault and without `--again`.
    pub again: usize,
}

impl ScheduleOutcome {
    /// The numbers in this result, with their names.
    pub fn counts(&self) -> [(&'static str, u64); 10] {
        let is = |status| u64::from(self.client == status);
        [
            ("events came to pass", self.happened.into()),
            ("schedules had three events or more", u64::from(self.happened >= 3)),
            ("receipts were compared with the disk", self.receipts),
            ("connections", self.sessions as u64),
            ("commands of sinks", self.commands as u64),
            ("commands for the same content later", self.again as u64),
            ("clients said 0", is(Some(0))),
            ("clients said 1", is(Some(1))),
            ("clients said 3", is(Some(3))),
            ("clients were killed", is(None)),
        ]
    }
}
