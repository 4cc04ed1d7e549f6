//! For all texts: no panic, and whatever is accepted survives being printed.

use broker_config::{Config, Sources};
use proptest::prelude::*;

/// Text that gets past the syntax often enough to reach the keys.
fn document() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "[a-z_]{1,12}",
        Just("limits".to_owned()),
        Just("listeners.mqtts".to_owned()),
        Just("listeners.own".to_owned()),
        Just("bus".to_owned()),
        Just("bind".to_owned()),
        Just("paths".to_owned()),
        Just("protocol".to_owned()),
        Just("segments".to_owned()),
        Just("permits".to_owned()),
        Just("max_packet_size".to_owned()),
        Just("max_connections".to_owned()),
    ];
    let value = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        "[0-9]{1,4}".prop_map(|n| format!("\"{n}KiB\"")),
        any::<bool>().prop_map(|b| b.to_string()),
        "\"[^\"\\\\\\n\\r]{0,20}\"",
        Just("[\"[::1]:5\", \"127.0.0.1:0\"]".to_owned()),
        Just("\"websocket\"".to_owned()),
        Just("[[1], {a = 2}]".to_owned()),
        Just("{ bind = [] }".to_owned()),
        Just("1.5e3".to_owned()),
    ];
    let line = prop_oneof![
        (name.clone(), value).prop_map(|(name, value)| format!("{name} = {value}\n")),
        name.prop_map(|name| format!("[{name}]\n")),
        "\\PC{0,20}\n",
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

/// What must hold for any text, and what a fuzzer checks.
fn check(text: &str) {
    match Config::parse(text, "any") {
        Ok(config) => {
            let printed = config.print();
            assert_eq!(
                Config::parse(&printed, "printed").as_ref(),
                Ok(&config),
                "{printed}"
            );
        }
        Err(report) => {
            assert!(!report.0.is_empty());
            let lines = text.lines().count() + 1;
            assert!(
                report
                    .0
                    .iter()
                    .all(|p| p.line.is_some_and(|line| line <= lines)),
                "{report}"
            );
            assert!(
                !report
                    .to_string()
                    .contains(|c: char| c.is_control() && c != '\n')
            );
            assert_eq!(report.to_string().lines().count(), report.0.len());
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn any_document_is_read_or_refused(text in document()) {
        check(&text);
    }

    #[test]
    fn any_variable_is_read_or_refused(name in "POSTERN__[A-Z_]{0,20}", value in any::<String>()) {
        if let Err(report) = Config::load(&Sources::new(None, [(name, value)])) {
            prop_assert!(!report.0.is_empty());
        }
    }
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
    let deep = [
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("a{} = 1", ".a".repeat(100_000)),
        format!("[a{}]", ".a".repeat(100_000)),
    ];
    for text in deep {
        assert!(Config::parse(&text, "deep").is_err());
    }
}
