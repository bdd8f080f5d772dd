//! A ring of the packets that pass this network namespace (AF_PACKET, `TPACKET_V3`), filtered and cut by the kernel.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Size of a block. A packet never crosses the end of its block; the kernel cuts one that is longer. Small blocks, for each is used
/// up after [`BLOCK_TIMEOUT`], however few packets are in it: all of them last for six seconds without a reader.
const BLOCK: usize = 64 << 10;
/// Blocks of the largest and of the smallest ring.
const MOST_BLOCKS: usize = 128;
const LEAST_BLOCKS: usize = 8;
/// How long the kernel keeps packets in a block that is not full.
pub(crate) const BLOCK_TIMEOUT: Duration = Duration::from_millis(50);
/// Offsets in the header of a block (`struct tpacket_block_desc`).
const STATUS: usize = 8;
const COUNT: usize = 12;
const FIRST: usize = 16;
/// Where `struct sockaddr_ll` follows `struct tpacket3_hdr`, which is 48 bytes.
const ADDRESS: usize = 48;
const ADDRESS_END: usize = ADDRESS + size_of::<libc::sockaddr_ll>();

/// A packet as the kernel saw it, from its network header on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeenPacket<'a> {
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    pub(crate) time_ns: u64,
    /// Its length, of which `data` may be the beginning only.
    pub(crate) wire_len: u32,
    pub(crate) interface: u32,
    pub(crate) link: LinkAddress,
    /// The EtherType.
    pub(crate) protocol: u16,
    /// EtherType and contents of the VLAN tag that the kernel took off.
    pub(crate) vlan: Option<(u16, u16)>,
    pub(crate) data: &'a [u8],
}

/// The link layer's view of a packet (`struct sockaddr_ll`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkAddress {
    /// `PACKET_HOST`, `PACKET_OUTGOING` and so on.
    pub(crate) kind: u8,
    /// The interface's `ARPHRD_` number.
    pub(crate) hardware: u16,
    pub(crate) length: u8,
    pub(crate) address: [u8; 8],
}

/// The ring of one packet socket.
#[derive(Debug)]
pub(crate) struct PacketRing {
    socket: OwnedFd,
    start: NonNull<u8>,
    blocks: usize,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone and is tied to no thread.
unsafe impl Send for PacketRing {}

impl PacketRing {
    /// Opens a ring for the packets of all interfaces of the calling thread's network namespace that pass `filter`, which also
    /// says how much of each is kept. Where memory is short the ring is smaller; see [`size`](Self::size).
    ///
    /// # Errors
    /// Returns `EPERM` without CAP_NET_RAW, and `ENOMEM` or `ENOBUFS` if there is no memory for the smallest ring.
    pub(crate) fn open(filter: &mut [libc::sock_filter]) -> io::Result<Self> {
        let mut blocks = MOST_BLOCKS;
        loop {
            match Self::of_size(filter, blocks) {
                Err(error) if is_memory(&error) && blocks > LEAST_BLOCKS => blocks /= 2,
                result => return result,
            }
        }
    }

    fn of_size(filter: &mut [libc::sock_filter], blocks: usize) -> io::Result<Self> {
        // A socket of protocol 0 receives nothing: no packet comes before the filter. SOCK_DGRAM: packets begin with the network
        // header, whatever the link.
        let flags = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
        check(fd)?;
        // SAFETY: the fd was just made and is owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let length = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // The kernel reads the program's instructions before the call returns.
        let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
        option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        option(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V3 as i32),
        )?;
        // SAFETY: tpacket_req3 is plain old data, for which all zeroes is a valid value.
        let mut request: libc::tpacket_req3 = unsafe { zeroed() };
        request.tp_block_size = BLOCK as u32;
        request.tp_block_nr = blocks as u32;
        request.tp_frame_size = BLOCK as u32;
        request.tp_frame_nr = blocks as u32;
        request.tp_retire_blk_tov = BLOCK_TIMEOUT.as_millis() as u32;
        option(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice, over the whole ring.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                blocks * BLOCK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("a mapping at address 0"))?;
        let ring = Self { socket, start, blocks, next: 0 };
        ring.bind()?;
        Ok(ring)
    }

    /// Lets packets in, those of interfaces that come later included.
    fn bind(&self) -> io::Result<()> {
        // SAFETY: sockaddr_ll is plain old data, for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the address is a valid sockaddr_ll of the given length.
        check(unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })
    }

    /// The ring's size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.blocks * BLOCK
    }

    /// Passes the packets of all full blocks to `each`, and gives the blocks back.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(&SeenPacket<'_>)) {
        // At most one round: a flood does not keep the caller here.
        for _ in 0..self.blocks {
            let block = self.start.as_ptr().wrapping_add(self.next * BLOCK);
            // SAFETY: the status is an aligned u32 in the live mapping, which both sides access atomically.
            let status = unsafe { AtomicU32::from_ptr(block.wrapping_add(STATUS).cast()) };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return;
            }
            let rest = block.wrapping_add(COUNT);
            // SAFETY: the rest of the block behind its status is mapped, and the kernel leaves it alone until it has the block back.
            let bytes = unsafe { std::slice::from_raw_parts(rest, BLOCK - COUNT) };
            packets(bytes, &mut each);
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % self.blocks;
        }
    }

    /// Number of packets that the kernel dropped since the last call because the ring was full.
    pub(crate) fn overruns(&self) -> u32 {
        // SAFETY: tpacket_stats_v3 is plain old data, for which all zeroes is a valid value.
        let mut stats: libc::tpacket_stats_v3 = unsafe { zeroed() };
        let mut length = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to a live structure of that size.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if result < 0 { 0 } else { stats.tp_drops }
    }
}

impl AsFd for PacketRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `of_size` with this size, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size()) };
    }
}

/// Whether the kernel had no memory for a ring.
pub(crate) fn is_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS))
}

/// The packets of a block. `bytes` begin with the number of packets.
fn packets(bytes: &[u8], each: &mut impl FnMut(&SeenPacket<'_>)) {
    let mut at = number(bytes, FIRST - COUNT) as usize;
    for _ in 0..number(bytes, 0) {
        let Some(packet) = at.checked_sub(COUNT).and_then(|at| bytes.get(at..)) else { return };
        if let Some(seen) = seen(packet) {
            each(&seen);
        }
        match number(packet, 0) as usize {
            0 => return,
            next => at += next,
        }
    }
}

/// A packet behind its header (`struct tpacket3_hdr`, `struct sockaddr_ll`).
fn seen(packet: &[u8]) -> Option<SeenPacket<'_>> {
    let status = number(packet, 20);
    let start = usize::from(half(packet, 26));
    let data = packet.get(start..start + number(packet, 12) as usize)?;
    let address: &[u8; ADDRESS_END - ADDRESS] = packet.get(ADDRESS..ADDRESS_END)?.try_into().ok()?;
    let tag = if status & libc::TP_STATUS_VLAN_TPID_VALID == 0 { 0x8100 } else { half(packet, 36) };
    Some(SeenPacket {
        time_ns: u64::from(number(packet, 4)) * 1_000_000_000 + u64::from(number(packet, 8)),
        wire_len: number(packet, 16),
        interface: number(address, 4),
        link: LinkAddress {
            kind: address[10],
            hardware: half(address, 8),
            length: address[11],
            address: *address.last_chunk()?,
        },
        protocol: u16::from_be(half(address, 2)),
        vlan: (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| (tag, number(packet, 32) as u16)),
        data,
    })
}

/// Numbers in this machine's byte order; 0 behind the end.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

fn option<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as a live value has.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
