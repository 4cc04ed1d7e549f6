//! Why did it fail? An error in words, with everything that led to it.

use std::error::Error;

/// An error with all its causes: hyper says only "client error (Connect)" by itself.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] Option<Box<Step>>);

    #[test]
    fn every_cause_is_told_once() {
        let inner = Step("connection refused", None);
        let middle = Step("connect", Some(Box::new(inner)));
        let outer = Step("cannot connect", Some(Box::new(middle)));
        assert_eq!(with_causes(&outer), "cannot connect: connection refused");
    }
}
