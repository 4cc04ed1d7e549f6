//! The report on a bad configuration as a whole: all problems of a file, each on one short line, and no secret of it.

use broker_config::Config;

/// The problems of `text` as an operator reads them.
pub fn report(text: &str) -> String {
    match Config::parse(text, "postern.toml") {
        Ok(config) => panic!("accepted {text:?} as {config:?}"),
        Err(report) => report.to_string(),
    }
}

#[test]
fn all_problems_of_a_file_are_reported_in_the_order_of_its_lines() {
    let text = "\
[sys]
interval = \"soon\"
[limits]
max_connections = 0
max_sesions = 5
receive_maximum = \"all\"
[listeners.mqtt]
bind = [\"0.0.0.0:1883\"]
";
    let report = Config::parse(text, "postern.toml").expect_err("is wrong");
    let found: Vec<_> = report.0.iter().map(|p| (p.line, p.key.as_str())).collect();
    let expected = [
        (Some(2), "sys.interval"),
        (Some(4), "limits.max_connections"),
        (Some(5), "limits.max_sesions"),
        (Some(6), "limits.receive_maximum"),
        (Some(8), "listeners.mqtt.bind"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn every_syntax_error_is_reported() {
    let report = report("a = \n[sys]\ninterval = 1\nb = \n");
    let lines: Vec<_> = report.lines().map(|line| line.split(": ").next()).collect();
    assert_eq!(
        lines,
        [Some("postern.toml:1"), Some("postern.toml:4")],
        "{report}"
    );
}

#[test]
fn the_value_of_a_key_that_nobody_knows_is_never_shown() {
    let text = "[auth]\npassword = \"hunter2\"\n[database]\nurl = \"hunter2\"\n[sys]\npin = 4711\n";
    let report = report(text);
    assert!(report.contains("auth.password"), "{report}");
    assert!(
        !report.contains("hunter2") && !report.contains("4711"),
        "{report}"
    );
}

#[test]
fn a_syntax_error_shows_nothing_of_the_file() {
    for text in [
        "password = \"hunter2\npin = 4711\n",
        "x = hunter2\n",
        "hunter2 4711\n",
    ] {
        let report = report(text);
        assert!(
            !report.contains("hunter2") && !report.contains("4711"),
            "{report}"
        );
    }
}

#[test]
fn a_long_or_multiline_value_stays_on_one_short_line() {
    let text = format!("[log]\nlevel = \"\"\"{}\"\"\"\n", "line\n".repeat(1_000));
    let report = report(&text);
    assert_eq!(report.lines().count(), 1);
    assert!(report.len() < 250, "{report}");
}

#[test]
fn a_rule_over_several_keys_is_silent_while_one_of_them_is_wrong() {
    let report = report("[bus]\npermits = \"lots\"\nsegments = 2\n");
    assert_eq!(report.lines().count(), 1, "{report}");
    assert!(report.contains("bus.permits"), "{report}");
}
