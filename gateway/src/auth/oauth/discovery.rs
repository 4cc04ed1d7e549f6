//! Where are an issuer's endpoints? Its own description (OpenID Connect Discovery 1.0, 4; RFC 8414, 3).

use serde::Deserialize;

use super::transport::{Failed, Transport};

/// What of the description matters to us.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Endpoints {
    issuer: String,
    #[serde(default)]
    pub jwks_uri: Option<String>,
    #[serde(default)]
    pub introspection_endpoint: Option<String>,
}

impl Endpoints {
    /// Fetches the description of `issuer`, which must be that of this very issuer.
    pub async fn fetch(transport: &Transport, issuer: &str) -> Result<Endpoints, Failed> {
        let base = issuer.trim_end_matches('/');
        let url = format!("{base}/.well-known/openid-configuration");
        let text = match transport.get(&url).await {
            Ok(text) => text,
            Err(error) => match by_path(base) {
                // Servers without OpenID Connect put it elsewhere.
                Some(url) => transport.get(&url).await.map_err(|_| error)?,
                None => return Err(error),
            },
        };
        let endpoints: Endpoints = serde_json::from_slice(&text)
            .map_err(|error| Failed(format!("{url} does not describe an issuer: {error}")))?;
        match endpoints.issuer == issuer {
            true => Ok(endpoints),
            false => Err(Failed(format!(
                "{url} describes the issuer {:?}: set issuer to exactly that, if it is right",
                endpoints.issuer.chars().take(200).collect::<String>()
            ))),
        }
    }
}

/// RFC 8414, 3.1: between host and path.
fn by_path(issuer: &str) -> Option<String> {
    let (scheme, rest) = issuer.split_once("://")?;
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    Some(format!(
        "{scheme}://{host}/.well-known/oauth-authorization-server{path}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_of_a_plain_oauth_server_lies_between_host_and_path() {
        let expected = "https://id.example:8443/.well-known/oauth-authorization-server/realms/x";
        assert_eq!(
            by_path("https://id.example:8443/realms/x").as_deref(),
            Some(expected)
        );
        let expected = "https://id.example/.well-known/oauth-authorization-server";
        assert_eq!(by_path("https://id.example").as_deref(), Some(expected));
    }
}
