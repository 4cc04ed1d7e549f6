//! Does the gateway get its certificates from a CA, keep them fresh, and stay up when the CA does not? The CA is Pebble
//! with its fault injection on, its DNS is `pebble-challtestsrv`, and OpenSSL says what clients get.
//!
//! Pebble 2.4.0 has neither renewal information (RFC 9773) nor profiles nor rate limits: where a test is about those,
//! a small server of ours stands in front of Pebble's directory and adds them.

mod authority;
mod challenges;
mod failures;
mod renewal;
mod stand_in;
mod world;
