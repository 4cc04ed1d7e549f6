//! Does the gateway keep the normative statements of MQTT 5.0? Each test names those it proves, as `[MQTT-x.y.z-n]`,
//! over a raw connection and with a codec that is not the gateway's.

mod connect;
mod errors;
mod flow;
mod keep_alive;
mod publish;
mod redelivery;
mod retain;
mod session;
mod shared;
mod statements;
mod subscribe;
mod sys;
mod will;

use postern_tests::{Setup, Shared};

/// What this file's gateway accepts in flight from a client.
const RECEIVE_MAXIMUM: u16 = 20;

/// The gateway that most of these tests share.
async fn gateway() -> Shared {
    let limits = format!(
        "[limits]\nmax_sessions_per_principal = 1000\nreceive_maximum = {RECEIVE_MAXIMUM}\n"
    );
    Shared::start(Setup::new().toml(&limits).toml("[sys]\ninterval = \"1s\"")).await
}
