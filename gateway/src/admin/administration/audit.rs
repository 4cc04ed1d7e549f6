//! What operators do becomes an entry of the audit log, and the log is shown to them.

use super::Administration;
use crate::admin::AdminError;
use crate::audit::{Kind, Note};
use crate::store::{AuditEntry, AuditQuery};

impl Administration {
    /// A page of the audit log, the newest entries first.
    pub async fn audit_page(&self, mut query: AuditQuery) -> Result<Vec<AuditEntry>, AdminError> {
        if !self.audit.is_on() {
            return Err(AdminError::AuditOff);
        }
        query.limit = query.limit.min(AuditQuery::MAX);
        Ok(self.audit.find(&query).await?)
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
