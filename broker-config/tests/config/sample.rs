//! The sample file is the reference of all keys: it must be complete and true.

use broker_config::{Config, SAMPLE};

/// The sample with every key in force. Prose begins with "# ", a key with "#".
fn uncommented() -> String {
    let key = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase());
    let line = |line| match str::strip_prefix(line, "#").filter(key) {
        Some(key) => key,
        None => line,
    };
    SAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Dotted paths of all keys of a TOML text with `[section]` headers, unset ones included.
fn keys(text: &str) -> Vec<String> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in text.lines() {
        let unset = line
            .strip_prefix("# ")
            .and_then(|line| line.strip_suffix(" is not set"));
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some(key) = unset {
            keys.push(format!("{section}{key}"));
        } else if let Some((key, _)) = line.split_once(" = ")
            && !line.starts_with('#')
        {
            keys.push(format!("{section}{key}"));
        }
    }
    keys.sort();
    keys
}

#[test]
fn the_sample_as_it_stands_is_the_default_configuration() {
    assert_eq!(Config::parse(SAMPLE, "sample"), Ok(Config::default()));
}

#[test]
fn the_sample_with_every_key_uncommented_is_the_default_configuration() {
    let mut config = Config::parse(&uncommented(), "sample").expect("valid");
    // What has no default has an example.
    assert!(config.data_dir.take().is_some());
    assert!(config.runtime_dir.take().is_some());
    assert!(config.tls.certificate.take().is_some());
    assert!(config.tls.private_key.take().is_some());
    assert!(config.acme.directory_root.take().is_some());
    assert!(config.acme.profile.take().is_some());
    assert!(config.acme.external_account_key_id.take().is_some());
    assert!(config.acme.external_account_key_file.take().is_some());
    assert_eq!(config, Config::default());
}

#[test]
fn the_sample_has_every_key_of_the_types_and_no_other() {
    let (sample, types) = (keys(&uncommented()), keys(&Config::default().print()));
    assert!(
        types.len() > 60,
        "the list of keys is too short to be all: {types:?}"
    );
    assert_eq!(sample, types);
}

#[test]
fn the_sample_explains_every_key_of_the_certificates_section() {
    let own = "[certificates.own]\ncertificate = \"c\"\nprivate_key = \"k\"\n";
    let printed = Config::parse(own, "own").expect("valid").print();
    for key in keys(&printed) {
        if let Some(key) = key.strip_prefix("certificates.own.") {
            let explained = SAMPLE
                .split_once("[certificates.NAME]")
                .is_some_and(|(_, text)| text.contains(&format!("\n#   {key} ")));
            assert!(explained, "{key}");
        }
    }
}

#[test]
fn the_sample_explains_every_key_of_an_issuer_with_its_default() {
    let own = "[oauth.own]\nissuer = \"https://i.example\"\naudience = \"a\"\n";
    let printed = Config::parse(own, "own").expect("valid").print();
    let section = SAMPLE.split_once("[oauth.NAME]").expect("a section").1;
    let mut count = 0;
    for key in keys(&printed) {
        if let Some(key) = key.strip_prefix("oauth.own.") {
            assert!(section.contains(&format!("\n#   {key} ")), "{key}");
            count += 1;
        }
    }
    assert_eq!(count, 27);
}

#[test]
fn the_sample_marks_exactly_the_keys_that_need_a_restart() {
    // A comment belongs to the key below it; listeners are marked once, as a whole.
    let mut marked = Vec::new();
    let (mut section, mut comment) = (String::new(), String::new());
    for line in SAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            comment.clear();
        } else if line.is_empty() {
            comment.clear();
        } else if let Some((key, _)) = line
            .strip_prefix('#')
            .filter(|key| !key.starts_with(' '))
            .and_then(|key| key.split_once(" = "))
        {
            if comment.contains("(restart)") && !section.starts_with("listeners") {
                marked.push(format!("{section}{key}"));
            }
            comment.clear();
        } else {
            comment += line;
        }
    }
    marked.sort();

    let mut fixed = Config::default().restart_keys(&crate::values::everything_changed());
    fixed.retain(|key| !key.starts_with("listeners."));
    assert_eq!(marked, fixed);
}
