//! Devices: users with a generated secret, and what was last seen of them. Who may be one is `auth`'s business.

use std::sync::Arc;

use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::accounts::{Accounts, now};
use super::{Credential, NewRule, StoreError};

/// What is known of a device besides its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDevice {
    pub name: String,
    /// Seconds since 1970; none while it has its first secret.
    pub rotated_at: Option<i64>,
    /// When it last came or left, in seconds since 1970.
    pub seen_at: Option<i64>,
    pub address: Option<String>,
    pub firmware: Option<String>,
}

/// That a device came or left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sighting {
    pub name: Arc<str>,
    /// Seconds since 1970.
    pub at: i64,
    pub address: String,
    /// Without one, what is stored stays.
    pub firmware: Option<String>,
}

impl Accounts {
    /// Adds a device. `role_rules` are the rules of the role that devices have unless told otherwise: they are stored
    /// with the first device that comes with them, unless there are rules for that role already, and never again.
    /// Returns how many rules were made.
    pub async fn add_device(
        &self,
        name: &str,
        credential: &Credential,
        roles: &[Arc<str>],
        role_rules: &[NewRule],
    ) -> Result<usize, StoreError> {
        let mut change = self.change().await?;
        self.insert_user(&mut change, name, credential, roles)
            .await?;
        let query =
            sqlx::query("INSERT INTO devices (user_id) SELECT id FROM users WHERE name = ?");
        self.run(&mut change, query.bind(name)).await?;
        let mut made = 0;
        if let Some(first) = role_rules.first() {
            const MARK: &str = "UPDATE state SET device_role_made = 1 WHERE device_role_made = 0";
            const KNOWN: &str = "SELECT count(*) FROM rules WHERE who_kind = ? AND who = ?";
            let is_first = self.run(&mut change, sqlx::query(MARK)).await? == 1;
            let known: i64 = sqlx::query_scalar(KNOWN)
                .bind(&first.who_kind)
                .bind(&first.who)
                .fetch_one(&mut *change)
                .await
                .map_err(|error| self.error(error))?;
            if is_first && known == 0 {
                for rule in role_rules {
                    made += usize::from(self.insert_rule(&mut change, rule).await?.is_some());
                }
            }
        }
        self.commit(change).await?;
        Ok(made)
    }

    /// Gives a device another secret.
    pub async fn rotate_device(
        &self,
        name: &str,
        credential: &Credential,
    ) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let id = self.touch(&mut change, name).await?;
        let query = sqlx::query("UPDATE devices SET rotated_at = ? WHERE user_id = ?");
        if self.run(&mut change, query.bind(now()).bind(id)).await? == 0 {
            return Err(StoreError::NoSuchDevice(name.to_owned()));
        }
        self.update_credential(&mut change, id, credential).await?;
        self.commit(change).await
    }

    /// Up to `limit` devices by name, those after `after`.
    pub async fn devices(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredDevice>, StoreError> {
        const PAGE: &str = "SELECT name, rotated_at, seen_at, address, firmware \
             FROM devices JOIN users ON users.id = devices.user_id WHERE name > ? ORDER BY name LIMIT ?";
        let rows = sqlx::query(PAGE)
            .bind(after.unwrap_or_default())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await;
        let rows = rows.map_err(|error| self.error(error))?;
        let read: Result<_, _> = rows.iter().map(device).collect();
        read.map_err(|error| self.error(error))
    }

    /// Notes what was seen of devices, all of it in one statement; who is no device is left out, and what was seen of an
    /// earlier device of the same name. It is no change of the accounts: their revision stays. Returns of how many it
    /// was noted.
    pub async fn record_sightings(&self, sightings: &[Sighting]) -> Result<u64, StoreError> {
        const RECORD: &str = "UPDATE devices \
             SET seen_at = seen.at, address = seen.address, firmware = coalesce(seen.firmware, devices.firmware) \
             FROM (SELECT users.id AS id, value ->> 'at' AS at, value ->> 'address' AS address, \
                          value ->> 'firmware' AS firmware \
                   FROM json_each(?) JOIN users ON users.name = value ->> 'name') AS seen \
             WHERE devices.user_id = seen.id AND seen.at >= (SELECT created_at FROM users WHERE id = seen.id)";
        if sightings.is_empty() {
            return Ok(0);
        }
        let text = serde_json::to_string(sightings)
            .map_err(|error| self.error(sqlx::Error::Encode(error.into())))?;
        let query = sqlx::query(RECORD).bind(text);
        let result = query.execute(&self.pool).await;
        Ok(result.map_err(|error| self.error(error))?.rows_affected())
    }
}

fn device(row: &SqliteRow) -> Result<StoredDevice, sqlx::Error> {
    Ok(StoredDevice {
        name: row.try_get("name")?,
        rotated_at: row.try_get("rotated_at")?,
        seen_at: row.try_get("seen_at")?,
        address: row.try_get("address")?,
        firmware: row.try_get("firmware")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const SECRET: Credential = Credential::Generated([1; 32]);

    async fn accounts() -> (Accounts, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Accounts::open(dir.path()).await.unwrap(), dir)
    }

    fn rule(filter: &str) -> NewRule {
        NewRule {
            effect: "allow".to_owned(),
            action: "publish".to_owned(),
            filter: filter.to_owned(),
            who_kind: "role".to_owned(),
            realm: String::new(),
            who: "device".to_owned(),
        }
    }

    fn sighting(name: &str, at: i64, firmware: Option<&str>) -> Sighting {
        Sighting {
            name: name.into(),
            at,
            address: "192.0.2.7".to_owned(),
            firmware: firmware.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn a_device_is_a_user_that_goes_with_its_account() {
        let (accounts, _dir) = accounts().await;
        accounts.add_user("ann", &SECRET, &[]).await.unwrap();
        accounts
            .add_device("lamp", &SECRET, &["device".into()], &[])
            .await
            .unwrap();
        let taken = accounts.add_device("ann", &SECRET, &[], &[]).await;
        assert!(matches!(taken, Err(StoreError::NameTaken(_))), "{taken:?}");
        let users = accounts.snapshot().await.unwrap().users;
        assert!(users["lamp"].device && !users["ann"].device);
        let names = |found: Vec<StoredDevice>| -> Vec<String> {
            found.into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(accounts.devices(None, 9).await.unwrap()), ["lamp"]);
        assert!(accounts.devices(Some("lamp"), 9).await.unwrap().is_empty());
        accounts.remove_user("lamp").await.unwrap();
        assert!(accounts.devices(None, 9).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_rules_of_the_default_role_are_made_once_and_never_over_others() {
        let (accounts, _dir) = accounts().await;
        let rules = [rule("devices/%d/#"), rule("mqtt_tx_%d")];
        let made = accounts.add_device("a", &SECRET, &[], &[]).await.unwrap();
        assert_eq!(made, 0, "it has another role");
        let made = accounts
            .add_device("b", &SECRET, &[], &rules)
            .await
            .unwrap();
        assert_eq!(made, 2);
        let all = accounts.snapshot().await.unwrap().rules;
        let id = all.last().unwrap().id;
        accounts.remove_rule(id).await.unwrap();
        let made = accounts
            .add_device("c", &SECRET, &[], &rules)
            .await
            .unwrap();
        assert_eq!(made, 0, "what the operator removed stays removed");

        let (accounts, _dir) = self::accounts().await;
        accounts.add_rule(&rule("own/%d")).await.unwrap();
        let made = accounts
            .add_device("a", &SECRET, &[], &rules)
            .await
            .unwrap();
        assert_eq!(made, 0, "the operator has given the role a meaning");
    }

    #[tokio::test]
    async fn only_a_device_is_rotated() {
        let (accounts, _dir) = accounts().await;
        accounts.add_user("ann", &SECRET, &[]).await.unwrap();
        accounts
            .add_device("lamp", &SECRET, &[], &[])
            .await
            .unwrap();
        let other = Credential::Generated([2; 32]);
        let refused = accounts.rotate_device("ann", &other).await;
        assert!(matches!(refused, Err(StoreError::NoSuchDevice(_))));
        accounts.rotate_device("lamp", &other).await.unwrap();
        let users = accounts.snapshot().await.unwrap().users;
        assert!(users["lamp"].credential == other && users["ann"].credential == SECRET);
        let found = accounts.devices(None, 9).await.unwrap();
        assert!(found[0].rotated_at.is_some());
    }

    #[tokio::test]
    async fn sightings_of_many_devices_are_one_statement_that_changes_no_revision() {
        let (accounts, _dir) = accounts().await;
        accounts.add_user("ann", &SECRET, &[]).await.unwrap();
        for name in ["lamp", "it's \"odd\""] {
            accounts.add_device(name, &SECRET, &[], &[]).await.unwrap();
        }
        let before = accounts.snapshot().await.unwrap().revision;
        let at = now();
        let seen = [
            sighting("lamp", at, Some("1.2")),
            sighting("it's \"odd\"", at, None),
            sighting("ann", at, None),
            sighting("gone", at, None),
        ];
        assert_eq!(accounts.record_sightings(&seen).await.unwrap(), 2);
        let later = [sighting("lamp", at + 9, None)];
        assert_eq!(accounts.record_sightings(&later).await.unwrap(), 1);
        let earlier = [sighting("lamp", at - 9, None)];
        let noted = accounts.record_sightings(&earlier).await.unwrap();
        assert_eq!(noted, 0, "that was another device of this name");
        assert_eq!(accounts.record_sightings(&[]).await.unwrap(), 0);
        let found = accounts.devices(None, 9).await.unwrap();
        assert_eq!(
            (found[0].seen_at, found[1].seen_at),
            (Some(at), Some(at + 9))
        );
        assert_eq!(found[1].address.as_deref(), Some("192.0.2.7"));
        assert_eq!(found[1].firmware.as_deref(), Some("1.2"), "it stays");
        assert_eq!(accounts.snapshot().await.unwrap().revision, before);
    }
}
