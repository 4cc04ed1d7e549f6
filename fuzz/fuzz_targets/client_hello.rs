//! The facts of a ClientHello: no bytes make the reader panic, what it says stays in bounds, and bytes behind the message
//! change nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../gateway/src/tls/client_hello.rs"]
mod client_hello;

use client_hello::{ClientHelloFacts, client_hello_facts};

fuzz_target!(|input: &[u8]| {
    let facts = client_hello_facts(input);
    assert!(facts.key_shares.len() <= 16);
    assert!(
        [None, Some(512), Some(1024), Some(2048), Some(4096)].contains(&facts.max_fragment_length)
    );
    if facts != ClientHelloFacts::default() {
        let longer = [input, b"\x16\x03\x03\x00\x05\x01\x00\x00\x01\x00"].concat();
        assert_eq!(client_hello_facts(&longer), facts);
    }
    // One record around the input, so that the fuzzer need not find the lengths.
    if let Ok(length) = u16::try_from(input.len()) {
        let mut record = vec![22, 3, 1];
        record.extend(length.to_be_bytes());
        record.extend(input);
        client_hello_facts(&record);
    }
});
