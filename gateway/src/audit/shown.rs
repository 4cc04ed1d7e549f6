//! As much of a text as may be kept: bounded, and no secret.

use std::borrow::Cow;

/// Bytes of a name that a stranger gave.
const NAME_MAX: usize = 80;
/// Bytes of what looks like a secret that tell one from another.
const HINT: usize = 6;
/// The beginning of generated passwords and device secrets, and of a JWT: `{"` in base64url.
const SECRETS: [&str; 2] = ["pst_", "eyJ"];
/// A text without any gap of this many bytes is a token sooner than a name; a UUID has 36.
const TOKEN_MIN: usize = 40;

/// The text, cut at `max` bytes.
pub fn shown(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end));
    let kept = &text[..end.unwrap_or(0)];
    Cow::Owned(format!("{kept}… ({} bytes)", text.len()))
}

/// A user name or a client identifier as a client gave it. Clients put tokens and passwords there: what looks like one is
/// cut to its first bytes.
pub fn shown_name(name: &str) -> Cow<'_, str> {
    match is_like_secret(name) {
        true => shown(name, HINT),
        false => shown(name, NAME_MAX),
    }
}

fn is_like_secret(name: &str) -> bool {
    let encoded = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+/=".contains(&byte);
    let prefixed = SECRETS.iter().any(|prefix| name.starts_with(prefix));
    let bearer = name
        .get(..7)
        .is_some_and(|start| start.eq_ignore_ascii_case("bearer "));
    prefixed || bearer || (name.len() >= TOKEN_MIN && name.bytes().all(encoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_token_is_cut_and_a_name_is_not() {
        for name in [
            "",
            "ann",
            "sensor-7",
            "Jörg Müller",
            "9b2e2f3e-8a55-4f0f-9d7e-0f6b7d1b6a11",
            "ann.example@mail.of-a-company.example.org's phone",
        ] {
            assert_eq!(shown_name(name), name);
        }
        for (secret, kept) in [
            (
                "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
                "eyJhbG… (41 bytes)",
            ),
            ("pst_abcdefghijklmnopqrstuvwxyz234567", "pst_ab… (36 bytes)"),
            (
                "3biXy0JqTnGq7XbHf3n5yV1wqk8l2mZp4rS6tU9vWaD",
                "3biXy0… (43 bytes)",
            ),
            ("Bearer abc", "Bearer… (10 bytes)"),
        ] {
            assert_eq!(shown_name(secret), kept);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shown("äää", 3), "ä… (6 bytes)");
        assert_eq!(
            shown(&"x y".repeat(40), 80).len(),
            80 + "… (120 bytes)".len()
        );
        assert_eq!(shown("abc", 3), "abc");
    }
}
