//! Which cipher suites are there? What the configuration calls by name, as rustls has it.

use broker_config::CipherSuite as Named;
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite;

/// The suites of a configuration, in its order.
pub fn cipher_suites(named: &[Named]) -> Vec<SupportedCipherSuite> {
    named.iter().map(|suite| supported(*suite)).collect()
}

/// Every suite, in the order of the default configuration: AES-128-GCM first, which is the cheapest
/// for us and for devices with AES in hardware, and SHA-256 makes a handshake cheaper than SHA-384.
pub(super) fn all() -> Vec<SupportedCipherSuite> {
    cipher_suites(&broker_config::Ciphers::Intermediate.suites())
}

fn supported(named: Named) -> SupportedCipherSuite {
    use cipher_suite::*;
    match named {
        Named::Tls13Aes128GcmSha256 => TLS13_AES_128_GCM_SHA256,
        Named::Tls13Chacha20Poly1305Sha256 => TLS13_CHACHA20_POLY1305_SHA256,
        Named::Tls13Aes256GcmSha384 => TLS13_AES_256_GCM_SHA384,
        Named::EcdheEcdsaAes128GcmSha256 => TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Named::EcdheEcdsaChacha20Poly1305Sha256 => TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        Named::EcdheEcdsaAes256GcmSha384 => TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Named::EcdheRsaAes128GcmSha256 => TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        Named::EcdheRsaChacha20Poly1305Sha256 => TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        Named::EcdheRsaAes256GcmSha384 => TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_configuration_is_that_suite_and_there_is_none_that_has_no_name() {
        let named = broker_config::Ciphers::Intermediate.suites();
        for suite in &named {
            // rustls writes TLS13 where IANA writes TLS.
            let ours = format!("{:?}", supported(*suite).suite()).replace("TLS13_", "TLS_");
            assert_eq!(ours, suite.name());
            let tls13 = supported(*suite).version() == &rustls::version::TLS13;
            assert_eq!(tls13, suite.is_tls13(), "{ours}");
        }
        let known = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
        assert_eq!(named.len(), known.len());
    }
}
