//! The key of a WebSocket's opening handshake, by which a client knows that the server has understood it (RFC 6455 section 4.1).

use std::io;

use data_encoding::BASE64;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// What a server appends to the key (RFC 6455 section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The value of Sec-WebSocket-Key: 16 random bytes in base64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WebSocketKey([u8; 24]);

impl WebSocketKey {
    /// # Errors
    /// Returns an error if the system has no random numbers.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
        Ok(Self::of(bytes))
    }

    fn of(bytes: [u8; 16]) -> Self {
        let mut text = [0; 24];
        BASE64.encode_mut(&bytes, &mut text);
        Self(text)
    }

    pub(crate) fn text(&self) -> &str {
        // Base64 is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The value of Sec-WebSocket-Accept with which a server agrees.
    pub(crate) fn accept(&self) -> String {
        let text = [self.text(), GUID].concat();
        BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        let key = WebSocketKey::of(*b"the sample nonce");
        assert_eq!(key.text(), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(key.accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let [one, other] = [(); 2].map(|()| WebSocketKey::random().unwrap());
        assert_ne!(one.text(), other.text());
    }
}
