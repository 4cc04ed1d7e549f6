//! Do client certificates let in whom they should, and nobody else? Rules C1, I1, I2, P3, S5.

mod ca;
mod identity;
mod lists;
mod login;
mod revocation;
mod world;

use postern_tests::{Setup, Shared};

/// One listener for each way of asking.
const LISTENERS: &str = r#"
[listeners.required]
protocol = "mqtt"
bind = "127.0.0.1:0"
client_certificates = "required"
[listeners.optional]
protocol = "mqtt"
bind = "127.0.0.1:0"
client_certificates = "optional"
[listeners.both]
protocol = "mqtt"
bind = "127.0.0.1:0"
client_certificates = "required"
require = "both"
[listeners.nameless]
protocol = "mqtt"
bind = "127.0.0.1:0"
client_certificates = "required"
require = "both"
certificate_name = "none"
[listeners.web]
protocol = "websocket"
bind = "127.0.0.1:0"
client_certificates = "required"
"#;

/// The gateway of all tests that need no other.
async fn gateway() -> Shared {
    Shared::start(Setup::new().toml(LISTENERS)).await
}
