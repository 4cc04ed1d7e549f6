//! Is there a way around the access rules? Every door a message or a subscription could slip through, with rules made
//! by the command line against a running gateway.

mod live;
mod rules;
mod sessions;
mod side_doors;

use postern_tests::{Account, Client, Connect, Gateway, Publish, Scope, Setup, Shared};

const NOT_AUTHORIZED: u8 = 0x87;

async fn gateway() -> Shared {
    Shared::start(Setup::new()).await
}

/// A user who may publish and subscribe `allowed` (filters relative to the scope), and its scope.
async fn user(gateway: &Gateway, scope: &Scope, allowed: &[&str]) -> Account {
    let account = gateway.add_user(&scope.id("user"), &[]).await;
    for filter in allowed {
        for action in ["publish", "subscribe"] {
            gateway
                .acl(&format!(
                    "allow {action} {} --user {}",
                    scope.topic(filter),
                    account.name
                ))
                .await;
        }
    }
    account
}

async fn connect(gateway: &Gateway, account: &Account, id: &str) -> Client {
    gateway
        .connect(Connect::v5(id).user(&account.name, &account.password))
        .await
}

/// The first account sees everything of the scope.
async fn watch(gateway: &Gateway, scope: &Scope) -> Client {
    let mut watcher = gateway.v5(&scope.id("watcher")).await;
    watcher.subscribe(&scope.topic("#"), 2).await;
    watcher
}

/// The topics that the watcher saw before a marker.
async fn seen(watcher: &mut Client, scope: &Scope) -> Vec<String> {
    let end = scope.topic("end");
    watcher.publish(Publish::new(&end, "").qos(2)).await;
    watcher
        .receive_until(&end)
        .await
        .into_iter()
        .map(|message| message.topic)
        .collect()
}

/// What a client of the user got before a marker that it may see.
async fn got(client: &mut Client, publisher: &mut Client, marker: &str) -> Vec<String> {
    publisher.publish(Publish::new(marker, "").qos(1)).await;
    client
        .receive_until(marker)
        .await
        .into_iter()
        .map(|message| message.topic)
        .collect()
}
