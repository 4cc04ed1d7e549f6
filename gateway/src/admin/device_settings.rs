//! The settings line: everything that our firmware needs to reach the gateway, in one line that can be typed, scanned
//! or pasted into its configuration page.
//!
//! ```text
//! line   = "postern:1" 1*(";" key "=" value)
//! key    = 1*lower-case-letter
//! value  = *(unreserved / "%" 2upper-case-hexadecimal-digit)
//! ```
//!
//! `unreserved` is that of RFC 3986: letters, digits and `- . _ ~`. Every other octet of a value is `%` and two
//! digits, so that no value holds a `;`, `=` or space, the line can stand behind the `#` of a URL, and a parser splits
//! before it decodes: in place, since decoding only makes it shorter.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::DeviceGiven;

/// The line for a device that was just given its secret. At most 700 bytes.
pub fn settings_line(given: &DeviceGiven) -> String {
    let mut line = String::from("postern:1");
    let (host, port) = (&given.place.host, given.place.port.to_string());
    let pin = URL_SAFE_NO_PAD.encode(octets(&given.place.pin));
    for (key, value) in [
        ("h", host),
        ("p", &port),
        ("i", &given.id),
        ("s", &given.secret.0),
        ("pin", &pin),
    ] {
        let _ = write!(line, ";{key}=");
        escape(value, &mut line);
    }
    line
}

fn escape(value: &str, line: &mut String) {
    for octet in value.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                line.push(char::from(octet));
            }
            other => {
                let _ = write!(line, "%{other:02X}");
            }
        }
    }
}

/// The octets of hexadecimal digits.
fn octets(digits: &str) -> Vec<u8> {
    let digit = |octet: u8| char::from(octet).to_digit(16).unwrap_or(0) as u8;
    let pairs = digits.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Place, Secret};
    use proptest::prelude::*;

    fn given(host: &str, id: &str) -> DeviceGiven {
        DeviceGiven {
            message: String::new(),
            id: id.to_owned(),
            secret: Secret("pst_0123".to_owned()),
            roles: Vec::new(),
            place: Place {
                host: host.to_owned(),
                port: 8883,
                pin: "fb".repeat(32),
                ca: None,
            },
            publish: Vec::new(),
            subscribe: Vec::new(),
            certificate: None,
            warnings: Vec::new(),
        }
    }

    /// As a device does it: splits first, then decodes.
    fn parse(line: &str) -> Option<Vec<(&str, Vec<u8>)>> {
        let rest = line.strip_prefix("postern:1;")?;
        rest.split(';')
            .map(|pair| {
                let (key, value) = pair.split_once('=')?;
                let (mut decoded, mut rest) = (Vec::new(), value.as_bytes());
                while let [first, tail @ ..] = rest {
                    rest = match (first, tail) {
                        (b'%', [a, b, tail @ ..]) => {
                            decoded.extend(octets(std::str::from_utf8(&[*a, *b]).ok()?));
                            tail
                        }
                        _ => {
                            decoded.push(*first);
                            tail
                        }
                    };
                }
                Some((key, decoded))
            })
            .collect()
    }

    #[test]
    fn the_line_has_the_form_that_is_documented() {
        assert_eq!(
            settings_line(&given("mqtt.example.org", "lamp 1")),
            format!(
                "postern:1;h=mqtt.example.org;p=8883;i=lamp%201;s=pst_0123;pin={}",
                URL_SAFE_NO_PAD.encode([0xfb; 32])
            )
        );
        let longest = settings_line(&given(&"h".repeat(253), &"ä".repeat(32)));
        assert!(longest.len() + 48 <= 700, "{}", longest.len());
    }

    proptest! {
        #[test]
        fn every_value_comes_back_and_no_octet_of_it_can_break_the_line(id in "\\PC{1,20}", host in "[a-f0-9:.]{1,40}") {
            let line = settings_line(&given(&host, &id));
            prop_assert!(line.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._~%:;=".contains(&octet)));
            let parsed = parse(&line).unwrap();
            let keys: Vec<&str> = parsed.iter().map(|(key, _)| *key).collect();
            prop_assert_eq!(keys, ["h", "p", "i", "s", "pin"]);
            prop_assert_eq!(&parsed[0].1, host.as_bytes());
            prop_assert_eq!(&parsed[2].1, id.as_bytes());
        }
    }
}
