//! Does an imported policy answer as the Mosquitto it came from? A real Mosquitto and a gateway side by side, asked the
//! same questions with the same passwords.

mod acl_file;
mod dynsec;
mod mosquitto;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use postern_tests::client::tcp;
use postern_tests::packet::Version;
use postern_tests::peer::Tool;
use postern_tests::wait::until_some;
use postern_tests::{Client, Connect, Gateway, Publish, Scope};
use serde_json::Value;

/// Who asks: an old account, or nobody.
#[derive(Debug, Clone, Copy)]
struct Login {
    name: Option<&'static str>,
    password: &'static str,
}

impl Login {
    const fn new(name: &'static str, password: &'static str) -> Self {
        Login {
            name: Some(name),
            password,
        }
    }

    const ANONYMOUS: Login = Login {
        name: None,
        password: "",
    };

    /// The first account of a gateway, whom no import concerns.
    fn first_account(gateway: &Gateway) -> Self {
        let leaked = |text: &str| -> &'static str { text.to_owned().leak() };
        Login::new(leaked(&gateway.admin.name), leaked(&gateway.admin.password))
    }

    fn connect(self) -> Connect {
        let connect = Connect::v5(&Scope::new().id("import"));
        match self.name {
            Some(name) => connect.user(name, self.password),
            None => connect.anonymous(),
        }
    }
}

/// Everybody may read it: what is published to it last shows that everything before it has come.
const END: &str = "end/now";

/// One of the two brokers.
#[derive(Debug, Clone, Copy)]
struct Broker {
    address: SocketAddr,
    /// May publish everything.
    boss: Login,
}

impl Broker {
    async fn try_connect(self, login: Login) -> Client {
        let mut client = Client::over(tcp(None, self.address).await, Version::V5);
        client.connect(&login.connect()).await;
        client
    }

    async fn connect(self, login: Login) -> Client {
        let client = self.try_connect(login).await;
        assert_eq!(client.connack.code, 0, "{login:?} at {self:?}");
        client
    }

    /// The topics that may be published to.
    async fn publishable(self, login: Login, topics: &[&'static str]) -> BTreeSet<&'static str> {
        let mut client = self.connect(login).await;
        let mut allowed = BTreeSet::new();
        for topic in topics {
            if client.publish(Publish::new(topic, "x").qos(1)).await < 0x80 {
                allowed.insert(*topic);
            }
        }
        allowed
    }

    /// Whether the filter is granted, and which of the topics then arrive.
    async fn received(
        self,
        login: Login,
        filter: &str,
        topics: &[&'static str],
    ) -> (bool, BTreeSet<String>) {
        let mut client = self.connect(login).await;
        let granted = client.subscribe(filter, 0).await < 0x80;
        assert!(client.subscribe(END, 0).await < 0x80, "{login:?}");
        let mut boss = self.connect(self.boss).await;
        for topic in topics {
            let code = boss.publish(Publish::new(topic, "x").qos(1)).await;
            assert!(code < 0x80, "the boss may publish to {topic}: {code:#x}");
        }
        boss.publish(Publish::new(END, "").qos(1)).await;
        let messages = client.receive_until(END).await;
        (
            granted,
            messages.into_iter().map(|message| message.topic).collect(),
        )
    }
}

/// What the replay said: the user, the action and the topic of each difference of a class.
struct Report(Value);

impl Report {
    fn count(&self, class: &str) -> u64 {
        self.0["replay"][class]
            .as_u64()
            .unwrap_or_else(|| panic!("no {class} in {}", self.0))
    }

    fn differences(&self, class: &str) -> impl Iterator<Item = &Value> {
        let differences = self.0["replay"]["differences"].as_array().expect("a list");
        differences
            .iter()
            .filter(move |difference| difference["class"] == class)
    }

    fn says(&self, class: &str, login: Login, action: &str, topic: &str) -> bool {
        self.differences(class).any(|difference| {
            difference["user"].as_str() == login.name
                && difference["action"] == action
                && difference["topic"] == topic
        })
    }

    fn findings(&self, kind: &str) -> Vec<String> {
        let findings = self.0["findings"].as_array().expect("a list").iter();
        let found = findings.filter(|finding| finding["kind"] == kind);
        found
            .map(|finding| finding["text"].as_str().expect("text").to_owned())
            .collect()
    }
}

/// The same publishes get the same answers, except those of which the report says that they are narrower here.
async fn same_publishes(
    old: Broker,
    new: Broker,
    report: &Report,
    logins: &[Login],
    topics: &[&'static str],
) {
    for login in logins {
        let there = old.publishable(*login, topics).await;
        let here = new.publishable(*login, topics).await;
        for topic in topics {
            let narrower = report.says("narrower", *login, "publish", topic);
            assert_eq!(
                (there.contains(topic), here.contains(topic)),
                (there.contains(topic), there.contains(topic) && !narrower),
                "{login:?} publishes to {topic}; narrower: {narrower}"
            );
            assert!(
                !narrower || there.contains(topic),
                "{login:?} {topic}: it was allowed there"
            );
        }
    }
}

/// The same subscriptions give the same messages. Where one is refused here alone, the report says so if it delivered
/// anything, and each of its messages can be had by its topic.
async fn same_messages(
    old: Broker,
    new: Broker,
    report: &Report,
    logins: &[Login],
    filters: &[&'static str],
    topics: &[&'static str],
) {
    for login in logins {
        for filter in filters {
            let (granted_there, there) = old.received(*login, filter, topics).await;
            let (granted_here, here) = new.received(*login, filter, topics).await;
            let lost = |topic: &&String| report.says("narrower", *login, "receive", topic);
            let wanted: BTreeSet<String> =
                there.iter().filter(|topic| !lost(topic)).cloned().collect();
            if granted_there && !granted_here {
                let said = report.says("refused", *login, "subscribe", filter);
                assert!(
                    said || there.is_empty(),
                    "{login:?} {filter}: the report does not tell of it"
                );
                for topic in &wanted {
                    let (granted, messages) = new.received(*login, topic, topics).await;
                    assert!(
                        granted && messages.contains(topic),
                        "{login:?} cannot have {topic}"
                    );
                }
                continue;
            }
            assert_eq!(
                granted_here, granted_there,
                "{login:?} subscribes to {filter}"
            );
            assert_eq!(here, wanted, "{login:?} subscribes to {filter}");
        }
    }
}

/// What the accounts database holds for a user.
async fn stored_hash(gateway: &Gateway, name: &str) -> String {
    let script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT phc FROM users WHERE name = ?', \
                  (sys.argv[2],)).fetchone()[0])";
    let database = gateway.data.join("accounts.db");
    let tool = Tool::new("python3")
        .args(["-c", script])
        .arg(database)
        .arg(name);
    tool.run().await.expect_success().only_line()
}

/// I3: the imported hash is replaced once its user has logged in.
async fn own_hash(gateway: &Gateway, name: &str) {
    until_some(&format!("a hash of our own for {name}"), async || {
        let hash = stored_hash(gateway, name).await;
        hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$")
            .then_some(())
    })
    .await;
}
