//! The report of an import, for people.

use std::io::{self, Write};

use super::import::Report;
use crate::import::{Class, Kind, Replay};

/// Lines of each list; --json shows all.
const SHOWN: usize = 30;

pub(super) fn write(report: &Report, with_settings: bool, out: &mut impl Write) -> io::Result<()> {
    for (kind, title) in [
        (
            Kind::Wider,
            "Restrictions that are lost (more would be allowed here)",
        ),
        (Kind::Unmapped, "Cannot be taken over"),
        (Kind::Differs, "Means something else here"),
        (Kind::Mapped, "Taken over"),
    ] {
        let findings = report
            .findings
            .iter()
            .filter(|finding| finding.kind == kind);
        list(title, findings.map(|finding| finding.to_string()), out)?;
    }
    let users = report.users.iter().map(|user| {
        let state = if user.disabled { " (disabled)" } else { "" };
        match user.roles.is_empty() {
            true => format!("{}{state}", user.name),
            false => format!("{}{state}: {}", user.name, user.roles.join(", ")),
        }
    });
    list("Users and their roles", users, out)?;
    list(
        "Users that exist here already",
        report.existing.iter().cloned(),
        out,
    )?;
    let rules = report.rules.iter();
    let rules = rules.map(|rule| {
        format!(
            "{} {} {} for {}",
            rule.effect, rule.action, rule.filter, rule.who
        )
    });
    list("Rules", rules, out)?;
    replay(report.replay, out)?;
    if with_settings {
        writeln!(
            out,
            "\nSettings (not written; --config-out FILE writes them)"
        )?;
        for line in report.settings.lines() {
            writeln!(out, "{}", format!("  {line}").trim_end())?;
        }
    }
    if report.dry_run {
        writeln!(out, "\nNothing was changed.")?;
    }
    Ok(())
}

fn replay(replay: &Replay, out: &mut impl Write) -> io::Result<()> {
    write!(
        out,
        "\nReplay: {} decisions for {} clients by Mosquitto's meaning and by the rules here",
        replay.decisions, replay.users
    )?;
    match replay.users_left_out {
        0 => writeln!(out)?,
        some => writeln!(out, " ({some} clients left out, evenly)")?,
    }
    writeln!(
        out,
        "  {} SUBSCRIBE granted there though nothing was delivered, refused here",
        replay.empty
    )?;
    for (class, count, text) in [
        (Class::Wider, replay.wider, "allowed here, not there"),
        (Class::Narrower, replay.narrower, "allowed there, not here"),
        (
            Class::Refused,
            replay.refused,
            "SUBSCRIBE granted there (and filtered), refused here",
        ),
        (
            Class::Granted,
            replay.granted,
            "SUBSCRIBE refused there, granted here; other filters gave the same messages",
        ),
    ] {
        writeln!(out, "  {count} {text}")?;
        let differences = replay
            .differences
            .iter()
            .filter(|difference| difference.class == class);
        for difference in differences.take(SHOWN) {
            let user = difference.user.as_deref().unwrap_or("(anonymous)");
            let (action, topic, reason) =
                (difference.action, &difference.topic, &difference.reason);
            writeln!(out, "    {user} {action} {topic}: {reason}")?;
        }
        if count > SHOWN {
            writeln!(out, "    … and {} more", count - SHOWN)?;
        }
    }
    Ok(())
}

fn list(title: &str, items: impl Iterator<Item = String>, out: &mut impl Write) -> io::Result<()> {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}: {}", items.len())?;
    for item in items.iter().take(SHOWN) {
        writeln!(out, "  {item}")?;
    }
    if items.len() > SHOWN {
        writeln!(
            out,
            "  … and {} more; --json shows all",
            items.len() - SHOWN
        )?;
    }
    Ok(())
}
