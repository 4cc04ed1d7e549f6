//! What does a refusal of the CA mean, and what is to be done? Problem documents (RFC 7807) with the
//! types of RFC 8555, 6.7.

use std::fmt;
use std::time::SystemTime;

use instant_acme::Problem;

/// A refusal, in words.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The type without its URN prefix: `rateLimited`.
    kind: String,
    /// What the CA says itself, about every name it has something to say about.
    detail: String,
    /// When it may be asked again.
    pub(super) retry_after: Option<SystemTime>,
}

/// Longest text of a CA that is passed on, in characters.
const DETAIL_MAX: usize = 600;

impl Refusal {
    pub(super) fn of(problem: &Problem, retry_after: Option<SystemTime>) -> Refusal {
        let mut detail = problem.detail.clone().unwrap_or_default();
        for sub in problem.subproblems.iter().take(10) {
            detail.push_str("; ");
            detail.push_str(&sub.to_string());
        }
        Refusal {
            kind: kind(problem),
            detail: clean(&detail),
            retry_after,
        }
    }

    /// Whether it will be another answer at another time, with nothing changed.
    pub(super) fn is_passing(&self) -> bool {
        ["badNonce", "serverInternal", "rateLimited"].contains(&self.kind.as_str())
            || self.retry_after.is_some()
    }

    /// Whether the key or the request is what it does not want: the same key gets the same answer.
    pub(super) fn is_about_key(&self) -> bool {
        ["badPublicKey", "badCSR"].contains(&self.kind.as_str())
    }

    pub(super) fn is_transient(&self) -> bool {
        ["badNonce", "serverInternal"].contains(&self.kind.as_str()) && self.retry_after.is_none()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { kind, detail, .. } = self;
        write!(f, "the CA refuses ({kind}): {detail}")?;
        match remedy(kind) {
            "" => Ok(()),
            remedy => write!(f, "; {remedy}"),
        }
    }
}

/// Why one name could not be verified, with what to look at.
pub(super) fn reason(name: &str, problem: &Problem) -> String {
    let kind = kind(problem);
    let detail = clean(problem.detail.as_deref().unwrap_or("it does not say why"));
    match remedy(&kind) {
        "" => format!("{name} ({kind}): {detail}"),
        remedy => format!("{name} ({kind}): {detail}; {remedy}"),
    }
}

fn kind(problem: &Problem) -> String {
    let whole = problem.r#type.as_deref().unwrap_or("about:blank");
    let kind = whole.strip_prefix("urn:ietf:params:acme:error:");
    clean(kind.unwrap_or(whole))
}

fn remedy(kind: &str) -> &'static str {
    match kind {
        "rateLimited" => "the gateway asks again when the CA allows it",
        "caa" => "let the CAA record of the domain name this CA, or remove it",
        "connection" => {
            "the CA must reach this machine under that name: look at the DNS records, and at the \
             firewall (port 80 for http-01, 443 for tls-alpn-01)"
        }
        "dns" => "look at the DNS records of the name, and at DNSSEC if the domain uses it",
        "unauthorized" | "incorrectResponse" => {
            "something else answers in our place: look where the name's A and AAAA records point, \
             and whether a proxy stands in front"
        }
        "tls" => {
            "port 443 must lead to a TLS listener of this gateway, without a TLS proxy between"
        }
        "rejectedIdentifier" | "unsupportedIdentifier" => {
            "this CA does not issue for that name: correct `domains`"
        }
        "externalAccountRequired" => {
            "set acme.external_account_key_id and acme.external_account_key_file to what the CA \
             gave you"
        }
        "userActionRequired" => "look at the CA's own pages: it wants something of you first",
        "invalidContact" | "unsupportedContact" => "correct acme.contact",
        "badPublicKey" | "badCSR" => "try another acme.key_type",
        "invalidProfile" => "correct or remove `profile`",
        "accountDoesNotExist" => "the gateway registers again",
        _ => "",
    }
}

/// Without control characters, without tokens and key authorizations, and not without end.
fn clean(text: &str) -> String {
    let part_of_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut clean = String::new();
    let mut rest = text;
    while clean.len() < DETAIL_MAX
        && let Some(first) = rest.chars().next()
    {
        let word = rest.find(|c| !part_of_token(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(word.max(first.len_utf8()));
        match word {
            word if is_token(word) => clean.push_str("..."),
            word => clean.extend(word.chars().map(|c| if c.is_control() { ' ' } else { c })),
        }
        rest = tail;
    }
    clean.chars().take(DETAIL_MAX).collect()
}

/// Whether this is a token or a digest in base64url: 128 bits at least (RFC 8555, 8.1), and no label of
/// a name, which CAs write in small letters.
fn is_token(word: &str) -> bool {
    word.len() >= 22
        && word.bytes().any(|b| b.is_ascii_uppercase())
        && word.bytes().any(|b| b.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Problem {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_refusal_says_what_the_ca_said_and_what_to_do() {
        let caa = problem(
            r#"{"type":"urn:ietf:params:acme:error:caa","detail":"CAA\n record for a.example"}"#,
        );
        let text = Refusal::of(&caa, None).to_string();
        assert!(
            text.contains("CAA  record for a.example") && text.contains("remove it"),
            "{text}"
        );
        let reason = reason("a.example", &caa);
        assert!(reason.starts_with("a.example (caa)"), "{reason}");
    }

    #[test]
    fn only_what_may_pass_at_once_is_tried_again_at_once() {
        for (kind, transient) in [("badNonce", true), ("serverInternal", true), ("caa", false)] {
            let json = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}"}}"#);
            assert_eq!(
                Refusal::of(&problem(&json), None).is_transient(),
                transient,
                "{kind}"
            );
            assert_eq!(Refusal::of(&problem(&json), None).is_passing(), transient);
            let later = Some(SystemTime::now());
            assert!(Refusal::of(&problem(&json), later).is_passing(), "{kind}");
            assert!(
                !Refusal::of(&problem(&json), later).is_transient(),
                "{kind}"
            );
        }
    }

    #[test]
    fn tokens_and_key_authorizations_are_not_passed_on() {
        let said = "Fetching http://a.example/.well-known/acme-challenge/\
                    yz6Bhm4LnpjAHOFQ9WRDJVG-K3AM5RPP8C1qY0l4tA4: Connection refused, expected \
                    \"yz6Bhm4LnpjAHOFQ9WRDJVG-K3AM5RPP8C1qY0l4tA4.DbZ5sMcbkHZK2_bDCN2gw5KZAb4QeNrQOXfZ_Eqkz9I\"";
        assert_eq!(
            clean(said),
            "Fetching http://a.example/.well-known/acme-challenge/...: Connection refused, expected \
             \".......\""
        );
        let name = "a-very-long-label-of-a-name-that-stays-as-it-is.example";
        assert_eq!(clean(name), name);
    }

    #[test]
    fn what_a_ca_says_is_cut_to_a_bound() {
        let long = format!(r#"{{"detail":"{}"}}"#, "x".repeat(100_000));
        assert!(Refusal::of(&problem(&long), None).to_string().len() < 1_000);
    }
}
