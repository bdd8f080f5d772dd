//! Requests and responses: they carry their own length, so that a short one is always noticed.

/// Room for the longest first line, in bytes. Shorter payloads have none, and the other side must know their length.
const HEADER: usize = 40;

const REQUEST: &str = "linger-request ";
const RESPONSE: &str = "linger-response ";

/// The first `most` bytes of a request of `size` bytes. Unless `size` is very small, the first line states it.
pub fn request(size: u64, most: usize) -> Vec<u8> {
    build(REQUEST, size, most)
}

/// The first `most` bytes of a response of `size` bytes. Unless `size` is very small, the first line states it.
pub fn response(size: u64, most: usize) -> Vec<u8> {
    build(RESPONSE, size, most)
}

/// A response in HTTP with a body of `size` bytes, for a connection that ends with it.
pub fn http_response(status: &str, size: u64, most: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + usize::try_from(size).unwrap_or(usize::MAX).min(most), b'.');
    bytes
}

fn build(kind: &str, size: u64, most: usize) -> Vec<u8> {
    let length = usize::try_from(size).unwrap_or(usize::MAX).min(most);
    let mut bytes = if size >= HEADER as u64 { format!("{kind}{size}\n").into_bytes() } else { Vec::new() };
    bytes.resize(length, b'.');
    bytes
}

/// The length that a request says it has, if its beginning says so.
pub fn request_length(beginning: &[u8]) -> Option<u64> {
    length(REQUEST, beginning)
}

/// The length that a response says it has, if its beginning says so.
pub fn response_length(beginning: &[u8]) -> Option<u64> {
    length(RESPONSE, beginning)
}

fn length(kind: &str, beginning: &[u8]) -> Option<u64> {
    let number = beginning.strip_prefix(kind.as_bytes())?;
    let end = number.iter().take(HEADER).position(|byte| *byte == b'\n')?;
    std::str::from_utf8(&number[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_how_long_it_is() {
        assert_eq!(request(100, 1_000).len(), 100);
        assert_eq!(request_length(&request(100, 1_000)), Some(100));
        assert_eq!(response_length(&response(200_000, 4_096)), Some(200_000));
        assert_eq!(response(200_000, 4_096).len(), 4_096);
        assert_eq!(response_length(&response(u64::MAX, 64)), Some(u64::MAX));
        assert_eq!(response_length(&request(100, 1_000)), None);
        assert_eq!(response_length(&response(8, 1_000)), None);
        assert_eq!(response_length(b"linger-response "), None);
    }
}
