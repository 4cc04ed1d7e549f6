//! Many accounts and rules in one transaction, and imported hashes replaced by our own.

use std::collections::BTreeSet;
use std::sync::Arc;

use sqlx::{Sqlite, Transaction};

use super::accounts::{columns, now};
use super::{Accounts, Credential, NewRule, StoreError};

/// An account that is to be made.
#[derive(Debug, Clone)]
pub struct NewAccount {
    pub name: String,
    pub credential: Credential,
    pub roles: Vec<Arc<str>>,
    pub disabled: bool,
}

/// What an import changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportedRows {
    pub added: usize,
    /// Users that were there already and have the imported password, roles and state now.
    pub replaced: Vec<String>,
    /// Rules that were not there before.
    pub rules: usize,
    /// Rules that were replaced, for users and for roles.
    pub removed_rules: u64,
}

impl Accounts {
    /// Adds accounts and rules, all or nothing. A rule that is there already stays. A user that is there already is an
    /// error unless `replace`: then its password, roles and state become the imported ones; the rules that were for it
    /// alone, and for the roles that imported users have, go first.
    pub async fn import(
        &self,
        accounts: &[NewAccount],
        rules: &[NewRule],
        replace: bool,
    ) -> Result<ImportedRows, StoreError> {
        let mut done = ImportedRows::default();
        let mut change = self.change().await?;
        for account in accounts {
            self.import_account(&mut change, account, replace, &mut done)
                .await?;
        }
        if replace {
            done.removed_rules += self.clear_roles(&mut change, accounts).await?;
        }
        for rule in rules {
            done.rules += usize::from(self.insert_rule(&mut change, rule).await?.is_some());
        }
        self.commit(change).await?;
        Ok(done)
    }

    /// Replaces hashes, each given as name, old and new hash, unless the user has another hash than the old one by now.
    /// Returns how many were replaced.
    pub async fn upgrade_hashes(
        &self,
        upgrades: &[(Arc<str>, Arc<str>, Arc<str>)],
    ) -> Result<u64, StoreError> {
        let mut change = self.change().await?;
        let mut replaced = 0;
        for (name, old, new) in upgrades {
            let query = sqlx::query(
                "UPDATE users SET phc = ?, changed_at = ? WHERE name = ? AND phc = ? AND kind = 'argon2id'",
            );
            let query = query.bind(&**new).bind(now()).bind(&**name).bind(&**old);
            let result = query.execute(&mut *change).await;
            replaced += result.map_err(|error| self.error(error))?.rows_affected();
        }
        self.commit(change).await?;
        Ok(replaced)
    }

    async fn import_account(
        &self,
        change: &mut Transaction<'_, Sqlite>,
        account: &NewAccount,
        replace: bool,
        done: &mut ImportedRows,
    ) -> Result<(), StoreError> {
        let name = &account.name;
        match self.touch(change, name).await {
            Err(StoreError::NoSuchUser(_)) => {
                self.insert_user(change, name, &account.credential, &account.roles)
                    .await?;
                done.added += 1;
            }
            Err(error) => return Err(error),
            Ok(_) if !replace => return Err(StoreError::NameTaken(name.clone())),
            Ok(id) => {
                let (kind, phc, mac) = columns(&account.credential);
                let query = sqlx::query("UPDATE users SET kind = ?, phc = ?, mac = ? WHERE id = ?");
                let query = query.bind(kind).bind(phc).bind(mac).bind(id);
                self.run(change, query).await?;
                let query = sqlx::query("DELETE FROM user_roles WHERE user_id = ?").bind(id);
                self.run(change, query).await?;
                self.insert_roles(change, id, &account.roles).await?;
                let query = sqlx::query(
                    "DELETE FROM rules WHERE who_kind = 'user' AND realm = 'local' AND who = ?",
                );
                done.removed_rules += self.run(change, query.bind(name)).await?;
                done.replaced.push(name.clone());
            }
        }
        let query = sqlx::query("UPDATE users SET disabled = ? WHERE name = ?");
        self.run(change, query.bind(account.disabled).bind(name))
            .await?;
        Ok(())
    }

    /// What an earlier import made for its roles must not outlive what it came from.
    async fn clear_roles(
        &self,
        change: &mut Transaction<'_, Sqlite>,
        accounts: &[NewAccount],
    ) -> Result<u64, StoreError> {
        let roles: BTreeSet<&str> = accounts
            .iter()
            .flat_map(|account| account.roles.iter().map(|role| &**role))
            .collect();
        let mut removed = 0;
        for role in roles {
            let query = sqlx::query("DELETE FROM rules WHERE who_kind = 'role' AND who = ?");
            removed += self.run(change, query.bind(role.to_owned())).await?;
        }
        Ok(removed)
    }

    pub(super) async fn run(
        &self,
        change: &mut Transaction<'_, Sqlite>,
        query: sqlx::query::Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<u64, StoreError> {
        let result = query.execute(&mut **change).await;
        Ok(result.map_err(|error| self.error(error))?.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, hash: &str, roles: &[&str]) -> NewAccount {
        NewAccount {
            name: name.to_owned(),
            credential: Credential::Chosen(hash.into()),
            roles: roles.iter().map(|role| Arc::from(*role)).collect(),
            disabled: false,
        }
    }

    fn rule(effect: &str, who_kind: &str, who: &str) -> NewRule {
        NewRule {
            effect: effect.to_owned(),
            action: "publish".to_owned(),
            filter: "a/#".to_owned(),
            who_kind: who_kind.to_owned(),
            realm: if who_kind == "user" { "local" } else { "" }.to_owned(),
            who: who.to_owned(),
        }
    }

    #[tokio::test]
    async fn all_of_an_import_is_stored_or_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(dir.path()).await.unwrap();
        accounts
            .add_user("bob", &Credential::Chosen("old".into()), &[])
            .await
            .unwrap();
        let before = accounts.snapshot().await.unwrap();
        let users = [account("ann", "new", &["r"]), account("bob", "new", &["r"])];
        let rules = [rule("allow", "role", "r"), rule("allow", "user", "bob")];
        let refused = accounts.import(&users, &rules, false).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::NameTaken(name) if name == "bob"),
            "{refused}"
        );
        let broken = [rule("perhaps", "role", "r")];
        accounts
            .import(&users[..1], &broken, false)
            .await
            .unwrap_err();
        let after = accounts.snapshot().await.unwrap();
        assert_eq!((after.revision, after.users.len()), (before.revision, 1));
        assert_eq!(after.rules, before.rules);
    }

    #[tokio::test]
    async fn replacing_gives_a_user_the_imported_password_roles_state_and_rules_alone() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(dir.path()).await.unwrap();
        let bob = Credential::Chosen("old".into());
        accounts
            .add_user("bob", &bob, &["admin".into()])
            .await
            .unwrap();
        accounts
            .add_rule(&rule("deny", "user", "bob"))
            .await
            .unwrap();
        accounts
            .add_rule(&rule("allow", "role", "r"))
            .await
            .unwrap();
        let mut bob = account("bob", "new", &["r"]);
        bob.disabled = true;
        let rules = [rule("allow", "user", "bob")];
        let done = accounts
            .import(&[bob, account("ann", "x", &[])], &rules, true)
            .await
            .unwrap();
        let expected = ImportedRows {
            added: 1,
            replaced: vec!["bob".to_owned()],
            rules: 1,
            removed_rules: 2,
        };
        assert_eq!(done, expected);
        let snapshot = accounts.snapshot().await.unwrap();
        let user = &snapshot.users["bob"];
        assert!(user.disabled && user.credential == Credential::Chosen("new".into()));
        assert_eq!(*user.roles, [Arc::from("r")]);
        let own: Vec<_> = snapshot
            .rules
            .iter()
            .filter(|rule| rule.rule.who == "bob")
            .collect();
        assert_eq!((own.len(), own[0].rule.effect.as_str()), (1, "allow"));
        // A rule that is there already stays as it is.
        let again = accounts.import(&[], &rules, false).await.unwrap();
        assert_eq!(again.rules, 0);
    }

    // I3
    #[tokio::test]
    async fn a_hash_is_upgraded_unless_the_password_was_changed_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(dir.path()).await.unwrap();
        let users = [account("ann", "old", &[]), account("bob", "changed", &[])];
        accounts.import(&users, &[], false).await.unwrap();
        let upgrade = |name: &str| (name.into(), "old".into(), "new".into());
        let upgrades = [upgrade("ann"), upgrade("bob"), upgrade("nobody")];
        assert_eq!(accounts.upgrade_hashes(&upgrades).await.unwrap(), 1);
        let snapshot = accounts.snapshot().await.unwrap();
        let hash = |name: &str| snapshot.users[name].credential.clone();
        assert!(hash("ann") == Credential::Chosen("new".into()));
        assert!(hash("bob") == Credential::Chosen("changed".into()));
    }
}
