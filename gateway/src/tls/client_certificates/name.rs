//! Whom does a certificate name? One field, exactly once: with two, somebody else might read the
//! other one.

use std::sync::Arc;

use broker_config::CertificateName;
use x509_parser::prelude::{GeneralName, X509Certificate};

use super::ClientCertificateError;

/// The name in the given field; `None` if certificates name nobody. What names look like otherwise
/// is for `auth` to check.
///
/// # Errors
/// [`ClientCertificateError::Name`].
pub(super) fn of(
    x509: &X509Certificate<'_>,
    field: CertificateName,
) -> Result<Option<Arc<str>>, ClientCertificateError> {
    let refuse = |problem| Err(ClientCertificateError::Name(problem));
    let mut names: Vec<&str> = match field {
        CertificateName::None => return Ok(None),
        CertificateName::Cn => {
            let mut names = Vec::new();
            for attribute in x509.subject().iter_common_name() {
                match attribute.as_str() {
                    Ok(name) => names.push(name),
                    Err(_) => return refuse("its common name is not text"),
                }
            }
            names
        }
        CertificateName::SanDns | CertificateName::SanEmail | CertificateName::SanUri => {
            let Ok(alternatives) = x509.subject_alternative_name() else {
                return refuse("its subject alternative names cannot be read");
            };
            let all = alternatives.map(|extension| extension.value.general_names.as_slice());
            all.unwrap_or_default()
                .iter()
                .filter_map(|name| match (field, name) {
                    (CertificateName::SanDns, GeneralName::DNSName(name))
                    | (CertificateName::SanEmail, GeneralName::RFC822Name(name))
                    | (CertificateName::SanUri, GeneralName::URI(name)) => Some(*name),
                    _ => None,
                })
                .collect()
        }
    };
    match (names.pop(), names.is_empty()) {
        (Some(""), _) => refuse("the field named by certificate_name is empty"),
        (Some(name), true) => Ok(Some(name.into())),
        (Some(_), false) => refuse("it has the field named by certificate_name more than once"),
        (None, _) => refuse("it lacks the field named by certificate_name"),
    }
}
