//! Which cipher suites are used, and which of them first.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};

/// The cryptography of `ring`, with the suites in the order that suits this processor. A rustls server takes the first suite of
/// the client's list that it supports, so the client's processor decides. AES-128 stands before rustls's first choice, AES-256,
/// because the key exchange (X25519) is not stronger either. ChaCha20 comes first on processors without AES instructions.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384];
    let place = if has_aes() { provider.cipher_suites.len() } else { 0 };
    provider.cipher_suites.insert(place, TLS13_CHACHA20_POLY1305_SHA256);
    Arc::new(provider)
}

/// Whether this processor has instructions for AES-GCM.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;

    #[test]
    fn what_the_processor_does_fast_comes_first_and_nothing_is_left_out() {
        let suites: Vec<_> = provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
        let first = if has_aes() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
        } else {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        };
        assert_eq!(suites[0], first);
        let known = rustls::crypto::ring::default_provider().cipher_suites;
        let known = known.iter().filter(|suite| suite.tls13().is_some());
        assert!(known.clone().all(|suite| suites.contains(&suite.suite())));
        assert_eq!(suites.len(), known.count());
    }
}
