//! What exactly is there again after a restart? One rule at a time, through a SIGKILL and through a SIGTERM. That
//! nothing is lost under load and at any moment is for `crash` and `power_loss` to show.

mod inflight;
mod messages;
mod sessions;
mod shared;
mod wills;

use std::ops::Deref;
use std::time::Duration;

use postern_tests::{Client, Connect, Gateway, Publish, Setup};
use tempfile::TempDir;
use tokio::time::Instant;

/// How the gateway ends before it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Kill,
    Term,
}

pub(crate) const ENDS: [End; 2] = [End::Kill, End::Term];

/// `session.restart_will_grace` of these tests.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// Session expiry that no test outlives, seconds.
pub(crate) const LONG: u32 = 3600;

/// A data directory with a gateway on it, and then the next one.
pub(crate) struct House {
    gateway: Option<Gateway>,
    toml: String,
}

impl Deref for House {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        self.gateway.as_ref().expect("it runs between the ends")
    }
}

impl House {
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// With more TOML tables; `[limits]` must then raise `max_sessions_per_principal` itself.
    pub(crate) async fn with(tables: &str) -> Self {
        let toml = format!(
            "{tables}\n[session]\nrestart_will_grace = \"{}s\"\n",
            GRACE.as_secs()
        );
        let gateway = Setup::new().toml(&toml).start().await;
        Self {
            gateway: Some(gateway),
            toml,
        }
    }

    pub(crate) async fn restart(&mut self, end: End) {
        let dir = self.end(end).await;
        self.start_again(dir).await;
    }

    /// Restarts with a pause that lasts until `moment`: what expires does so while nobody is there.
    pub(crate) async fn restart_after(&mut self, end: End, moment: Instant) {
        let dir = self.end(end).await;
        tokio::time::sleep_until(moment).await;
        self.start_again(dir).await;
    }

    async fn end(&mut self, end: End) -> TempDir {
        let gateway = self.gateway.take().expect("it runs");
        match end {
            End::Kill => gateway.kill().await,
            End::Term => gateway.stop().await,
        }
    }

    async fn start_again(&mut self, dir: TempDir) {
        self.gateway = Some(Setup::new().toml(&self.toml).start_in(dir).await);
    }

    /// An MQTT 5 client with a session that stays.
    pub(crate) async fn lasting(&self, client_id: &str) -> Client {
        self.connect(Connect::v5(client_id).persistent(LONG)).await
    }

    /// The same, whose session is there already.
    pub(crate) async fn back(&self, client_id: &str) -> Client {
        let client = self.lasting(client_id).await;
        assert!(
            client.connack.session_present,
            "the session of {client_id} is gone"
        );
        client
    }

    /// Makes a session with a subscription, and leaves.
    pub(crate) async fn absent(&self, client_id: &str, filter: &str, options: u8) {
        let mut client = self.lasting(client_id).await;
        assert_eq!(client.subscribe(filter, options).await, options & 3);
        client.disconnect().await;
    }

    /// Publishes as a client that keeps no session.
    pub(crate) async fn publish(&self, publish: Publish) {
        let mut client = self.v5("publisher").await;
        let code = client.publish(publish).await;
        assert!(code < 0x80, "refused with {code:#04x}");
        client.disconnect().await;
    }

    /// What rides with the next transaction (D5) has ridden: a message that must be stored was acknowledged.
    pub(crate) async fn settle(&self) {
        self.absent("settled", "settle", 1).await;
        self.publish(Publish::new("settle", "").qos(1)).await;
    }
}

/// Publishes a marker to `client`'s own subscription `end`, and returns the texts of what came before it.
pub(crate) async fn texts_until_end(client: &mut Client) -> Vec<String> {
    client.publish(Publish::new("end", "").qos(1)).await;
    let before = client.receive_until("end").await;
    before.iter().map(|p| p.text().to_owned()).collect()
}
