//! `postern ban`: list, make and lift the bans of the running gateway.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

use super::{CliError, Reach, output};
use crate::admin::{Answer, Command};
use crate::data_dir::DataDir;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the bans in force, and the names that are refused at an address
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Ban an address (an IPv4 address, or the /64 of an IPv6 address) or a network
    Add {
        #[arg(value_name = "ADDRESS[/PREFIX]")]
        network: String,
        /// For how long: a number with s, m, h or d (default: as long as the gateway runs)
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        seconds: Option<u64>,
    },
    /// End every ban of an address or in a network
    Lift {
        #[arg(value_name = "ADDRESS[/PREFIX]")]
        network: String,
    },
}

impl Args {
    pub async fn run(self, dir: &DataDir, out: &mut impl Write) -> Result<ExitCode, CliError> {
        let command = match self.verb {
            Verb::List { json } => return list(dir, json, out).await,
            Verb::Add { network, seconds } => Command::AddBan { network, seconds },
            Verb::Lift { network } => Command::LiftBans { network },
        };
        output::done(Reach::once(dir, false, command).await?, out)
    }
}

async fn list(dir: &DataDir, json: bool, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let (bans, more) = match Reach::once(dir, false, Command::ListBans).await? {
        Answer::Bans { bans, more } => (bans, more),
        other => return Err(CliError::Version(format!("{other:?}"))),
    };
    if more {
        eprintln!(
            "warning: there are more; these are the first {}",
            bans.len()
        );
    }
    if json {
        return output::json_lines(&bans, out);
    }
    let rows = bans.into_iter().map(|ban| {
        let by = if ban.by_operator {
            "operator"
        } else {
            "failures"
        };
        [
            ban.network,
            // A stranger chose it.
            ban.name
                .map_or("all".to_owned(), |name| format!("{name:?}")),
            ban.seconds.map_or("no end".to_owned(), show),
            by.to_owned(),
        ]
    });
    output::table(["ADDRESS", "NAME", "LEFT", "BY"], rows.collect(), out)
}

/// The largest unit that loses little: `90s`, `14m`, `23h`, `6d`.
fn show(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Seconds of a time as it is written.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "write it like 90s, 15m, 2h or 7d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let each = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(each) {
        Some(seconds) if seconds > 0 => Ok(seconds),
        _ => Err("is no time that can be counted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown_in_one_unit() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("2h", Some(7_200)),
            ("7d", Some(604_800)),
            ("0s", None),
            ("", None),
            ("5", None),
            ("-5s", None),
            ("5\u{fc}", None),
            ("999999999999999999d", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text}");
        }
        let shown = [90, 900, 7_200, 604_800].map(show);
        assert_eq!(shown, ["90s", "15m", "2h", "7d"]);
    }
}
