//! File and environment together.

use std::{ffi::OsString, io::Write, os::unix::ffi::OsStringExt, path::PathBuf};

use broker_config::{Config, LogLevel, Report, Sources, TlsVersion};

fn env(vars: &[(&str, &str)]) -> Result<Config, Report> {
    Config::load(&Sources::new(None, vars.iter().copied()))
}

fn file_and_env(text: &[u8], vars: &[(&str, &str)]) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(text).expect("written");
    let path = file.path().to_path_buf();
    let sources = Sources::new(Some(path.clone()), vars.iter().copied());
    let shown = path.display().to_string();
    Config::load(&sources).map_err(|report| report.to_string().replace(&shown, "FILE"))
}

#[test]
fn without_sources_the_configuration_is_the_default() {
    assert_eq!(env(&[]), Ok(Config::default()));
    assert_eq!(Config::parse("", "empty"), Ok(Config::default()));
}

#[test]
fn an_environment_variable_wins_over_the_file() {
    let text = b"[limits]\nmax_connections = 7\nmax_sessions = 8\n";
    let vars = [("POSTERN__LIMITS__MAX_CONNECTIONS", "9")];
    let limits = file_and_env(text, &vars).expect("valid").limits;
    assert_eq!((limits.max_connections, limits.max_sessions), (9, 8));
}

#[test]
fn an_environment_variable_is_toml_or_else_a_string() {
    let config = env(&[
        (
            "POSTERN__LISTENERS__MQTTS__BIND",
            r#"["[::1]:1", "127.0.0.1:2"]"#,
        ),
        ("POSTERN__LISTENERS__WSS__BIND", "[::1]:3"),
        ("POSTERN__LISTENERS__MQTT__BIND", "[]"),
        ("POSTERN__LOG__LEVEL", "debug"),
        ("POSTERN__LIMITS__TLS_TIMEOUT", "3s"),
        ("POSTERN__LIMITS__CONNECT_TIMEOUT", "4"),
        ("POSTERN__TLS__MIN_VERSION", "1.3"),
        ("POSTERN__AUTH__ANONYMOUS_ROLE", "true"),
        ("POSTERN__DATA_DIR", "/srv/postern"),
        (
            "POSTERN__SESSION",
            r#"{ denied_publish = "disconnect", expiry_max = "1d" }"#,
        ),
        ("POSTERN__SESSION__EXPIRY_MAX", "2d"),
        ("HOME", "/root"),
        ("POSTERN_CONFIG", "ignored: one underscore"),
    ])
    .expect("valid");
    assert_eq!(config.listeners["mqtts"].bind.len(), 2);
    assert_eq!(config.listeners["wss"].bind[0].port(), 3);
    assert!(!config.listeners["mqtt"].is_on());
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.limits.tls_timeout.as_secs(), 3);
    assert_eq!(config.limits.connect_timeout.as_secs(), 4);
    assert_eq!(config.tls.min_version, TlsVersion::Tls13);
    assert_eq!(config.auth.anonymous_role, "true");
    assert_eq!(config.data_dir, Some(PathBuf::from("/srv/postern")));
    assert_eq!(config.session.expiry_max.as_secs(), 2 * 86_400);
    assert_eq!(
        config.session.denied_publish,
        broker_config::DeniedPublish::Disconnect
    );
}

#[test]
fn a_listener_can_be_made_of_variables_alone() {
    let config = env(&[
        ("POSTERN__LISTENERS__SITE_B__PROTOCOL", "websocket"),
        ("POSTERN__LISTENERS__SITE_B__BIND", "[::]:443"),
    ])
    .expect("valid");
    assert!(config.listeners["site_b"].is_on());
    assert_eq!(config.listeners.len(), 5);
}

#[test]
fn bad_variables_are_refused_in_these_words() {
    let table = [
        (
            ("POSTERN__LIMITS__MAX_CONECTIONS", "5"),
            "POSTERN__LIMITS__MAX_CONECTIONS: limits.max_conections = 5: unknown key; \
             did you mean \"max_connections\"?",
        ),
        (
            ("POSTERN__AUTH__PASSWORD", "hunter2"),
            "POSTERN__AUTH__PASSWORD: auth.password: unknown key; known here: allow_anonymous, \
             anonymous_role, password_slots, password_queue, password_cache",
        ),
        (
            ("POSTERN__LIMITS__MAX_CONNECTIONS", "five"),
            "POSTERN__LIMITS__MAX_CONNECTIONS: limits.max_connections = \"five\": is a string; \
             write a whole number",
        ),
        (
            ("POSTERN__LIMITS", "5"),
            "POSTERN__LIMITS: limits = 5: is a number; \
             write a table: [limits] and its keys on lines of their own",
        ),
        (
            ("POSTERN__log__level", "info"),
            "POSTERN__log__level: is not in capitals; write POSTERN__LOG__LEVEL",
        ),
        (
            ("POSTERN__LIMITS__", "5"),
            "POSTERN__LIMITS__: does not name a key; write it like POSTERN__LIMITS__MAX_CONNECTIONS",
        ),
        (
            ("POSTERN__", "5"),
            "POSTERN__: does not name a key; write it like POSTERN__LIMITS__MAX_CONNECTIONS",
        ),
    ];
    for (var, expected) in table {
        let report = env(&[var]).expect_err(var.0);
        assert_eq!(report.to_string(), expected);
    }
}

#[test]
fn problems_of_the_environment_follow_those_of_the_file() {
    let vars = [("POSTERN__SYS__INTERVAL", "no")];
    let report = file_and_env(b"\n\nx = 1\n[log]\nlevel = 5\n", &vars).expect_err("wrong");
    let starts: Vec<_> = report.lines().map(|l| l.split(": ").next()).collect();
    assert_eq!(
        starts,
        [
            Some("FILE:3"),
            Some("FILE:5"),
            Some("POSTERN__SYS__INTERVAL")
        ]
    );
}

#[test]
fn a_variable_inside_what_the_file_sets_to_a_value_is_refused() {
    let vars = [("POSTERN__LIMITS__MAX_SESSIONS", "5")];
    let report = file_and_env(b"\nlimits = 5\n", &vars).expect_err("wrong");
    let expected = "POSTERN__LIMITS__MAX_SESSIONS: limits: cannot have keys, it is a number in \
                    FILE:2; remove one of the two";
    assert!(report.contains(expected), "{report}");
}

#[test]
fn a_variable_nested_without_end_is_refused() {
    let name = format!("POSTERN{}", "__A".repeat(100_000));
    let report = env(&[(&name, "1")]).expect_err("wrong").to_string();
    assert!(report.contains("does not name a key"));
}

#[test]
fn a_variable_that_is_not_unicode_is_refused_and_not_shown() {
    let vars = [(
        OsString::from("POSTERN__LOG__LEVEL"),
        OsString::from_vec(vec![b's', 0xff]),
    )];
    let report = Config::load(&Sources::new(None, vars))
        .expect_err("wrong")
        .to_string();
    assert_eq!(
        report,
        "POSTERN__LOG__LEVEL: is not Unicode; write its name and value in UTF-8"
    );
}

#[test]
fn a_file_that_is_missing_is_an_error() {
    let sources = Sources::new(Some("/nonexistent/postern.toml".into()), [("A", "b")]);
    let report = Config::load(&sources).expect_err("wrong").to_string();
    let expected = "/nonexistent/postern.toml: cannot be read: No such file or directory \
                    (os error 2); check the path and its permissions";
    assert_eq!(report, expected);
}

#[test]
fn a_file_that_is_not_utf_8_is_an_error_with_its_line() {
    let report = file_and_env(b"[log]\n# caf\xe9\n", &[]).expect_err("wrong");
    assert_eq!(report, "FILE:2: is not UTF-8; save the file as UTF-8");
}

#[test]
fn a_file_over_one_mebibyte_is_an_error() {
    let text = "#\n".repeat((1 << 19) + 1);
    let report = file_and_env(text.as_bytes(), &[]).expect_err("wrong");
    assert_eq!(
        report,
        "FILE: is larger than 1 MiB; name a configuration file"
    );
}
