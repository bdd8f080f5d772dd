//! Control data of messages, as `cmsg(3)` lays it out: written apart from the parser under test.

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;

/// Control data with these fds, among other control messages.
pub(crate) fn control(fds: &[i32], shape: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut push = |level: i32, kind: i32, payload: &[i32]| {
        let start = bytes.len();
        bytes.extend((16 + 4 * payload.len()).to_ne_bytes());
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        payload.iter().for_each(|int| bytes.extend(int.to_ne_bytes()));
        if shape & 4 != 0 {
            bytes.resize(start + (bytes.len() - start).next_multiple_of(8), 0);
        } else {
            while !bytes.len().is_multiple_of(8) {
                bytes.push(0xff);
            }
        }
    };
    // Credentials of uid 0 and so on: numbers that would be fds in a message of type SCM_RIGHTS.
    if shape & 1 != 0 {
        push(SOL_SOCKET, SCM_CREDENTIALS, &[0, 1, 2]);
    }
    push(SOL_SOCKET, SCM_RIGHTS, fds);
    if shape & 2 != 0 {
        push(41, SCM_RIGHTS, &[0, 1, 2, 3]);
    }
    bytes
}

/// Parses control data as the kernel does. Written independently of the parser under test.
pub(super) fn parse(control: &[u8]) -> Vec<i32> {
    let int = |at: usize| i32::from_ne_bytes(control[at..at + 4].try_into().expect("four bytes"));
    let (mut at, mut fds) = (0, Vec::new());
    while at + 16 <= control.len() {
        let length = usize::from_ne_bytes(control[at..at + 8].try_into().expect("eight bytes"));
        if (int(at + 8), int(at + 12)) == (SOL_SOCKET, SCM_RIGHTS) {
            fds.extend((at + 16..at + length).step_by(4).map(int));
        }
        at += length.div_ceil(8) * 8;
    }
    fds
}
