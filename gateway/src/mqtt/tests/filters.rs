use proptest::prelude::*;

use crate::mqtt::topic::{TopicError, validate_topic_name};
use crate::mqtt::{Filter, SubscriptionFilter, covers, matches};

#[test]
fn a_filter_matches_the_topics_that_section_4_7_says() {
    let rows: [(&str, &[&str], &[&str]); 14] = [
        ("a/b", &["a/b"], &["a", "a/b/", "/a/b", "a/B", "a/bc"]),
        (
            "#",
            &["a", "a/b", "/", "/a", "a/"],
            &["$SYS", "$SYS/a", "$"],
        ),
        ("+", &["a", "Ω"], &["a/b", "/a", "/", "$SYS", "a/"]),
        ("a/#", &["a", "a/", "a/b", "a/b/c"], &["ab", "b/a", "A"]),
        ("a/+", &["a/b", "a/"], &["a", "a/b/c", "b/a"]),
        ("+/+", &["a/b", "/a", "a/", "/"], &["a", "a/b/c", "$SYS/a"]),
        ("/+", &["/a", "/"], &["a", "a/b", "/a/b"]),
        ("+/a/#", &["x/a", "/a", "x/a/b/c"], &["a", "$x/a", "x/b"]),
        ("+/#", &["a", "a/b", "/", "/a/b"], &["$SYS", "$SYS/a"]),
        ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/d", "a/b/c/d"]),
        ("$SYS/#", &["$SYS", "$SYS/a/b"], &["$SYSx", "a"]),
        ("$SYS/+/b", &["$SYS/a/b"], &["$SYS/b", "x/a/b"]),
        ("a/+/#", &["a/b", "a/", "a/b/c"], &["a"]),
        (
            "sport/tennis/player1/#",
            &[
                "sport/tennis/player1",
                "sport/tennis/player1/score/wimbledon",
            ],
            &["sport/tennis"],
        ),
    ];
    for (filter, matching, others) in rows {
        assert!(Filter::parse(filter, 10).is_ok(), "{filter}");
        for topic in matching {
            assert!(matches(filter, topic), "{filter} must match {topic}");
        }
        for topic in others {
            assert!(!matches(filter, topic), "{filter} must not match {topic}");
        }
    }
}

#[test]
fn a_filter_covers_the_filters_within_it() {
    // P2
    let rows: [(&str, &[&str], &[&str]); 11] = [
        (
            "#",
            &["#", "+/#", "+", "a", "a/#", "/", "+/+/b"],
            &["$SYS/#", "$SYS", "$x/+"],
        ),
        ("+/#", &["#", "+/#", "+", "a", "a/#", "/"], &["$SYS/#"]),
        ("+", &["+", "a"], &["#", "+/#", "a/b", "+/+", "a/#", "$a"]),
        (
            "a/#",
            &["a", "a/#", "a/b", "a/+", "a/+/#", "a/b/#", "a/"],
            &["#", "+/a", "+", "b", "ab", "+/#"],
        ),
        (
            "a/+",
            &["a/b", "a/+", "a/"],
            &["a", "a/#", "a/+/#", "a/b/c", "+/b"],
        ),
        ("a/+/#", &["a/b", "a/+", "a/+/c", "a/b/#"], &["a", "a/#"]),
        ("a/b", &["a/b"], &["a/+", "a/#", "a/b/#", "a", "#"]),
        ("+/b", &["a/b", "+/b", "/b"], &["+/+", "#", "+/#", "$a/b"]),
        (
            "$SYS/#",
            &["$SYS", "$SYS/#", "$SYS/a/+"],
            &["#", "+/a", "$SYSx"],
        ),
        ("+/+/#", &["a/b", "+/+", "a/+/#"], &["+/#", "a/#", "#", "a"]),
        ("/#", &["/", "/a", "/+/b"], &["a", "#", "+/a"]),
    ];
    for (wide, within, others) in rows {
        for narrow in within {
            assert!(covers(wide, narrow), "{wide} must cover {narrow}");
        }
        for narrow in others {
            assert!(!covers(wide, narrow), "{wide} must not cover {narrow}");
        }
    }
}

#[test]
fn a_filter_is_refused_for_the_rule_it_breaks() {
    let refusal = |filter: &str| Filter::parse(filter, 4).unwrap_err();
    assert_eq!(refusal(""), TopicError::Empty);
    assert_eq!(refusal("a\0b"), TopicError::NullCharacter);
    assert_eq!(refusal(&"a".repeat(65536)), TopicError::TooLong(65536));
    assert_eq!(
        refusal("a/b/c/d/#"),
        TopicError::TooManyLevels {
            levels: 5,
            maximum: 4
        }
    );
    for filter in [
        "a#", "#a", "a/#/b", "#/", "+a", "a+/b", "a/b+", "++", "##", "+#",
    ] {
        assert_eq!(refusal(filter), TopicError::MisplacedWildcard, "{filter}");
    }
    for filter in [
        "/", "//", "#", "+", "/#", "+/+/+/#", "$SYS/#", "a b", "$share", "ü/+",
    ] {
        assert_eq!(Filter::parse(filter, 4).unwrap().as_str(), filter);
    }
    assert!(Filter::parse("a".repeat(65535), 1).is_ok());
}

#[test]
fn a_topic_name_is_refused_for_the_rule_it_breaks() {
    assert_eq!(validate_topic_name("", 4), Err(TopicError::Empty));
    assert_eq!(
        validate_topic_name("a\0", 4),
        Err(TopicError::NullCharacter)
    );
    assert_eq!(
        validate_topic_name("a/+", 4),
        Err(TopicError::WildcardInName)
    );
    assert_eq!(
        validate_topic_name("a#b", 4),
        Err(TopicError::WildcardInName)
    );
    assert_eq!(
        validate_topic_name(&"a".repeat(65536), 4),
        Err(TopicError::TooLong(65536))
    );
    assert_eq!(
        validate_topic_name("a/b/c/d/", 4),
        Err(TopicError::TooManyLevels {
            levels: 5,
            maximum: 4
        })
    );
    for topic in [
        "a",
        "/",
        "a/b/c/d",
        "$SYS/x",
        "$share/g/a",
        " ",
        "温度/室内",
    ] {
        assert_eq!(validate_topic_name(topic, 4), Ok(()), "{topic}");
    }
    assert_eq!(validate_topic_name(&"a".repeat(65535), 1), Ok(()));
}

#[test]
fn a_shared_subscription_has_a_name_and_a_filter() {
    let shared = SubscriptionFilter::parse("$share/group/a/+/#", 3).unwrap();
    assert_eq!(shared.share.as_deref(), Some("group"));
    assert_eq!(shared.filter.as_str(), "a/+/#");
    assert_eq!(shared.as_str(), "$share/group/a/+/#");

    let slash = SubscriptionFilter::parse("$share/g//", 3).unwrap();
    assert_eq!(slash.filter.as_str(), "/");

    for plain in ["a/#", "$share", "$SHARE/g/a", "$shared/g/a", "share/g/a"] {
        let filter = SubscriptionFilter::parse(plain, 3).unwrap();
        assert_eq!(
            (
                filter.share.as_deref(),
                filter.filter.as_str(),
                filter.as_str()
            ),
            (None, plain, plain)
        );
    }
    for malformed in [
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
        "$share/g#/a",
        "$share///",
    ] {
        assert_eq!(
            SubscriptionFilter::parse(malformed, 3),
            Err(TopicError::MalformedShare),
            "{malformed}"
        );
    }
    assert_eq!(
        SubscriptionFilter::parse("$share/g/a/#/b", 4),
        Err(TopicError::MisplacedWildcard)
    );
    assert_eq!(
        SubscriptionFilter::parse("$share/g\0/a", 4),
        Err(TopicError::NullCharacter)
    );
    let levels = SubscriptionFilter::parse("$share/g/a/b", 1);
    assert_eq!(
        levels,
        Err(TopicError::TooManyLevels {
            levels: 2,
            maximum: 1
        })
    );
}

/// Section 4.7 once more, as slow and plain as it can be said: all ways to match, over lists of levels.
fn naive(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        ([level, filter @ ..], [name, topic @ ..]) => {
            (*level == "+" || level == name) && naive(filter, topic)
        }
        _ => false,
    }
}

fn naive_matches(filter: &str, topic: &str) -> bool {
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    let hidden = topic[0].starts_with('$') && (filter[0] == "+" || filter[0] == "#");
    !hidden && naive(&filter, &topic)
}

fn topics() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        Just(""),
        Just("a"),
        Just("b"),
        Just("$s"),
        Just("ab"),
        Just("é")
    ];
    prop::collection::vec(level, 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |topic| !topic.is_empty())
}

fn filters() -> impl Strategy<Value = String> {
    let level = prop_oneof![Just(""), Just("a"), Just("b"), Just("$s"), Just("+")];
    (prop::collection::vec(level, 0..4), any::<bool>())
        .prop_map(|(mut levels, multi)| {
            if multi {
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("not empty", |filter| !filter.is_empty())
}

/// Every topic of one to four levels over names that the generated filters use, and one, `z`, that they do not: two
/// filters of at most four levels that differ in any topic differ in one of these.
fn all_topics() -> Vec<String> {
    let mut topics = vec![];
    let mut longest = vec![vec![]];
    for _ in 0..5 {
        longest = longest
            .iter()
            .flat_map(|topic: &Vec<&str>| {
                ["", "a", "b", "$s", "z"].map(|level| [topic.as_slice(), &[level]].concat())
            })
            .collect();
        topics.extend(longest.iter().map(|topic| topic.join("/")));
    }
    topics.retain(|topic| !topic.is_empty());
    topics
}

proptest! {
    #[test]
    fn matching_agrees_with_a_naive_matcher(filter in filters(), topic in topics()) {
        prop_assert_eq!(matches(&filter, &topic), naive_matches(&filter, &topic), "{} {}", filter, topic);
    }

    #[test]
    fn generated_filters_and_topics_are_valid(filter in filters(), topic in topics()) {
        prop_assert!(Filter::parse(filter, 8).is_ok());
        prop_assert!(validate_topic_name(&topic, 8).is_ok());
    }

    #[test]
    fn any_text_is_refused_or_accepted_and_never_panics(text in ".{0,40}", topic in ".{0,40}") {
        let _ = SubscriptionFilter::parse(text.as_str(), 8);
        let _ = validate_topic_name(&topic, 8);
        let _ = matches(&text, &topic);
        let _ = covers(&text, &topic);
    }
}

#[test]
fn covering_is_exactly_matching_every_topic_of_the_other() {
    // P2: all pairs of a few hundred filters, against every topic that could tell them apart.
    let topics = all_topics();
    let mut filters = vec![];
    for levels in 1..=3usize {
        for mut code in 0..6usize.pow(levels as u32) {
            let mut parts = vec![];
            for _ in 0..levels {
                parts.push(["", "a", "b", "$s", "+", "#"][code % 6]);
                code /= 6;
            }
            let filter = parts.join("/");
            if Filter::parse(filter.as_str(), 8).is_ok() {
                filters.push(filter);
            }
        }
    }
    let sets: Vec<Vec<bool>> = filters
        .iter()
        .map(|filter| topics.iter().map(|topic| matches(filter, topic)).collect())
        .collect();
    let mut covering = 0;
    for (wide, wide_set) in filters.iter().zip(&sets) {
        for (narrow, narrow_set) in filters.iter().zip(&sets) {
            let contained = narrow_set
                .iter()
                .zip(wide_set)
                .all(|(narrow, wide)| !narrow || *wide);
            assert_eq!(covers(wide, narrow), contained, "{wide} over {narrow}");
            covering += usize::from(contained);
        }
    }
    assert!(
        filters.len() > 150 && covering > filters.len(),
        "{} filters, {covering} pairs",
        filters.len()
    );
}
