//! Pairing by a short code: SPAKE2 inside a TLS connection whose keys are not known yet.
//!
//! Both sides prove that they know the code without revealing it. The proof is bound to the TLS exporter and to both
//! keys, so a man in the middle, who has two TLS connections, gets one guess. A code is good for one attempt.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use spake2::{Ed25519Group, Identity as Name, Password, Spake2};

use crate::error::Error;
use crate::identity::PublicKey;

/// Length of a SPAKE2 message over this group.
pub(crate) const MESSAGE: usize = 33;
/// Length of a proof.
pub(crate) const PROOF: usize = 32;

/// Binds a proof to its connection.
pub(crate) struct Binding {
    /// Keying material exported from the TLS connection (RFC 8446, section 7.5).
    pub(crate) exporter: [u8; 32],
    pub(crate) client: PublicKey,
    pub(crate) server: PublicKey,
}

/// One side of an attempt.
pub(crate) struct Attempt {
    state: Spake2<Ed25519Group>,
}

/// What both sides have to show.
pub(crate) struct Proofs {
    pub(crate) client: [u8; PROOF],
    pub(crate) server: [u8; PROOF],
}

impl Attempt {
    /// Begins as the client; gives the message to send.
    pub(crate) fn client(code: &str) -> (Self, Vec<u8>) {
        let (state, message) = Spake2::start_a(&password(code), &name("client"), &name("server"));
        (Self { state }, message)
    }

    /// Begins as the server.
    pub(crate) fn server(code: &str) -> (Self, Vec<u8>) {
        let (state, message) = Spake2::start_b(&password(code), &name("client"), &name("server"));
        (Self { state }, message)
    }

    /// Takes the other side's message; `None` if it is not a group element.
    pub(crate) fn finish(self, message: &[u8], binding: &Binding) -> Option<Proofs> {
        let shared = self.state.finish(message).ok()?;
        Some(Proofs::of(&shared, binding))
    }
}

impl Proofs {
    /// The proofs of what SPAKE2 gave both sides.
    fn of(shared: &[u8], binding: &Binding) -> Self {
        let key = blake3::derive_key("linger-transfer 2026 proof of a pairing code", shared);
        let proof = |who: &[u8]| {
            let mut hasher = blake3::Hasher::new_keyed(&key);
            for part in [who, &binding.exporter, &binding.client, &binding.server] {
                hasher.update(part);
            }
            *hasher.finalize().as_bytes()
        };
        Self { client: proof(b"client"), server: proof(b"server") }
    }
}

fn name(role: &str) -> Name {
    Name::new(format!("linger-transfer {role}").as_bytes())
}

/// The digits of a code; spaces and hyphens are ignored.
fn password(code: &str) -> Password {
    let digits: String = code.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
    Password::new(digits.as_bytes())
}

/// Compares in constant time.
pub(crate) fn same_proof(a: &[u8; PROOF], b: &[u8; PROOF]) -> bool {
    blake3::Hash::from_bytes(*a) == blake3::Hash::from_bytes(*b)
}

/// The server's codes: one for everybody, until somebody has paired with it; and for each address that has given a wrong code,
/// codes of its own, so that its guesses use up nothing of others.
#[derive(Debug)]
pub(crate) struct Codes(Mutex<CodeState>);

#[derive(Debug)]
struct CodeState {
    code: String,
    /// Guesses at the code for everybody.
    guesses: u32,
    addresses: BTreeMap<IpAddr, Guesser>,
}

/// An address that has given a wrong code.
#[derive(Debug)]
struct Guesser {
    code: String,
    failures: u32,
    not_before: Instant,
}

/// Failed attempts after which an address gets no further code until the server is started again.
const MAX_FAILURES: u32 = 20;
/// Addresses that are remembered. The one whose pause ended first is forgotten.
const MAX_ADDRESSES: usize = 4096;
/// Guesses, each by another address, after which the code for everybody is replaced. A guess is right once in a hundred
/// million times.
const MAX_GUESSES: u32 = 100;

/// The part of an address that one subscriber cannot choose: all of an IPv4 address, the first 64 bits of an IPv6 address.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

impl Codes {
    pub(crate) fn new() -> Result<Self, Error> {
        let code = new_code().map_err(|error| Error::io("get", "random numbers for a code", error))?;
        Ok(Self(Mutex::new(CodeState { code, guesses: 0, addresses: BTreeMap::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, CodeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The code to show to everybody.
    pub(crate) fn current(&self) -> String {
        self.lock().code.clone()
    }

    /// The code that counts for an address.
    pub(crate) fn of(&self, address: IpAddr) -> String {
        let state = self.lock();
        state.addresses.get(&subscriber(address)).map_or(&state.code, |guesser| &guesser.code).clone()
    }

    /// Takes the code of an address for one attempt. For the next attempt the address gets another one.
    ///
    /// The attempt counts as failed until [`succeeded`](Self::succeeded) is called: a peer that just disconnects has made
    /// a guess, too.
    ///
    /// # Errors
    /// Returns the reason, in words for the peer, if no code is to be had now: there were too many failed attempts, the
    /// last attempt was too short a time ago, or the kernel gives no random numbers for the new code.
    pub(crate) fn take(&self, address: IpAddr, now: Instant) -> Result<String, String> {
        let next = || new_code().map_err(|error| format!("no new code: {error}"));
        let address = subscriber(address);
        let mut state = self.lock();
        let state = &mut *state;
        let first_pause = now + Duration::from_secs(1);
        if let Some(guesser) = state.addresses.get_mut(&address) {
            if guesser.failures >= MAX_FAILURES {
                return Err("too many wrong codes; the server has to be started again".into());
            }
            let wait = guesser.not_before.saturating_duration_since(now);
            if !wait.is_zero() {
                return Err(format!("too many attempts; try again in {} s", wait.as_secs() + 1));
            }
            guesser.failures += 1;
            // The pauses are 1 s, 2 s and so on, up to 256 s.
            guesser.not_before = now + Duration::from_secs(1 << (guesser.failures - 1).min(8));
            return Ok(std::mem::replace(&mut guesser.code, next()?));
        }
        if state.addresses.len() >= MAX_ADDRESSES {
            let oldest = state.addresses.iter().min_by_key(|(_, guesser)| guesser.not_before);
            let oldest = oldest.map(|(address, _)| *address);
            oldest.map(|oldest| state.addresses.remove(&oldest));
        }
        let guesser = Guesser { code: next()?, failures: 1, not_before: first_pause };
        state.addresses.insert(address, guesser);
        state.guesses += 1;
        if state.guesses < MAX_GUESSES {
            return Ok(state.code.clone());
        }
        state.guesses = 0;
        Ok(std::mem::replace(&mut state.code, next()?))
    }

    /// Notes that the last attempt of an address succeeded, with this code: nobody else can use it.
    pub(crate) fn succeeded(&self, address: IpAddr, used: &str) {
        let mut state = self.lock();
        state.addresses.remove(&subscriber(address));
        if state.code == used
            && let Ok(next) = new_code()
        {
            (state.code, state.guesses) = (next, 0);
        }
    }
}

/// Eight decimal digits: a guess is right once in a hundred million times.
fn new_code() -> Result<String, rustix::io::Errno> {
    let mut random = [0u8; 8];
    let mut filled = 0;
    while filled < random.len() {
        match rustix::rand::getrandom(&mut random[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(bytes) => filled += bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    let digits = u64::from_le_bytes(random) % 100_000_000;
    Ok(format!("{:04}-{:04}", digits / 10_000, digits % 10_000))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Says one byte again and again: a scalar that another implementation can choose as well.
    struct Always(u8);

    impl rand_core::CryptoRng for Always {}

    impl rand_core::RngCore for Always {
        fn next_u32(&mut self) -> u32 {
            u32::from_ne_bytes([self.0; 4])
        }

        fn next_u64(&mut self) -> u64 {
            u64::from_ne_bytes([self.0; 8])
        }

        fn fill_bytes(&mut self, into: &mut [u8]) {
            into.fill(self.0);
        }

        fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), rand_core::Error> {
            self.fill_bytes(into);
            Ok(())
        }
    }

    /// A pairing by the code 1234-5678: the scalars are 64 bytes of 0x44 at the client and of 0x55 at the server.
    pub(crate) fn vectors() -> [(&'static str, Vec<u8>); 5] {
        let (code, names) = (password("1234-5678"), [name("client"), name("server")]);
        let (state, to_server) =
            Spake2::<Ed25519Group>::start_a_with_rng(&code, &names[0], &names[1], Always(0x44));
        let (other, to_client) =
            Spake2::<Ed25519Group>::start_b_with_rng(&code, &names[0], &names[1], Always(0x55));
        let shared = state.finish(&to_client).unwrap();
        assert_eq!(other.finish(&to_server).unwrap(), shared);
        let binding = Binding { exporter: [0x66; 32], client: [0x77; 32], server: [0x88; 32] };
        let proofs = Proofs::of(&shared, &binding);
        [
            ("pairing-message-of-client", to_server),
            ("pairing-message-of-server", to_client),
            ("pairing-key", shared),
            ("pairing-proof-of-client", proofs.client.to_vec()),
            ("pairing-proof-of-server", proofs.server.to_vec()),
        ]
    }

    fn binding(exporter: u8) -> Binding {
        Binding { exporter: [exporter; 32], client: [1; 32], server: [2; 32] }
    }

    fn proofs(client_code: &str, server_code: &str, client_sees: u8, server_sees: u8) -> (Proofs, Proofs) {
        let (client, to_server) = Attempt::client(client_code);
        let (server, to_client) = Attempt::server(server_code);
        assert_eq!((to_server.len(), to_client.len()), (MESSAGE, MESSAGE));
        let client = client.finish(&to_client, &binding(client_sees)).unwrap();
        (client, server.finish(&to_server, &binding(server_sees)).unwrap())
    }

    #[test]
    fn only_the_same_code_on_the_same_connection_gives_the_same_proofs() {
        let (ours, theirs) = proofs("1234-5678", "1234 5678", 9, 9);
        assert!(same_proof(&ours.client, &theirs.client) && same_proof(&ours.server, &theirs.server));
        assert!(!same_proof(&ours.client, &ours.server), "a proof cannot be sent back");
        let (ours, theirs) = proofs("1234-5678", "1234-5679", 9, 9);
        assert!(!same_proof(&ours.client, &theirs.client));
        let (ours, theirs) = proofs("1234-5678", "1234-5678", 9, 8);
        assert!(!same_proof(&ours.client, &theirs.client), "somebody in the middle has two connections");
    }

    #[test]
    fn a_code_is_good_once_and_guesses_are_slow() {
        let here: IpAddr = "192.0.2.7".parse().unwrap();
        let codes = Codes::new().unwrap();
        let mut now = Instant::now();
        let first = codes.current();
        assert_eq!(codes.take(here, now).unwrap(), first);
        assert_ne!(codes.of(here), first);
        assert!(codes.take(here, now).is_err(), "not again at once");
        now += Duration::from_secs(1);
        let own = codes.of(here);
        assert_eq!(codes.take(here, now).unwrap(), own);
        now += Duration::from_secs(1);
        assert!(codes.take(here, now).is_err(), "the second pause is longer");
        codes.succeeded(here, &own);
        assert_eq!(codes.of(here), first, "nobody has used it");
        assert_eq!(codes.take(here, now).unwrap(), first);
        codes.succeeded(here, &first);
        assert_ne!(codes.current(), first, "somebody has used it");
        for _ in 0..MAX_FAILURES {
            now += Duration::from_secs(300);
            codes.take(here, now).unwrap();
        }
        now += Duration::from_secs(86_400);
        assert!(codes.take(here, now).unwrap_err().contains("started again"));
    }

    #[test]
    fn wrong_codes_of_a_stranger_delay_nobody_else() {
        let codes = Codes::new().unwrap();
        let now = Instant::now();
        let (stranger, other): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "192.0.2.7".parse().unwrap());
        let shown = codes.current();
        codes.take(stranger, now).unwrap();
        for neighbour in ["2001:db8::2", "2001:db8::ffff:0:0:1"] {
            assert!(
                codes.take(neighbour.parse().unwrap(), now).is_err(),
                "{neighbour} is the same subscriber's"
            );
        }
        assert_eq!(codes.of(other), shown, "what a person reads stays right");
        assert_eq!(codes.take(other, now).unwrap(), shown);
        // Many addresses together are slowed down by a new code, and forgotten in the end.
        for number in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 10 {
            codes.take(IpAddr::from((0x0a00_0000 + number).to_be_bytes()), now).unwrap();
        }
        assert_ne!(codes.current(), shown);
        assert!(codes.lock().addresses.len() <= MAX_ADDRESSES);
    }
}
