//! What does a token say? Its claims, whether from inside it or from its issuer's answer about it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::TokenProblem;

/// The claims of a token that is known to be genuine (RFC 7519, 4; RFC 7662, 2.2).
#[derive(Debug, Clone, Default)]
pub(super) struct Claims(Map<String, Value>);

/// The last second of the year 9999: later than any credential ends.
const END_OF_TIME: u64 = 253_402_300_799;

/// Bytes of the claims of one token, as JSON, that are remembered.
const REMEMBERED_MAX: usize = 16 * 1024;

impl Claims {
    pub fn new(claims: Map<String, Value>) -> Claims {
        Claims(claims)
    }

    /// Leaves out what nobody will ask for: what a claim of these names or paths is in stays, and what makes a token count.
    pub fn keep(&mut self, paths: &[&str]) {
        const ALWAYS: [&str; 4] = ["iss", "aud", "exp", "nbf"];
        self.0.retain(|name, _| {
            let is_on = |path: &&str| {
                let rest = path.strip_prefix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            ALWAYS.contains(&name.as_str()) || paths.iter().any(is_on)
        });
    }

    /// Whether they are few enough to be remembered.
    pub fn is_small(&self) -> bool {
        serde_json::to_vec(&self.0).is_ok_and(|text| text.len() <= REMEMBERED_MAX)
    }

    /// The claim of this name; where there is none, each dot leads into an object.
    fn at(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(path) {
            return Some(value);
        }
        let (first, rest) = path.split_once('.')?;
        rest.split('.').try_fold(self.0.get(first)?, |value, name| {
            value.as_object()?.get(name)
        })
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.at(path)?.as_str()
    }

    /// The entries of a list, or the words of a text with spaces between them (RFC 6749, 3.3).
    pub fn words(&self, path: &str) -> Vec<&str> {
        match self.at(path) {
            Some(Value::String(text)) => text.split(' ').filter(|word| !word.is_empty()).collect(),
            Some(Value::Array(entries)) => entries.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// A NumericDate (RFC 7519, 2).
    fn moment(&self, name: &str) -> Result<Option<SystemTime>, TokenProblem> {
        let seconds = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value.as_f64().filter(|seconds| *seconds >= 0.0),
        };
        // A fraction is cut off: the end is rather too early.
        let seconds = seconds.ok_or(TokenProblem::Malformed)? as u64;
        Ok(Some(
            UNIX_EPOCH + Duration::from_secs(seconds.min(END_OF_TIME)),
        ))
    }

    /// Whether the token counts at `now`, and when it ends (RFC 7519, 4.1.4 and 4.1.5). Within `skew` after its end it still
    /// counts, until then.
    pub fn lifetime(
        &self,
        now: SystemTime,
        skew: Duration,
    ) -> Result<Option<SystemTime>, TokenProblem> {
        if self.moment("nbf")?.is_some_and(|begin| begin > now + skew) {
            return Err(TokenProblem::NotYet);
        }
        match self.moment("exp")? {
            Some(end) if now < end => Ok(Some(end)),
            Some(end) if now < end + skew => Ok(Some(end + skew)),
            Some(_) => Err(TokenProblem::Expired),
            None => Ok(None),
        }
    }

    /// Whether it is for one of these (RFC 7519, 4.1.3).
    pub fn is_for(&self, audience: &[String]) -> bool {
        let named = match self.0.get("aud") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        named
            .iter()
            .any(|one| audience.iter().any(|ours| ours == one))
    }

    pub fn issuer(&self) -> Option<&Value> {
        self.0.get("iss").filter(|value| !value.is_null())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Claims {
        match value {
            Value::Object(claims) => Claims::new(claims),
            _ => panic!("an object"),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_counts_from_nbf_to_exp_with_some_skew_on_both_sides() {
        let token = claims(json!({"nbf": 1_000, "exp": 2_000.9}));
        let skew = Duration::from_secs(60);
        for (now, expected) in [
            (939, Err(TokenProblem::NotYet)),
            (940, Ok(Some(at(2_000)))),
            (1_999, Ok(Some(at(2_000)))),
            (2_000, Ok(Some(at(2_060)))),
            (2_059, Ok(Some(at(2_060)))),
            (2_060, Err(TokenProblem::Expired)),
        ] {
            assert_eq!(token.lifetime(at(now), skew), expected, "{now}");
        }
        let endless = claims(json!({"exp": null}));
        assert_eq!(endless.lifetime(at(5), skew), Ok(None));
        for bad in [
            json!({"exp": "soon"}),
            json!({"exp": -1}),
            json!({"nbf": []}),
        ] {
            let bad = claims(bad).lifetime(at(5), skew);
            assert_eq!(bad, Err(TokenProblem::Malformed));
        }
        let far = claims(json!({"exp": u64::MAX}));
        assert_eq!(far.lifetime(at(5), skew), Ok(Some(at(END_OF_TIME))));
    }

    #[test]
    fn claims_are_found_by_name_first_and_by_path_then() {
        let token = claims(json!({
            "a.b": "whole", "a": {"b": "inner", "c": {"d": ["x", 1, "y"]}}, "scope": "one  two", "n": 5
        }));
        assert_eq!(token.text("a.b"), Some("whole"));
        assert_eq!(token.words("a.c.d"), ["x", "y"]);
        assert_eq!(token.words("scope"), ["one", "two"]);
        assert_eq!((token.text("n"), token.text("a.x.y")), (None, None));
        assert!(token.words("a").is_empty());
    }

    #[test]
    fn only_claims_that_somebody_asks_for_are_kept() {
        let mut token = claims(
            json!({"iss": "i", "exp": 1, "a": {"b": 1}, "ab": 2, "c": 3, "photo": "x".repeat(20_000)}),
        );
        assert!(!token.is_small());
        token.keep(&["a.b", "c"]);
        assert!(token.is_small());
        let names: Vec<_> = token.0.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "c", "exp", "iss"]);
    }

    #[test]
    fn the_audience_is_a_text_or_a_list_and_one_of_ours_must_be_there() {
        let ours = ["mqtt".to_owned(), "gateway".to_owned()];
        assert!(claims(json!({"aud": "mqtt"})).is_for(&ours));
        assert!(claims(json!({"aud": ["x", "gateway"]})).is_for(&ours));
        for not in [
            json!({}),
            json!({"aud": "mqtt2"}),
            json!({"aud": []}),
            json!({"aud": {"mqtt": 1}}),
        ] {
            assert!(!claims(not.clone()).is_for(&ours), "{not}");
        }
    }
}
