//! What the two processes say to each other: a kind, a length, and that many bytes.

/// Bytes before the content: the kind, and the length (little endian).
pub(crate) const HEAD: usize = 5;

/// What a frame has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// An [`ExportedEvent`](crate::ExportedEvent), as JSON.
    Event,
    /// All metrics of one moment: its nanoseconds since 1970 (eight bytes, little endian), and OpenMetrics text.
    Metrics,
    /// [`ExportCounts`](crate::ExportCounts), as JSON: the only kind that the sender sends.
    Counts,
}

impl FrameKind {
    const ALL: [Self; 3] = [Self::Event, Self::Metrics, Self::Counts];

    fn byte(self) -> u8 {
        match self {
            Self::Event => b'E',
            Self::Metrics => b'M',
            Self::Counts => b'C',
        }
    }

    /// Longest content.
    pub(crate) fn longest(self) -> usize {
        match self {
            Self::Event => 64 << 10,
            Self::Metrics => 16 << 20,
            Self::Counts => 4 << 10,
        }
    }
}

/// A frame with this content; `None` if it is too long.
pub(crate) fn frame(kind: FrameKind, content: &[&[u8]]) -> Option<Vec<u8>> {
    let length = content.iter().map(|part| part.len()).sum::<usize>();
    if length > kind.longest() {
        return None;
    }
    let mut frame = Vec::with_capacity(HEAD + length);
    frame.push(kind.byte());
    frame.extend_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    content.iter().for_each(|part| frame.extend_from_slice(part));
    Some(frame)
}

/// The kind of a frame and the length of its content; `None` if no frame begins so.
pub(crate) fn head(head: [u8; HEAD]) -> Option<(FrameKind, usize)> {
    let [byte, length @ ..] = head;
    let kind = FrameKind::ALL.into_iter().find(|kind| kind.byte() == byte)?;
    let length = u32::from_le_bytes(length) as usize;
    (length <= kind.longest()).then_some((kind, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_made_and_none_is_too_long() {
        let made = frame(FrameKind::Metrics, &[b"12345678", b"text"]).unwrap();
        let (start, content) = made.split_first_chunk().unwrap();
        assert_eq!((head(*start), content), (Some((FrameKind::Metrics, 12)), &b"12345678text"[..]));
        let longest = vec![0; FrameKind::Event.longest()];
        assert!(frame(FrameKind::Event, &[&longest]).is_some());
        assert_eq!(frame(FrameKind::Event, &[&longest, b"x"]), None);
        assert_eq!(head(*b"C\x01\x10\0\0"), None, "longer than counts are");
        assert_eq!(head(*b"X\x01\0\0\0"), None, "no kind");
    }
}
