//! The page about the configuration must name every key where a reader looks for it, with its true default.

use broker_config::Config;

const PAGE: &str = include_str!("../../../docs/configuration.md");

/// The rows of the page's tables, as section, key, default and last column.
fn rows() -> Vec<(String, String, String, String)> {
    let mut section = String::new();
    let mut rows = Vec::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let name = heading.trim_matches(['`', '[', ']']);
            section = match name {
                "Top level" => String::new(),
                name => format!("{name}."),
            };
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let ["", key, default, _, applies, ""] = cells[..]
            && let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`'))
            && ["live", "start"].contains(&applies)
        {
            rows.push((
                section.clone(),
                key.to_owned(),
                default.to_owned(),
                applies.to_owned(),
            ));
        }
    }
    rows
}

/// What a section of one's own must say at least, under names that stand for all.
const OWN: &str = "[certificates.own]\ncertificate = \"c\"\nprivate_key = \"k\"\n\
                   [oauth.own]\nissuer = \"https://i.example\"\naudience = [\"a\"]\n";

/// Every key with its default as TOML; sections that there may be several of under the name that stands for all.
fn keys() -> Vec<(String, String, Option<String>)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    let config = Config::parse(OWN, "own").expect("valid");
    for line in config.print().lines() {
        let unset = line
            .strip_prefix("# ")
            .and_then(|line| line.strip_suffix(" is not set"));
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some(key) = unset {
            keys.push((section.clone(), key.to_owned(), None));
        } else if let Some((key, value)) = line.split_once(" = ") {
            keys.push((section.clone(), key.to_owned(), Some(value.to_owned())));
        }
    }
    keys.retain(|(section, ..)| {
        !section.starts_with("listeners.") || section == "listeners.mqtts."
    });
    for (section, _, value) in &mut keys {
        *section = section.replace("mqtts", "NAME");
        if let Some(kind) = section.strip_suffix("own.") {
            *section = format!("{kind}NAME.");
            value.take_if(|value| OWN.contains(&**value));
        }
    }
    keys
}

#[test]
fn the_page_has_a_row_for_every_key_and_no_other() {
    let mut page: Vec<_> = rows().into_iter().map(|(s, key, ..)| s + &key).collect();
    let mut types: Vec<_> = keys().into_iter().map(|(s, key, _)| s + &key).collect();
    page.sort();
    types.sort();
    assert_eq!(page, types);
}

#[test]
fn the_page_gives_the_true_defaults() {
    for (section, key, default, _) in rows() {
        // A listener of one's own has other defaults than the one that stands for all.
        if section.starts_with("listeners.") {
            continue;
        }
        let (.., value) = keys()
            .into_iter()
            .find(|(s, k, _)| (s, k) == (&section, &key))
            .expect("a key");
        let expected = value.map_or("not set".to_owned(), |value| format!("`{value}`"));
        assert!(
            default.starts_with(&expected),
            "{section}{key}: {default} should begin with {expected}"
        );
    }
}

#[test]
fn the_page_tells_which_keys_wait_for_a_restart() {
    let mut waiting: Vec<_> = rows()
        .into_iter()
        .filter(|(section, _, _, applies)| applies == "start" && !section.starts_with("listeners."))
        .map(|(section, key, ..)| section + &key)
        .collect();
    waiting.sort();
    let mut fixed = Config::default().restart_keys(&crate::values::everything_changed());
    fixed.retain(|key| !key.starts_with("listeners."));
    assert_eq!(waiting, fixed);
}
