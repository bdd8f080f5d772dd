//! What a server sends curl over HTTP/2, counted on the way.
//!
//! curl 7.88 may drop a complete response that its kernel has, and has acknowledged, when the server resets the stream behind it
//! (`NO_ERROR`, RFC 9113 section 8.1) while curl still sends. curl's own count therefore cannot decide about a server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

/// What came of the response on the one stream of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StreamResponse {
    /// Bytes of DATA frames, up to the end of the stream or its reset.
    pub(super) bytes: usize,
    /// Whether the last of them said that the response ends.
    pub(super) complete: bool,
    is_reset: bool,
    unparsed: Vec<u8>,
}

/// The frame header (RFC 9113 section 4.1), and the parts of it that matter here.
const HEADER: usize = 9;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

impl StreamResponse {
    fn take(&mut self, bytes: &[u8]) {
        self.unparsed.extend_from_slice(bytes);
        while let Some(header) = self.unparsed.first_chunk::<HEADER>() {
            let [high, mid, low, kind, flags, ..] = *header;
            let length = u32::from_be_bytes([0, high, mid, low]) as usize;
            if self.unparsed.len() < HEADER + length {
                return;
            }
            self.unparsed.drain(..HEADER + length);
            match kind {
                // What comes behind either end is none of the response.
                DATA if !self.complete && !self.is_reset => {
                    // Padded frames would be counted with their padding.
                    self.bytes += if flags & PADDED == 0 { length } else { 0 };
                    self.complete = flags & END_STREAM != 0;
                }
                RST_STREAM => self.is_reset = true,
                _ => {}
            }
        }
    }
}

/// Passes the next connection on to a server, until the server has ended it.
pub(super) fn pass_on(listener: &TcpListener, server: u16) -> std::io::Result<StreamResponse> {
    let (mut client, _) = listener.accept()?;
    let mut server = TcpStream::connect(("127.0.0.1", server))?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut response, mut buffer) = (StreamResponse::default(), vec![0; 64 << 10]);
    // A reset in place of the end leaves the response as it is.
    while let Ok(got @ 1..) = server.read(&mut buffer) {
        response.take(&buffer[..got]);
        // curl may have gone; what it would have got is counted all the same.
        let _ = client.write_all(&buffer[..got]);
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = up.join();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, high, mid, low] = (length as u32).to_be_bytes();
        [&[high, mid, low, kind, flags, 0, 0, 0, 1][..], &vec![7; length]].concat()
    }

    #[test]
    fn a_response_is_complete_with_the_flag_alone_and_before_a_reset() {
        let data = [frame(4, 0, 12), frame(1, 4, 30), frame(DATA, 0, 300)].concat();
        let end = frame(DATA, END_STREAM, 5);
        let reset = frame(RST_STREAM, 0, 4);
        for (frames, bytes, complete) in [
            (vec![&data, &end, &reset], 305, true),
            (vec![&data, &reset, &end], 300, false),
            (vec![&data], 300, false),
            (vec![&data, &end, &end], 305, true),
        ] {
            let all: Vec<u8> = frames.into_iter().flatten().copied().collect();
            for piece in [1, 7, all.len()] {
                let mut response = StreamResponse::default();
                all.chunks(piece).for_each(|bytes| response.take(bytes));
                assert_eq!((response.bytes, response.complete), (bytes, complete), "pieces of {piece}");
            }
        }
    }
}
