//! The accounts database: users and their roles, and one consistent snapshot of everything in it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Connection, Row, Sqlite, Transaction};

use super::StoreError;
use super::open::{open, options, pool, snapshot_into, sql_error};
use super::rules::{self, StoredRule};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite/accounts");

/// The accounts database of one data directory. Cheap to clone; every change is one transaction, on disk (fsynced)
/// when the call returns.
#[derive(Debug, Clone)]
pub struct Accounts {
    pub(super) pool: SqlitePool,
    path: Arc<PathBuf>,
}

/// A user of the realm `local`.
#[derive(Debug, Clone)]
pub struct User {
    pub name: Arc<str>,
    pub credential: Credential,
    pub disabled: bool,
    /// Whether it is a device: its name is its device id then.
    pub device: bool,
    /// Sorted.
    pub roles: Arc<[Arc<str>]>,
    /// Seconds since 1970.
    pub created_at: i64,
    /// When its credential, roles or state last changed, in seconds since 1970.
    pub changed_at: i64,
}

impl User {
    /// The device id, if this is a device.
    pub fn device_id(&self) -> Option<&Arc<str>> {
        self.device.then_some(&self.name)
    }
}

/// How a user proves its name. `Debug` shows neither hash nor MAC.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A password somebody chose: its argon2id hash as a PHC string; until the first login after an import, a hash in
    /// one of Mosquitto's forms.
    Chosen(Arc<str>),
    /// A secret we generated: its HMAC-SHA-256 under the key of the data directory.
    Generated([u8; 32]),
}

/// Everything in the accounts database at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows with every change; of two snapshots the one with the higher revision is the newer.
    pub revision: i64,
    pub users: HashMap<Arc<str>, Arc<User>>,
    /// By ascending id.
    pub rules: Vec<StoredRule>,
}

impl Accounts {
    /// The name of the database file in the data directory.
    pub const FILE: &'static str = "accounts.db";

    /// Opens `accounts.db` in the data directory, and makes it (0600, with the rules of the role `admin`) if missing.
    pub async fn open(directory: &Path) -> Result<Accounts, StoreError> {
        let path = directory.join(Self::FILE);
        let options = options(&path);
        let checked = open(&options, &MIGRATIONS).await?;
        let error = |error| sql_error(&path, error);
        checked.close().await.map_err(error)?;
        let pool = pool(options).await.map_err(error)?;
        Ok(Accounts {
            pool,
            path: Arc::new(path),
        })
    }

    /// Finishes what is under way and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub async fn add_user(
        &self,
        name: &str,
        credential: &Credential,
        roles: &[Arc<str>],
    ) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        self.insert_user(&mut change, name, credential, roles)
            .await?;
        self.commit(change).await
    }

    /// Adds the very first user; an error if there is any other, so that two starts cannot both make one.
    pub async fn add_first_user(
        &self,
        name: &str,
        credential: &Credential,
        roles: &[Arc<str>],
    ) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM users")
            .fetch_one(&mut *change)
            .await
            .map_err(|error| self.error(error))?;
        if count > 0 {
            return Err(StoreError::NotEmpty(count));
        }
        self.insert_user(&mut change, name, credential, roles)
            .await?;
        self.commit(change).await
    }

    /// Replaces the user's password or secret.
    pub async fn set_credential(
        &self,
        name: &str,
        credential: &Credential,
    ) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let id = self.touch(&mut change, name).await?;
        self.update_credential(&mut change, id, credential).await?;
        self.commit(change).await
    }

    pub(super) async fn update_credential(
        &self,
        change: &mut Transaction<'_, Sqlite>,
        id: i64,
        credential: &Credential,
    ) -> Result<(), StoreError> {
        let (kind, phc, mac) = columns(credential);
        let query = sqlx::query("UPDATE users SET kind = ?, phc = ?, mac = ? WHERE id = ?");
        let query = query.bind(kind).bind(phc).bind(mac).bind(id);
        self.run(change, query).await.map(drop)
    }

    pub async fn set_disabled(&self, name: &str, disabled: bool) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let id = self.touch(&mut change, name).await?;
        sqlx::query("UPDATE users SET disabled = ? WHERE id = ?")
            .bind(disabled)
            .bind(id)
            .execute(&mut *change)
            .await
            .map_err(|error| self.error(error))?;
        self.commit(change).await
    }

    /// Gives the user exactly these roles.
    pub async fn set_roles(&self, name: &str, roles: &[Arc<str>]) -> Result<(), StoreError> {
        let mut change = self.change().await?;
        let id = self.touch(&mut change, name).await?;
        sqlx::query("DELETE FROM user_roles WHERE user_id = ?")
            .bind(id)
            .execute(&mut *change)
            .await
            .map_err(|error| self.error(error))?;
        self.insert_roles(&mut change, id, roles).await?;
        self.commit(change).await
    }

    /// Removes the user, its roles, and the rules written for it by name: a later user of the same name must not
    /// inherit them. Returns how many rules went.
    pub async fn remove_user(&self, name: &str) -> Result<u64, StoreError> {
        let mut change = self.change().await?;
        let id = self.touch(&mut change, name).await?;
        sqlx::query("DELETE FROM users WHERE id = ?")
            .bind(id)
            .execute(&mut *change)
            .await
            .map_err(|error| self.error(error))?;
        let rules = sqlx::query(
            "DELETE FROM rules WHERE who_kind = 'user' AND realm = 'local' AND who = ?",
        )
        .bind(name)
        .execute(&mut *change)
        .await
        .map_err(|error| self.error(error))?
        .rows_affected();
        self.commit(change).await?;
        Ok(rules)
    }

    /// All users and rules, read in one transaction.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.read_snapshot()
            .await
            .map_err(|error| self.error(error))
    }

    /// Writes a consistent copy of the database to `into`, which must not exist, and syncs it.
    pub async fn copy_into(&self, into: &Path) -> Result<(), StoreError> {
        let mut connection = self
            .pool
            .acquire()
            .await
            .map_err(|error| self.error(error))?;
        snapshot_into(&mut connection, &self.path, into).await
    }

    /// What [`Self::set_key_check`] stored; `None` before.
    pub async fn key_check(&self) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT key_check FROM state")
            .fetch_one(&self.pool)
            .await
            .map_err(|error| self.error(error))
    }

    /// Remembers a value by which the key of the data directory is recognised at the next start.
    pub async fn set_key_check(&self, value: &[u8]) -> Result<(), StoreError> {
        let query = sqlx::query("UPDATE state SET key_check = ?").bind(value);
        query
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(|error| self.error(error))
    }

    pub(super) async fn insert_user(
        &self,
        change: &mut Transaction<'_, Sqlite>,
        name: &str,
        credential: &Credential,
        roles: &[Arc<str>],
    ) -> Result<(), StoreError> {
        let (kind, phc, mac) = columns(credential);
        let sql = "INSERT INTO users (name, kind, phc, mac, created_at, changed_at) VALUES (?, ?, ?, ?, ?5, ?5)";
        let query = sqlx::query(sql)
            .bind(name)
            .bind(kind)
            .bind(phc)
            .bind(mac)
            .bind(now());
        let inserted = query.execute(&mut **change).await.map_err(|error| {
            match error.as_database_error() {
                Some(database) if database.is_unique_violation() => {
                    StoreError::NameTaken(name.to_owned())
                }
                _ => self.error(error),
            }
        })?;
        self.insert_roles(change, inserted.last_insert_rowid(), roles)
            .await
    }

    pub(super) async fn insert_roles(
        &self,
        change: &mut Transaction<'_, Sqlite>,
        user: i64,
        roles: &[Arc<str>],
    ) -> Result<(), StoreError> {
        for role in roles {
            sqlx::query("INSERT OR IGNORE INTO user_roles (user_id, role) VALUES (?, ?)")
                .bind(user)
                .bind(role.as_ref())
                .execute(&mut **change)
                .await
                .map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// The user's row id; marks the user as changed now.
    pub(super) async fn touch(
        &self,
        change: &mut Transaction<'_, Sqlite>,
        name: &str,
    ) -> Result<i64, StoreError> {
        sqlx::query_scalar("UPDATE users SET changed_at = ? WHERE name = ? RETURNING id")
            .bind(now())
            .bind(name)
            .fetch_optional(&mut **change)
            .await
            .map_err(|error| self.error(error))?
            .ok_or_else(|| StoreError::NoSuchUser(name.to_owned()))
    }

    /// Begins a transaction that is sure to be the only writer. Dropped without [`Self::commit`] it changes nothing.
    pub(super) async fn change(&self) -> Result<Transaction<'_, Sqlite>, StoreError> {
        self.pool
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|error| self.error(error))
    }

    pub(super) async fn commit(
        &self,
        mut change: Transaction<'_, Sqlite>,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE state SET revision = revision + 1")
            .execute(&mut *change)
            .await
            .map_err(|error| self.error(error))?;
        change.commit().await.map_err(|error| self.error(error))
    }

    pub(super) fn error(&self, source: sqlx::Error) -> StoreError {
        sql_error(&self.path, source)
    }

    async fn read_snapshot(&self) -> Result<Snapshot, sqlx::Error> {
        let mut reading = self.pool.begin().await?;
        let revision = sqlx::query_scalar("SELECT revision FROM state")
            .fetch_one(&mut *reading)
            .await?;
        let mut roles: HashMap<i64, Vec<Arc<str>>> = HashMap::new();
        let mut names: HashMap<String, Arc<str>> = HashMap::new();
        let rows = sqlx::query("SELECT user_id, role FROM user_roles ORDER BY user_id, role");
        for row in rows.fetch_all(&mut *reading).await? {
            let role: String = row.try_get(1)?;
            let role = names
                .entry_ref(role.as_str())
                .or_insert_with(|| role.as_str().into())
                .clone();
            roles.entry(row.try_get(0)?).or_default().push(role);
        }
        let rows = sqlx::query(
            "SELECT id, name, kind, phc, mac, disabled, created_at, changed_at, devices.user_id IS NOT NULL AS device \
             FROM users LEFT JOIN devices ON devices.user_id = users.id",
        );
        let mut users = HashMap::new();
        for row in rows.fetch_all(&mut *reading).await? {
            let roles = roles.remove(&row.try_get::<i64, _>(0)?).unwrap_or_default();
            let user = user(&row, roles)?;
            users.insert(user.name.clone(), Arc::new(user));
        }
        let rules = rules::read_all(&mut reading).await?;
        reading.commit().await?;
        Ok(Snapshot {
            revision,
            users,
            rules,
        })
    }
}

fn user(row: &SqliteRow, roles: Vec<Arc<str>>) -> Result<User, sqlx::Error> {
    let name: String = row.try_get("name")?;
    let kind: String = row.try_get("kind")?;
    let credential = match kind.as_str() {
        "argon2id" => Credential::Chosen(row.try_get::<String, _>("phc")?.into()),
        "generated" => {
            let mac: Vec<u8> = row.try_get("mac")?;
            Credential::Generated(
                mac.try_into()
                    .map_err(|_| unreadable("mac", "it is not 32 bytes long"))?,
            )
        }
        _ => return Err(unreadable("kind", "it is neither argon2id nor generated")),
    };
    Ok(User {
        name: name.into(),
        credential,
        disabled: row.try_get("disabled")?,
        device: row.try_get("device")?,
        roles: roles.into(),
        created_at: row.try_get("created_at")?,
        changed_at: row.try_get("changed_at")?,
    })
}

fn unreadable(column: &str, problem: &str) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: problem.into(),
    }
}

pub(super) fn columns(credential: &Credential) -> (&'static str, Option<&str>, Option<&[u8]>) {
    match credential {
        Credential::Chosen(phc) => ("argon2id", Some(phc), None),
        Credential::Generated(mac) => ("generated", None, Some(mac)),
    }
}

/// Seconds since 1970; a clock before that counts as 1970.
pub(super) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs() as i64)
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Chosen(_) => "Chosen(..)",
            Credential::Generated(_) => "Generated(..)",
        })
    }
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
