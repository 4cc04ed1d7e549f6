//! Which certificate does a client get, what happens when files change, and what does `postern cert` say? OpenSSL is
//! the client, and the judge of fingerprints.

mod authority;
mod command;
mod reload;
mod selection;

use std::net::SocketAddr;

use postern_tests::Gateway;
use postern_tests::peer::{Finished, Tool};

use authority::first_certificate;

/// What OpenSSL gets from this address, with these further options.
async fn s_client(to: SocketAddr, options: &[&str]) -> Finished {
    Tool::new("openssl")
        .args(["s_client", "-connect", &to.to_string()])
        .args(options)
        .run()
        .await
}

/// The certificate that a client gets which asks for `name`.
async fn served(gateway: &Gateway, name: &str) -> String {
    let finished = s_client(gateway.addresses.mqtts, &["-servername", name]).await;
    first_certificate(&finished.stdout).unwrap_or_else(|| panic!("no certificate: {finished}"))
}
