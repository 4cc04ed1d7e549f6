//! The PROXY header: no bytes make it panic or read a byte too many, and how they are split makes no difference.
//!
//! The first byte chooses a good start, so that a run from an empty corpus gets behind the signature at once; the second
//! says where the stream is split.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

#[allow(dead_code)]
#[path = "../../gateway/src/listen/proxy.rs"]
mod proxy;

const STARTS: [&[u8]; 4] = [b"", b"PROXY TCP4 ", b"PROXY TCP6 ", b"\r\n\r\n\0\r\nQUIT\n"];

thread_local! {
    static RUNTIME: LazyCell<Runtime> =
        const { LazyCell::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime")) };
}

fuzz_target!(|input: &[u8]| {
    let [choice, split, rest @ ..] = input else {
        return;
    };
    let bytes = [STARTS[usize::from(choice % 4)], rest].concat();
    let (one, other) = bytes.split_at(bytes.len().min(usize::from(*split)));
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let mut whole = &bytes[..];
            let first = proxy::read(&mut whole).await;
            let mut cut = one.chain(other);
            let second = proxy::read(&mut cut).await;
            assert_eq!(first.is_ok(), second.is_ok());
            if let (Ok(first), Ok(second)) = (first, second) {
                assert_eq!(first, second);
                let mut left = Vec::new();
                cut.read_to_end(&mut left).await.expect("memory can be read");
                assert_eq!(left, whole, "what follows is left alone");
            }
        });
    });
});
