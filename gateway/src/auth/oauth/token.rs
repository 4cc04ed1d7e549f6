//! A token as a client presented it, kept out of every log.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;

/// An access token (RFC 6749, 1.4). `Debug` hides it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// The longest token that is looked at, in bytes: longer ones fit no CONNECT.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// `None`: these bytes are no token (RFC 6749, A.12), or too many.
    pub fn new(bytes: &[u8]) -> Option<Token> {
        let usable = (1..=Self::MAX_BYTES).contains(&bytes.len())
            && bytes.iter().all(|byte| matches!(byte, 0x21..=0x7E));
        let text = std::str::from_utf8(bytes).ok().filter(|_| usable)?;
        Some(Token(text.into()))
    }

    pub(super) fn secret(&self) -> &str {
        &self.0
    }

    pub fn is_jwt(&self) -> bool {
        looks_like_jwt(self.0.as_bytes())
    }

    /// SHA-256: under this it is remembered (I4).
    pub(super) fn digest(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Whether this has the form of a JWT in JWS compact serialization (RFC 7515, 7.1): three parts in base64url, of which the
/// first is a JSON object.
pub(in crate::auth) fn looks_like_jwt(bytes: &[u8]) -> bool {
    // What the octet of "{" becomes in base64url.
    let is_object = matches!(bytes, [b'e', b'w'..=b'z' | b'0'..=b'9' | b'-' | b'_', ..]);
    let mut parts = bytes.split(|byte| *byte == b'.');
    let is_base64 = |part: &[u8]| {
        let usable = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        part.iter().all(usable)
    };
    let is_full = |part: Option<&[u8]>| part.is_some_and(|part| part.len() > 1 && is_base64(part));
    let header_and_claims = is_full(parts.next()) && is_full(parts.next());
    // The signature of an unsigned one is empty.
    is_object && header_and_claims && parts.next().is_some_and(is_base64) && parts.next().is_none()
}

/// What stands for a token where names are counted and shown.
pub(in crate::auth) fn label(bytes: &[u8]) -> String {
    let digest = sha256(bytes);
    let mut label = String::from("token:");
    for byte in &digest[..4] {
        label.push_str(&format!("{byte:02x}"));
    }
    label
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut octets = [0; 32];
    octets.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_is_told_from_opaque_tokens_and_user_names() {
        for yes in [
            "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
            "eyJhbGciOiJub25lIn0.e30.",
            "ewo.e30.x-_",
        ] {
            assert!(looks_like_jwt(yes.as_bytes()), "{yes}");
            assert!(Token::new(yes.as_bytes()).unwrap().is_jwt());
        }
        for no in [
            "",
            "ann",
            "a.b.c",
            "eyJh.eyJz",
            "eyJh.eyJz.c.d",
            "eyJh..c",
            "eyJh.ey z.c",
            "3bi-x.y.z",
            "{}.{}.x",
        ] {
            assert!(!looks_like_jwt(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn a_token_shows_in_no_debug_output_and_its_label_is_a_digest() {
        let token = Token::new(b"very-secret").unwrap();
        assert_eq!(format!("{token:?}"), "Token(..)");
        let label = label(b"very-secret");
        assert!(label.len() == 14 && !label.contains("secret"), "{label}");
        assert_ne!(label, super::label(b"very-secres"));
        for bad in [&b""[..], b"a b", b"a\n", b"\xC3\xA4", b"\x7F"] {
            assert!(Token::new(bad).is_none());
        }
        assert!(Token::new(&vec![b'a'; Token::MAX_BYTES + 1]).is_none());
    }
}
