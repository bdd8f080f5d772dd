//! Memory into which files are read.

/// Every page size of Linux is a multiple of it.
const PAGE: usize = 4 << 10;

/// Bytes that begin at a page boundary.
///
/// read(2) and recv(2) copy page by page (`rep movsb`). Where each page's copy begins a few bytes further in its page than the
/// original does, an AMD EPYC takes four times as long, and malloc(3) begins large memory 16 bytes behind a page boundary.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageBuffer {
    memory: Vec<u8>,
    start: usize,
}

impl PageBuffer {
    /// The first `length` bytes. What was in them is lost if there were fewer before.
    pub(crate) fn bytes(&mut self, length: usize) -> &mut [u8] {
        if self.memory.len() < self.start + length {
            self.memory = vec![0; length + PAGE];
            // Without the bound, the answer of a machine that cannot tell would be no place in the memory.
            self.start = self.memory.as_ptr().align_offset(PAGE).min(PAGE);
        }
        &mut self.memory[self.start..][..length]
    }

    /// The first `length` bytes, or as many as there are.
    pub(crate) fn first(&self, length: usize) -> &[u8] {
        let memory = &self.memory[self.start..];
        &memory[..length.min(memory.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_page_and_keeps_what_it_holds() {
        let mut buffer = PageBuffer::default();
        let mut before = 0;
        for length in [1, PAGE, 100_000, 1 << 20, 5, 1 << 20, (1 << 20) + 1] {
            let bytes = buffer.bytes(length);
            assert_eq!((bytes.len(), bytes.as_ptr() as usize % PAGE), (length, 0));
            assert!(length > before || bytes.iter().all(|byte| *byte == 7), "{length} after {before}");
            bytes.fill(7);
            assert!(buffer.first(length).iter().all(|byte| *byte == 7));
            before = before.max(length);
        }
    }
}
