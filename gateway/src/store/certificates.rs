//! The register of the private CA: what it has issued, and what of it is revoked. What a certificate says and how a
//! list of revoked ones is signed is `tls`'s business.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::StoreError;
use super::accounts::{Accounts, now};

/// A certificate that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCertificate {
    /// SHA-256 of the CA's public key, in hexadecimal.
    pub issuer: String,
    /// Hexadecimal, lower case.
    pub serial: String,
    /// `server` or `device`.
    pub kind: String,
    pub name: String,
    /// SHA-256 of the certificate in DER.
    pub fingerprint: [u8; 32],
    /// Seconds since 1970.
    pub not_after: i64,
}

/// A certificate in the register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCertificate {
    pub id: i64,
    pub certificate: NewCertificate,
    /// Seconds since 1970.
    pub issued_at: i64,
    pub revocation: Option<Revocation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// Seconds since 1970.
    pub at: i64,
    /// RFC 5280, 5.3.1.
    pub reason: u8,
}

const COLUMNS: &str =
    "id, issuer, serial, kind, name, fingerprint, not_after, issued_at, revoked_at, reason";

impl Accounts {
    /// Registers a certificate; false if it was registered already.
    pub async fn add_certificate(&self, new: &NewCertificate) -> Result<bool, StoreError> {
        let sql = "INSERT OR IGNORE INTO certificates (issuer, serial, kind, name, fingerprint, not_after, issued_at) \
                   VALUES (?, ?, ?, ?, ?, ?, ?)";
        let mut change = self.change().await?;
        let added = sqlx::query(sql)
            .bind(&new.issuer)
            .bind(&new.serial)
            .bind(&new.kind)
            .bind(&new.name)
            .bind(&new.fingerprint[..])
            .bind(new.not_after)
            .bind(now())
            .execute(&mut *change)
            .await
            .map_err(|error| self.error(error))?
            .rows_affected();
        self.commit(change).await?;
        Ok(added == 1)
    }

    /// Up to `limit` certificates of a CA in the order they were issued, those after `after`.
    pub async fn certificates(
        &self,
        issuer: &str,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredCertificate>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM certificates WHERE issuer = ? AND id > ? ORDER BY id LIMIT ?"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(issuer)
            .bind(after)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = query.fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.error(error))?;
        let read: Result<_, _> = rows.iter().map(certificate).collect();
        read.map_err(|error| self.error(error))
    }

    /// Certificates of a CA that have this name or this serial number and are not revoked: the first
    /// thousand in the order they were issued.
    pub async fn certificates_called(
        &self,
        issuer: &str,
        name_or_serial: &str,
    ) -> Result<Vec<StoredCertificate>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM certificates WHERE issuer = ?1 AND (name = ?2 OR serial = ?3) AND revoked_at IS NULL \
             ORDER BY id LIMIT 1000"
        );
        let serial = name_or_serial.replace(':', "").to_ascii_lowercase();
        let query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(issuer)
            .bind(name_or_serial)
            .bind(serial);
        let rows = query.fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.error(error))?;
        let read: Result<_, _> = rows.iter().map(certificate).collect();
        read.map_err(|error| self.error(error))
    }

    /// Revokes certificates; what is revoked already keeps its time and reason. From here on the list on disk lacks
    /// something, until [`Self::list_is_complete`].
    pub async fn revoke_certificates(&self, ids: &[i64], reason: u8) -> Result<(), StoreError> {
        let sql = "UPDATE certificates SET revoked_at = ?, reason = ? WHERE id = ? AND revoked_at IS NULL";
        let mut change = self.change().await?;
        for id in ids {
            sqlx::query(sql)
                .bind(now())
                .bind(reason)
                .bind(id)
                .execute(&mut *change)
                .await
                .map_err(|error| self.error(error))?;
        }
        sqlx::query("UPDATE state SET crl_lacks = 1")
            .execute(&mut *change)
            .await
            .map_err(|error| self.error(error))?;
        self.commit(change).await
    }

    /// Revoked certificates of a CA that end after `not_after` (seconds since 1970).
    pub async fn revoked_certificates(
        &self,
        issuer: &str,
        not_after: i64,
    ) -> Result<Vec<StoredCertificate>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM certificates WHERE issuer = ? AND not_after > ? AND revoked_at IS NOT NULL ORDER BY id"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(issuer)
            .bind(not_after);
        let rows = query.fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.error(error))?;
        let read: Result<_, _> = rows.iter().map(certificate).collect();
        read.map_err(|error| self.error(error))
    }

    /// Whether the revocation list on disk lacks something that is revoked here.
    pub async fn list_lacks(&self) -> Result<bool, StoreError> {
        sqlx::query_scalar("SELECT crl_lacks FROM state")
            .fetch_one(&self.pool)
            .await
            .map_err(|error| self.error(error))
    }

    /// The number of the next revocation list (RFC 5280, 5.2.3). It grows even if an older database was restored.
    pub async fn next_list_number(&self) -> Result<i64, StoreError> {
        let sql = "UPDATE state SET crl_number = max(crl_number + 1, ?) RETURNING crl_number";
        sqlx::query_scalar(sql)
            .bind(now())
            .fetch_one(&self.pool)
            .await
            .map_err(|error| self.error(error))
    }

    /// The revocation list on disk has everything that was revoked before its number was taken.
    pub async fn list_is_complete(&self) -> Result<(), StoreError> {
        sqlx::query("UPDATE state SET crl_lacks = 0")
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(|error| self.error(error))
    }
}

fn certificate(row: &SqliteRow) -> Result<StoredCertificate, sqlx::Error> {
    let fingerprint: Vec<u8> = row.try_get("fingerprint")?;
    let at: Option<i64> = row.try_get("revoked_at")?;
    let reason: Option<u8> = row.try_get("reason")?;
    Ok(StoredCertificate {
        id: row.try_get("id")?,
        certificate: NewCertificate {
            issuer: row.try_get("issuer")?,
            serial: row.try_get("serial")?,
            kind: row.try_get("kind")?,
            name: row.try_get("name")?,
            fingerprint: fingerprint
                .try_into()
                .map_err(|_| sqlx::Error::ColumnDecode {
                    index: "fingerprint".to_owned(),
                    source: "it is not 32 bytes long".into(),
                })?,
            not_after: row.try_get("not_after")?,
        },
        issued_at: row.try_get("issued_at")?,
        revocation: at.zip(reason).map(|(at, reason)| Revocation { at, reason }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(serial: &str, name: &str) -> NewCertificate {
        NewCertificate {
            issuer: "ca".to_owned(),
            serial: serial.to_owned(),
            kind: "device".to_owned(),
            name: name.to_owned(),
            fingerprint: [7; 32],
            not_after: 4_000_000_000,
        }
    }

    #[tokio::test]
    async fn a_certificate_is_registered_once_found_by_name_or_serial_and_revoked_once() {
        let directory = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(directory.path()).await.unwrap();
        assert!(
            accounts
                .add_certificate(&new("0a1b", "lamp"))
                .await
                .unwrap()
        );
        assert!(accounts.add_certificate(&new("0c", "lamp")).await.unwrap());
        assert!(!accounts.add_certificate(&new("0c", "lamp")).await.unwrap());
        assert_eq!(accounts.certificates("ca", 0, 10).await.unwrap().len(), 2);
        assert_eq!(accounts.certificates("other", 0, 10).await.unwrap(), []);
        let found = accounts.certificates_called("ca", "0A:1B").await.unwrap();
        assert_eq!(found.len(), 1);
        assert!(!accounts.list_lacks().await.unwrap());

        accounts
            .revoke_certificates(&[found[0].id], 1)
            .await
            .unwrap();
        assert!(accounts.list_lacks().await.unwrap());
        let revoked = accounts.revoked_certificates("ca", 0).await.unwrap();
        assert_eq!(revoked[0].certificate.serial, "0a1b");
        accounts
            .revoke_certificates(&[found[0].id], 4)
            .await
            .unwrap();
        let again = accounts.revoked_certificates("ca", 0).await.unwrap();
        assert_eq!(again, revoked, "time and reason stay");
        assert_eq!(
            accounts
                .revoked_certificates("ca", 5_000_000_000)
                .await
                .unwrap(),
            []
        );
        let left = accounts.certificates_called("ca", "lamp").await.unwrap();
        assert_eq!(left[0].certificate.serial, "0c");

        let first = accounts.next_list_number().await.unwrap();
        assert!(accounts.next_list_number().await.unwrap() > first);
        accounts.list_is_complete().await.unwrap();
        assert!(!accounts.list_lacks().await.unwrap());
    }
}
