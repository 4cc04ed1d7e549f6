//! Rules that involve more than one key.
//!
//! A rule is silent while one of its keys has a problem of its own: its default stands in for
//! it then, and would be blamed for what nobody wrote.

use std::time::Duration;

use crate::{
    Config, Mode, TlsVersion,
    acme::provable,
    listener::collide,
    read::Findings,
    report::{Place, Wrong, join, quote},
    value::Value,
};

pub(crate) fn check(config: &Config, findings: &mut Findings) {
    tls_files(config, findings);
    ciphers_fit_version(config, findings);
    acme(config, findings);
    packet_fits_budget(config, findings);
    bans_fit(config, findings);
    permits_fit_log(config, findings);
    issuers(config, findings);
    listeners(config, findings);
}

/// Blames the first of `keys` that somebody set.
fn blame(
    findings: &mut Findings,
    keys: &[&str],
    value: impl Fn(&str) -> Option<String>,
    wrong: Wrong,
) {
    if !keys.iter().all(|key| findings.sound(key)) {
        return;
    }
    let set = keys
        .iter()
        .find_map(|key| Some((*key, findings.place(key)?.clone())));
    let nowhere = Place {
        origin: "defaults".to_owned(),
        line: None,
    };
    let (key, place) = set.unwrap_or((keys.first().copied().unwrap_or_default(), nowhere));
    findings.problems.push(wrong.at(&place, key, value(key)));
}

fn tls_files(config: &Config, findings: &mut Findings) {
    let (certificate, private_key) = (&config.tls.certificate, &config.tls.private_key);
    let (missing, set) = match (certificate.is_some(), private_key.is_some()) {
        (true, false) => ("private_key", certificate),
        (false, true) => ("certificate", private_key),
        _ => return,
    };
    let wrong = Wrong::new(
        format!("is set without tls.{missing}"),
        "set both, or neither to use the built-in CA",
    );
    let keys = ["tls.certificate", "tls.private_key"];
    blame(findings, &keys, |_| set.show(), wrong);
}

fn ciphers_fit_version(config: &Config, findings: &mut Findings) {
    let tls = &config.tls;
    if tls.min_version < TlsVersion::Tls13 || tls.ciphers.suites().iter().any(|s| s.is_tls13()) {
        return;
    }
    let wrong = Wrong::new(
        "tls.ciphers has no suite of TLS 1.3, and tls.min_version allows nothing older: nobody \
         could connect",
        r#"add "TLS_AES_128_GCM_SHA256", or set min_version = "1.2""#,
    );
    let keys = ["tls.ciphers", "tls.min_version"];
    let value = |key: &str| match key {
        "tls.ciphers" => tls.ciphers.show(),
        _ => tls.min_version.show(),
    };
    blame(findings, &keys, value, wrong);
}

fn acme(config: &Config, findings: &mut Findings) {
    let acme = &config.acme;
    if let Err((key, wrong)) = provable(&acme.domains, acme.challenge, &acme.dns_hook) {
        let keys = match key {
            "domains" => ["acme.domains", "acme.challenge"],
            _ => ["acme.challenge", "acme.domains"],
        };
        blame(findings, &keys, |_| None, wrong);
    }
    for (name, certificate) in &config.certificates {
        let challenge = certificate.challenge.unwrap_or(acme.challenge);
        if let Err((key, wrong)) = provable(&certificate.domains, challenge, &acme.dns_hook) {
            let section = join("certificates", name);
            let (domains, own) = (join(&section, "domains"), join(&section, "challenge"));
            let keys = match key {
                "domains" => [domains.as_str(), own.as_str(), "acme.challenge"],
                _ => [own.as_str(), domains.as_str(), "acme.challenge"],
            };
            blame(findings, &keys, |_| None, wrong);
        }
    }
    let (id, file) = (
        &acme.external_account_key_id,
        &acme.external_account_key_file,
    );
    if id.is_some() != file.is_some() {
        let missing = match id {
            Some(_) => "external_account_key_file",
            None => "external_account_key_id",
        };
        let wrong = Wrong::new(
            format!("is set without acme.{missing}"),
            "set both, or neither if the CA asks for no external account",
        );
        let keys = [
            "acme.external_account_key_id",
            "acme.external_account_key_file",
        ];
        blame(findings, &keys, |_| None, wrong);
    }
}

fn packet_fits_budget(config: &Config, findings: &mut Findings) {
    let limits = &config.limits;
    if limits.max_packet_size <= limits.memory_budget {
        return;
    }
    let wrong = Wrong::new(
        format!(
            "limits.max_packet_size ({}) is larger than limits.memory_budget ({})",
            limits.max_packet_size, limits.memory_budget
        ),
        "lower the first or raise the second",
    );
    let keys = ["limits.max_packet_size", "limits.memory_budget"];
    let value = |key: &str| match key {
        "limits.max_packet_size" => limits.max_packet_size.show(),
        _ => limits.memory_budget.show(),
    };
    blame(findings, &keys, value, wrong);
}

fn bans_fit(config: &Config, findings: &mut Findings) {
    let bans = &config.bans;
    if bans.duration <= bans.duration_max {
        return;
    }
    let show = |duration: Duration| duration.show().unwrap_or_default().replace('"', "");
    let wrong = Wrong::new(
        format!(
            "bans.duration ({}) is longer than bans.duration_max ({})",
            show(bans.duration),
            show(bans.duration_max)
        ),
        "shorten the first or lengthen the second",
    );
    let keys = ["bans.duration", "bans.duration_max"];
    let value = |key: &str| match key {
        "bans.duration" => bans.duration.show(),
        _ => bans.duration_max.show(),
    };
    blame(findings, &keys, value, wrong);
}

/// Rule B5.
fn permits_fit_log(config: &Config, findings: &mut Findings) {
    let bus = &config.bus;
    let room = bus
        .segment_size
        .bytes()
        .saturating_mul(bus.segments.saturating_sub(1));
    if bus.permits.bytes() <= room {
        return;
    }
    let wrong = Wrong::new(
        format!(
            "bus.permits ({}) is more than (bus.segments - 1) * bus.segment_size, {room} bytes: \
             the log could lose messages",
            bus.permits
        ),
        "lower bus.permits, or raise bus.segments or bus.segment_size",
    );
    let keys = ["bus.permits", "bus.segment_size", "bus.segments"];
    let value = |key: &str| match key {
        "bus.permits" => bus.permits.show(),
        "bus.segment_size" => bus.segment_size.show(),
        _ => bus.segments.show(),
    };
    blame(findings, &keys, value, wrong);
}

/// Rule I2: what is presented selects one issuer.
fn issuers(config: &Config, findings: &mut Findings) {
    let all: Vec<_> = config.oauth.iter().collect();
    for (n, (name, issuer)) in all.iter().enumerate() {
        let before = &all[..n];
        let section = join("oauth", name);
        if let Some((other, _)) = before.iter().find(|(_, one)| one.issuer == issuer.issuer) {
            let wrong = Wrong::new(
                format!("is the issuer of oauth.{other}, too"),
                "join the two sections",
            );
            let shown = issuer.issuer.show();
            blame(
                findings,
                &[&join(&section, "issuer")],
                |_| shown.clone(),
                wrong,
            );
        }
        let asks = |one: &crate::Issuer| one.mode == Mode::Introspection;
        let other = before.iter().find(|(_, one)| asks(one));
        if let (true, Some((other, _))) = (asks(issuer), other) {
            let wrong = Wrong::new(
                format!("is introspection, as in oauth.{other}: a token does not say whom to ask"),
                "let all issuers but one sign their tokens",
            );
            blame(findings, &[&join(&section, "mode")], |_| None, wrong);
        }
    }
}

fn listeners(config: &Config, findings: &mut Findings) {
    // Without this, one mistyped listener would also be blamed for leaving no door.
    let sound = !findings
        .problems
        .iter()
        .any(|problem| problem.key.starts_with("listeners"));
    if sound && !config.listeners.values().any(|listener| listener.is_on()) {
        let wrong = Wrong::new(
            "no listener is on",
            "leave one enabled and bound, or remove the section for the defaults",
        );
        return blame(findings, &["listeners"], |_| None, wrong);
    }
    collisions(config, findings);
}

/// Two addresses of which the second could not be bound.
fn collisions(config: &Config, findings: &mut Findings) {
    let on = config
        .listeners
        .iter()
        .filter(|(_, listener)| listener.is_on());
    let bound: Vec<_> = on
        .flat_map(|(name, listener)| {
            let key = join(&join("listeners", name), "bind");
            listener
                .bind
                .iter()
                .map(move |address| (key.clone(), *address))
        })
        .collect();
    for (i, (key, address)) in bound.iter().enumerate() {
        let earlier = bound[..i]
            .iter()
            .find(|(_, other)| collide(*other, *address));
        let Some((other_key, other)) = earlier else {
            continue;
        };
        // Defaults do not collide, so at least one of the two was set.
        let ((key, address), (other_key, other)) = match findings.place(key) {
            Some(_) => ((key, address), (other_key, other)),
            None => ((other_key, other), (key, address)),
        };
        let wrong = Wrong::new(
            format!("takes the same address as {other_key} ({other})"),
            "choose another port, or turn one listener off",
        );
        let shown = Some(quote(&address.to_string()));
        blame(findings, &[key.as_str()], |_| shown.clone(), wrong);
    }
}
