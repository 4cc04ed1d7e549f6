//! The rules of the policy as text: kept here, understood by `acl`.

use sqlx::sqlite::Sqlite;
use sqlx::{Row, Transaction};

use super::accounts::now;
use super::{Accounts, StoreError};

/// A rule as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRule {
    /// Never used again for another rule.
    pub id: i64,
    pub rule: NewRule,
}

/// A rule without its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRule {
    /// `allow` or `deny`.
    pub effect: String,
    /// `publish` or `subscribe`.
    pub action: String,
    pub filter: String,
    /// `user`, `role` or `everyone`.
    pub who_kind: String,
    /// Of a user; empty otherwise.
    pub realm: String,
    /// The user's name or the role; empty for everyone.
    pub who: String,
}

impl Accounts {
    /// Adds a rule and returns its number; an error that names the existing one if it is there already.
    pub async fn add_rule(&self, rule: &NewRule) -> Result<i64, StoreError> {
        const EXISTING: &str = "SELECT id FROM rules \
             WHERE (effect, action, filter, who_kind, realm, who) = (?, ?, ?, ?, ?, ?)";
        let mut change = self.change().await?;
        let inserted = self.insert_rule(&mut change, rule).await?;
        let Some(id) = inserted else {
            let existing = sqlx::query_scalar(EXISTING)
                .bind(&rule.effect)
                .bind(&rule.action)
                .bind(&rule.filter)
                .bind(&rule.who_kind)
                .bind(&rule.realm)
                .bind(&rule.who)
                .fetch_one(&mut *change)
                .await
                .map_err(|error| self.error(error))?;
            return Err(StoreError::RuleExists(existing));
        };
        self.commit(change).await?;
        Ok(id)
    }

    /// The number of the new rule; `None` if there is such a rule already.
    pub(super) async fn insert_rule(
        &self,
        change: &mut Transaction<'_, Sqlite>,
        rule: &NewRule,
    ) -> Result<Option<i64>, StoreError> {
        const INSERT: &str = "INSERT INTO rules (effect, action, filter, who_kind, realm, who, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (effect, action, filter, who_kind, realm, who) DO NOTHING";
        let inserted = sqlx::query(INSERT)
            .bind(&rule.effect)
            .bind(&rule.action)
            .bind(&rule.filter)
            .bind(&rule.who_kind)
            .bind(&rule.realm)
            .bind(&rule.who)
            .bind(now())
            .execute(&mut **change)
            .await
            .map_err(|error| self.error(error))?;
        Ok((inserted.rows_affected() == 1).then(|| inserted.last_insert_rowid()))
    }

    /// Removes a rule and returns what it was.
    pub async fn remove_rule(&self, id: i64) -> Result<StoredRule, StoreError> {
        const DELETE: &str = "DELETE FROM rules WHERE id = ? RETURNING id, effect, action, filter, who_kind, realm, who";
        let mut change = self.change().await?;
        let row = sqlx::query(DELETE)
            .bind(id)
            .fetch_optional(&mut *change)
            .await
            .map_err(|error| self.error(error))?
            .ok_or(StoreError::NoSuchRule(id))?;
        let rule = stored(&row).map_err(|error| self.error(error))?;
        self.commit(change).await?;
        Ok(rule)
    }
}

pub(super) async fn read_all(
    reading: &mut Transaction<'_, Sqlite>,
) -> Result<Vec<StoredRule>, sqlx::Error> {
    const ALL: &str =
        "SELECT id, effect, action, filter, who_kind, realm, who FROM rules ORDER BY id";
    let rows = sqlx::query(ALL).fetch_all(&mut **reading).await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &sqlx::sqlite::SqliteRow) -> Result<StoredRule, sqlx::Error> {
    let rule = NewRule {
        effect: row.try_get("effect")?,
        action: row.try_get("action")?,
        filter: row.try_get("filter")?,
        who_kind: row.try_get("who_kind")?,
        realm: row.try_get("realm")?,
        who: row.try_get("who")?,
    };
    Ok(StoredRule {
        id: row.try_get("id")?,
        rule,
    })
}
