//! The operator's commands about bans, which the door of the running gateway carries out.

use std::net::IpAddr;
use std::time::Duration;

use broker_config::IpNet;

use super::{AdminError, Answer, BanLine};
use crate::listen::{Ban, Door, GIVEN_MAX};

/// Bans in one answer: with the longest names still a small part of what an answer may have.
const LISTED_MAX: usize = 5_000;
/// The longest ban that is counted in seconds.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

pub(super) fn list(door: &Door) -> Result<Answer, AdminError> {
    let (bans, more) = door.bans(LISTED_MAX);
    let bans = bans.into_iter().map(line).collect();
    Ok(Answer::Bans { bans, more })
}

pub(super) fn add(door: &Door, network: &str, seconds: Option<u64>) -> Result<Answer, AdminError> {
    let parsed = parse(network)?;
    let time = seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST));
    if !door.ban(parsed, time) {
        return Err(AdminError::TooManyBans { max: GIVEN_MAX });
    }
    let message = match time {
        Some(time) => format!("{network} is banned for {} s", time.as_secs()),
        None => format!("{network} is banned as long as the gateway runs"),
    };
    let warnings = vec!["clients that are connected stay connected".to_owned()];
    Ok(Answer::Done { message, warnings })
}

pub(super) fn lift(door: &Door, network: &str) -> Result<Answer, AdminError> {
    let message = match door.lift(parse(network)?) {
        0 => format!("there was no ban in {network}"),
        1 => format!("1 ban lifted in {network}"),
        count => format!("{count} bans lifted in {network}"),
    };
    Ok(Answer::Done {
        message,
        warnings: Vec::new(),
    })
}

fn parse(text: &str) -> Result<IpNet, AdminError> {
    let wrong = || AdminError::NotANetwork(text.to_owned());
    match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
        // Whoever has one address of a /64 has all of them.
        Ok(IpAddr::V6(address)) => IpNet::new(address.into(), 64)
            .map(|network| network.trunc())
            .map_err(|_| wrong()),
        Ok(address) => Ok(address.into()),
        Err(_) => {
            let network: IpNet = text.parse().map_err(|_| wrong())?;
            Ok(network.trunc())
        }
    }
}

fn line(ban: Ban) -> BanLine {
    BanLine {
        network: ban.network,
        name: ban.name,
        seconds: ban.left.map(|left| left.as_secs()),
        by_operator: ban.by_operator,
    }
}
