//! Who are the clients? Users written into the data directory of a gateway that does not run: what `postern user add`
//! does 2,000 times, without starting it as often.

use std::path::Path;
use std::sync::Arc;

use gateway::auth::{Authenticator, SecretKey, Settings, Users, generate_secret};
use gateway::store::{Accounts, Credential};
use postern_tests::Account;

pub struct Accounted {
    pub generated: Vec<Account>,
    pub chosen: Vec<Account>,
}

/// The password of everybody who chose one.
const PASSWORD: &str = "correct horse battery staple";

pub async fn provision(data: &Path, generated: usize, chosen: usize) -> Accounted {
    let accounts = Accounts::open(data).await.expect("the accounts");
    let check = accounts.key_check().await.expect("a check of the key");
    let key = SecretKey::open(data, check.as_deref()).expect("the key");
    let key = Arc::new(key);
    let authenticator =
        Authenticator::new(Arc::new(Users::default()), key.clone(), Settings::default());
    // One hash for all: each of them is verified by itself all the same.
    let hash = authenticator
        .expect("an authenticator")
        .hash_password(PASSWORD.as_bytes())
        .await
        .expect("a hash");
    let mut users = Accounted {
        generated: Vec::new(),
        chosen: Vec::new(),
    };
    for n in 0..generated {
        let name = format!("device-{n}");
        let password = generate_secret().expect("a secret");
        let credential = Credential::Generated(key.hash(&name, password.as_bytes()));
        add(&accounts, &name, &credential).await;
        users.generated.push(Account { name, password });
    }
    for n in 0..chosen {
        let (name, password) = (format!("person-{n}"), PASSWORD.to_owned());
        add(&accounts, &name, &hash).await;
        users.chosen.push(Account { name, password });
    }
    accounts.close().await;
    users
}

async fn add(accounts: &Accounts, name: &str, credential: &Credential) {
    let added = accounts.add_user(name, credential, &[]).await;
    added.unwrap_or_else(|error| panic!("{name}: {error}"));
}
