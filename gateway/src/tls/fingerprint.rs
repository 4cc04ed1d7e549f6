//! How are certificates and keys told apart? Digests, and the two ways in which people write them.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

pub fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, octets).as_ref());
    out
}

/// What old devices compare, and good for nothing else.
pub fn sha1(octets: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    out.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, octets).as_ref());
    out
}

/// `aabb…`.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// `AA:BB:…`, as `openssl x509 -fingerprint` prints it.
pub fn hex_with_colons(octets: &[u8]) -> String {
    let octets: Vec<String> = octets.iter().map(|octet| format!("{octet:02X}")).collect();
    octets.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 6234, 8.5, TEST1.
    #[test]
    fn digests_are_those_of_the_standard_in_both_spellings() {
        assert_eq!(
            hex(&sha1(b"abc")),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            hex(&sha256(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(hex_with_colons(&[0, 0xab, 9]), "00:AB:09");
    }
}
