//! The program that the kernel runs on each packet: TCP, of the ports asked for, cut to a length.
//!
//! Classic BPF (`Documentation/networking/filter.rst`). A packet begins with its network header here.

use libc::sock_filter;

/// Most ports that fit into a program of 4,096 instructions (`BPF_MAXINSNS`).
pub(crate) const MOST_PORTS: usize = 500;

/// `BPF_LD | BPF_W | BPF_ABS` and its kin: a word, a half word, a byte at an offset; a half word at X and an offset.
const WORD: u16 = 0x20;
const HALF: u16 = 0x28;
const BYTE: u16 = 0x30;
const HALF_AT_X: u16 = 0x48;
/// `BPF_LDX | BPF_B | BPF_MSH`: X is the length of the IPv4 header at an offset.
const HEADER_TO_X: u16 = 0xb1;
/// `BPF_JMP | BPF_JEQ`, `BPF_JSET`, `BPF_JA`; `BPF_RET | BPF_K`.
const EQUAL: u16 = 0x15;
const ANY_BIT: u16 = 0x45;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

const TCP: u32 = 6;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
/// `PACKET_OUTGOING`.
const OUTGOING: u32 = 4;

/// What the kernel knows of a packet, as an offset (`SKF_AD_OFF`).
const fn known(what: i32) -> u32 {
    (libc::SKF_AD_OFF + what) as u32
}

const fn step(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Skips `yes` instructions if the test is met, and `no` if not.
const fn test(code: u16, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code, jt: yes, jf: no, k }
}

/// A program that keeps `snap` bytes of each TCP packet from or to one of the ports (none: of all ports), and nothing of others.
///
/// On the interface `loopback` each packet is seen twice, as it goes out and as it comes in: only the second is kept. Later
/// fragments have no ports, and IPv6 packets with extension headers have them elsewhere: both are left out.
pub(crate) fn program(ports: &[u16], snap: u32, loopback: u32) -> Vec<sock_filter> {
    let keep = step(RETURN, snap);
    let drop = step(RETURN, 0);
    let mut program = vec![
        step(WORD, known(libc::SKF_AD_IFINDEX)),
        test(EQUAL, loopback, 0, 3),
        step(BYTE, known(libc::SKF_AD_PKTTYPE)),
        test(EQUAL, OUTGOING, 0, 1),
        drop,
    ];
    let v6 = [step(BYTE, 6), test(EQUAL, TCP, 1, 0), drop].into_iter();
    let v6: Vec<_> = v6.chain(of_ports(ports, |at| step(HALF, 40 + at), keep)).collect();
    let v4 = [step(BYTE, 9), test(EQUAL, TCP, 1, 0), drop, step(HALF, 6), test(ANY_BIT, 0x1fff, 0, 1), drop];
    program.extend([
        step(HALF, known(libc::SKF_AD_PROTOCOL)),
        test(EQUAL, IPV6, 2, 0),
        test(EQUAL, IPV4, 0, 2),
        step(JUMP, v6.len() as u32 + 2),
        step(JUMP, 1),
        drop,
    ]);
    program.extend(v6);
    program.extend(v4);
    program.push(step(HEADER_TO_X, 0));
    program.extend(of_ports(ports, |at| step(HALF_AT_X, at), keep));
    program
}

/// The end of a program: keeps what comes from or goes to one of the ports.
fn of_ports(ports: &[u16], load: impl Fn(u32) -> sock_filter, keep: sock_filter) -> Vec<sock_filter> {
    if ports.is_empty() {
        return vec![keep];
    }
    let mut program = Vec::new();
    for at in [0, 2] {
        program.push(load(at));
        program.extend(ports.iter().flat_map(|port| [test(EQUAL, (*port).into(), 0, 1), keep]));
    }
    program.push(step(RETURN, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_ports_as_promised_fit() {
        let ports: Vec<u16> = (1..=MOST_PORTS as u16).collect();
        assert!(program(&ports, 128, 1).len() <= 4_096);
    }
}
