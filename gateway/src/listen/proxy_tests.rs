//! N2: every kind of header, whole, in pieces, and wrong.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

const BEHIND: &[u8] = b"\x16\x03\x01 what follows";

/// Reads a header from `bytes`, which come in two pieces, and checks that what follows is untouched if it is one.
fn read_split(bytes: &[u8], split: usize) -> Result<Source, ProxyError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut proxy, mut stream) = tokio::io::duplex(8192);
        let (one, other) = bytes.split_at(split.min(bytes.len()));
        let reading = async {
            let result = read(&mut stream).await;
            let mut rest = Vec::new();
            if result.is_ok() {
                stream.read_to_end(&mut rest).await.unwrap();
            }
            (result, rest)
        };
        let writing = async {
            proxy.write_all(one).await.unwrap();
            tokio::task::yield_now().await;
            proxy.write_all(other).await.unwrap();
            drop(proxy);
        };
        let ((result, rest), ()) = tokio::join!(reading, writing);
        if result.is_ok() {
            assert_eq!(rest, BEHIND, "what follows is left alone");
        }
        result
    })
}

fn v1(line: &str) -> Vec<u8> {
    [line.as_bytes(), BEHIND].concat()
}

fn v2(version_command: u8, family_protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([version_command, family_protocol]);
    header.extend((rest.len() as u16).to_be_bytes());
    [&header, rest, BEHIND].concat()
}

const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 1, 0x30, 0x39, 0x22, 0xb3];

fn address(text: &str) -> Source {
    Some(text.parse().unwrap())
}

#[test]
fn each_header_says_whose_connection_it_is_however_it_is_cut() {
    let v6: Vec<u8> = [
        &[0x20, 1, 0x0d, 0xb8][..],
        &[0; 11],
        &[1],
        &[0; 16],
        &[0x30, 0x39, 1, 2],
    ]
    .concat();
    // A TLV of each kind of length: an authority, and nothing.
    let tlvs = [V4, b"\x02\x00\x04name\x04\x00\x00"].concat();
    let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
    let cases = [
        (
            v1("PROXY TCP4 192.0.2.1 198.51.100.1 12345 8883\r\n"),
            address("192.0.2.1:12345"),
        ),
        (
            v1("PROXY TCP6 2001:db8::1 2001:db8::2 12345 8883\r\n"),
            address("[2001:db8::1]:12345"),
        ),
        (v1("PROXY UNKNOWN\r\n"), None),
        (v1(longest), None),
        (v2(0x21, 0x11, V4), address("192.0.2.1:12345")),
        (v2(0x21, 0x11, &tlvs), address("192.0.2.1:12345")),
        (v2(0x21, 0x21, &v6), address("[2001:db8::1]:12345")),
        (v2(0x20, 0x00, b""), None),
        // A health check with addresses is still the proxy's own connection.
        (v2(0x20, 0x11, V4), None),
        (v2(0x21, 0x00, b""), None),
    ];
    for (bytes, expected) in cases {
        for split in 0..bytes.len() {
            assert_eq!(read_split(&bytes, split).unwrap(), expected, "{split}");
        }
    }
}

#[test]
fn what_is_no_header_is_refused_without_waiting_for_more() {
    let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    for (bytes, expected) in [
        (b"\x16\x03\x01\x02\x00\x01".to_vec(), "does not begin with"),
        (b"P".to_vec(), "ended within"),
        (b"".to_vec(), "closed without"),
        (b"PROXY TCP4 192.0.2.1".to_vec(), "ended within"),
        (v1("PROXY TCP4 192.0.2.256 1.1.1.1 1 1\r\n"), "version 1"),
        (v1("PROXY TCP4 192.0.2.1 1.1.1.1 1 65536\r\n"), "version 1"),
        (v1("PROXY TCP4  192.0.2.1 1.1.1.1 1 1\r\n"), "version 1"),
        (v1("PROXY TCP6 192.0.2.1 1.1.1.1 1 1\r\n"), "version 1"),
        (v1("PROXY UDP4 192.0.2.1 1.1.1.1 1 1\r\n"), "version 1"),
        (v1(&too_long), "version 1"),
        (v2(0x11, 0x11, V4), "version 2"),
        (v2(0x22, 0x11, V4), "version 2"),
        (v2(0x21, 0x51, V4), "version 2"),
        (v2(0x21, 0x11, &V4[..11]), "version 2"),
        (v2(0x21, 0x12, V4), "not for a TCP"),
        (v2(0x21, 0x31, &[0; 216]), "not for a TCP"),
        (v2(0x21, 0x11, &[0; 2033]), "2049 bytes"),
    ] {
        let error = read_split(&bytes, 3).unwrap_err().to_string();
        assert!(error.contains(expected), "{bytes:02x?}: {error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_read_too_far(
        start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n"]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
        split in 0usize..320,
    ) {
        // Not followed by anything known: only the reader's own bounds hold it.
        let bytes = [start, &rest].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut stream: &[u8] = &bytes;
        let whole = runtime.block_on(read(&mut stream));
        if let Ok(source) = whole {
            let used = bytes.len() - stream.len();
            let again = [&bytes[..used], BEHIND].concat();
            prop_assert_eq!(read_split(&again, split).unwrap(), source);
        }
    }
}
