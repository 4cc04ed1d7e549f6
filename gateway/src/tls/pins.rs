//! What do devices without a trust store compare? Fingerprints and pins of a certificate, in the
//! forms that their firmware takes.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

use super::certificate::Certificate;
use super::fingerprint::{hex, hex_with_colons};

/// The leaf's fingerprints and pins. Those of the certificate change with each renewal; those of the
/// public key stay as long as the private key stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pins {
    /// SHA-256 of the certificate, `AA:BB:…`.
    pub sha256: String,
    /// SHA-1 of the certificate, `AA:BB:…`: Arduino's `setFingerprint`.
    pub sha1: String,
    /// SHA-1 of the certificate, 40 lower-case digits: ESPHome's `ssl_fingerprints`.
    pub sha1_digits: String,
    /// SHA-256 of the SubjectPublicKeyInfo (RFC 7469, 2.4), 64 lower-case digits.
    pub spki_sha256: String,
    /// Tasmota's own fingerprint of the public key, `AA BB …`; it has none for some kinds of key.
    pub tasmota: Option<String>,
    /// The public key in PEM: Arduino's `setKnownKey`.
    pub public_key: String,
}

impl Pins {
    /// The pins of this certificate.
    pub fn of(certificate: &Certificate) -> Self {
        let public_key = pem::Pem::new("PUBLIC KEY", certificate.public_key());
        let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        Self {
            sha256: hex_with_colons(&certificate.sha256()),
            sha1: hex_with_colons(&certificate.sha1()),
            sha1_digits: hex(&certificate.sha1()),
            spki_sha256: hex(&certificate.spki_sha256()),
            tasmota: tasmota(certificate.public_key())
                .map(|digest| hex_with_colons(&digest).replace(':', " ")),
            public_key: pem::encode_config(&public_key, lines),
        }
    }
}

/// The fingerprint that Tasmota calculates since 8.4: SHA-1 over a tag and the numbers of the key,
/// each with its length in four octets before it. It has a tag for RSA, and one for ECDSA that is
/// that of P-256.
fn tasmota(public_key: &[u8]) -> Option<[u8; 20]> {
    let (_, spki) = SubjectPublicKeyInfo::from_der(public_key).ok()?;
    let parts: Vec<&[u8]> = match spki.parsed().ok()? {
        PublicKey::RSA(key) => vec![
            b"ssh-rsa",
            without_sign(key.exponent),
            without_sign(key.modulus),
        ],
        PublicKey::EC(point) if point.key_size() == 256 => {
            vec![b"ecdsa-sha2-nistp256", &spki.subject_public_key.data]
        }
        _ => return None,
    };
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    for part in parts {
        context.update(&u32::try_from(part.len()).ok()?.to_be_bytes());
        context.update(part);
    }
    let mut octets = [0; 20];
    octets.copy_from_slice(context.finish().as_ref());
    Some(octets)
}

/// DER puts a zero octet before a positive number whose first bit is set.
fn without_sign(number: &[u8]) -> &[u8] {
    match number {
        [0, rest @ ..] if !rest.is_empty() => rest,
        number => number,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Authority;
    use super::*;

    #[test]
    fn pins_have_the_forms_that_devices_take() {
        let ca = Authority::new("CA");
        let pins = Pins::of(&ca.ecdsa(&["a.example.org"]).load().unwrap());
        assert_eq!(pins.sha1.len(), 59);
        assert_eq!(pins.sha1.replace(':', "").to_lowercase(), pins.sha1_digits);
        assert_eq!(pins.spki_sha256.len(), 64);
        let tasmota = pins.tasmota.unwrap();
        assert_eq!(tasmota.split(' ').count(), 20);
        assert!(pins.public_key.starts_with("-----BEGIN PUBLIC KEY-----\n"));
        assert!(pins.public_key.ends_with("-----END PUBLIC KEY-----\n"));
    }

    #[test]
    fn the_modulus_counts_without_the_octet_that_der_puts_before_it() {
        assert_eq!(without_sign(&[0, 0x80, 1]), [0x80, 1]);
        assert_eq!(without_sign(&[1, 0, 1]), [1, 0, 1]);
        assert_eq!(without_sign(&[0]), [0]);
    }

    #[test]
    fn a_pin_of_the_key_survives_a_renewal_and_a_fingerprint_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let names = |more: &[String]| super::super::server_names(more).unwrap();
        let ca = super::super::PrivateCa::open(directory.path(), names(&[])).unwrap();
        let before = Pins::of(&Certificate::load(&ca.source()).unwrap());
        let more = names(&["new.example.org".to_owned()]);
        let ca = super::super::PrivateCa::open(directory.path(), more).unwrap();
        let after = Pins::of(&Certificate::load(&ca.source()).unwrap());
        assert_ne!((&before.sha1, &before.sha256), (&after.sha1, &after.sha256));
        assert_eq!(before.spki_sha256, after.spki_sha256);
        assert_eq!(before.tasmota, after.tasmota);
        assert_eq!(before.public_key, after.public_key);
    }
}
