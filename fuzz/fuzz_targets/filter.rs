//! Topic filters: no text makes the functions panic, and covering means what it says: if one filter covers another, it
//! matches each topic that the other matches.
//!
//! The input is three texts with newlines between them: two filters and a topic name.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../../gateway/src/mqtt/mod.rs"]
mod mqtt;

use mqtt::{Filter, SubscriptionFilter, covers, matches, validate_topic_name};

const LEVELS: usize = 64;

fuzz_target!(|input: &str| {
    let mut texts = input.splitn(3, '\n');
    let (Some(wide), Some(narrow), Some(topic)) = (texts.next(), texts.next(), texts.next()) else {
        return;
    };
    for text in [wide, narrow] {
        if let Ok(subscription) = SubscriptionFilter::parse(text, LEVELS) {
            let filter = subscription.filter.as_str();
            assert_eq!(
                Filter::parse(filter, LEVELS).as_ref(),
                Ok(&subscription.filter)
            );
            assert!(covers(filter, filter), "{filter}");
            match &subscription.share {
                Some(share) => assert_eq!(text, format!("$share/{share}/{filter}")),
                None => assert_eq!(text, filter),
            }
        }
    }
    // Also for texts that are no filters: no panic.
    let (covered, matching) = (covers(wide, narrow), matches(narrow, topic));
    let valid = |filter: &str| Filter::parse(filter, LEVELS).is_ok();
    if valid(wide) && valid(narrow) && validate_topic_name(topic, LEVELS).is_ok() {
        assert!(
            !(covered && matching) || matches(wide, topic),
            "{wide} covers {narrow} but not {topic}"
        );
        assert!(matches(topic, topic), "{topic}");
        assert_eq!(
            covers(wide, topic),
            matches(wide, topic),
            "{wide} and {topic}"
        );
    }
});
