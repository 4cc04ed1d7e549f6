//! What operators do becomes an entry of the audit log, and the log is shown to them.

use serde::{Deserialize, Serialize};

use super::Administration;
use crate::admin::AdminError;
use crate::audit::{Kind, Note};
use crate::store::{AuditFilter, AuditRow};

/// Which entries are wanted. What is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AuditQuery {
    /// Seconds since 1970: entries whose last time is not before it.
    #[serde(default)]
    pub since: Option<i64>,
    /// `realm:name`, or a name in any realm.
    #[serde(default)]
    pub principal: Option<String>,
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub kind: Option<String>,
    /// Only entries with a smaller id.
    #[serde(default)]
    pub before: Option<i64>,
    /// Only entries with a greater id.
    #[serde(default)]
    pub after: Option<i64>,
    /// As many, the newest; at most [`AuditQuery::MAX`] in one answer.
    pub limit: usize,
}

impl AuditQuery {
    /// Entries in one answer: with the longest texts still about a megabyte.
    pub const MAX: usize = 1_000;
}

/// An entry, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AuditLine {
    pub id: i64,
    pub kind: String,
    /// Seconds since 1970: the first time.
    pub at: i64,
    /// Seconds since 1970: the last time.
    pub last: i64,
    pub count: i64,
    /// `realm:name`, a claimed name, or an operator.
    pub principal: String,
    pub address: String,
    /// The client identifier.
    pub client: String,
    /// A topic, a filter, or what was changed.
    pub subject: String,
    pub reason: String,
}

impl Administration {
    /// A page of the audit log, the newest entries first.
    pub async fn audit_page(&self, query: AuditQuery) -> Result<Vec<AuditLine>, AdminError> {
        if !self.audit.is_on() {
            return Err(AdminError::AuditOff);
        }
        let limit = query.limit.min(AuditQuery::MAX);
        let filter = AuditFilter {
            since: query.since,
            principal: query.principal,
            address: query.address,
            kind: query.kind,
            before: query.before,
            after: query.after,
        };
        let rows = self.audit.find(&filter, limit).await?;
        Ok(rows.into_iter().map(AuditLine::from).collect())
    }

    /// Notes what an operator did, or why it was not done, and waits until that is on disk.
    pub async fn note_change(&self, actor: &str, what: &str, failure: Option<&AdminError>) {
        let error = failure.map(ToString::to_string);
        let kind = match error {
            Some(_) => Kind::ChangeFailed,
            None => Kind::Change,
        };
        let note = Note {
            principal: actor,
            subject: what,
            reason: error.as_deref().unwrap_or("done"),
            ..Note::default()
        };
        self.audit.note(kind, note);
        self.audit.flush_soon().await;
    }
}

impl From<AuditRow> for AuditLine {
    fn from(row: AuditRow) -> Self {
        let AuditRow {
            id,
            class: _,
            kind,
            at,
            last,
            count,
            principal,
            address,
            client,
            subject,
            reason,
        } = row;
        AuditLine {
            id,
            kind,
            at,
            last,
            count,
            principal,
            address,
            client,
            subject,
            reason,
        }
    }
}
