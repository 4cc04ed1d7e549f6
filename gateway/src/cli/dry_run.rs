//! What a change of policy would have decided differently, on the terminal.

use std::io::Write;
use std::process::ExitCode;

use super::{CliError, Reach, output};
use crate::acl::DryRun;
use crate::admin::{Answer, Command, PolicyChange};
use crate::data_dir::DataDir;

/// Tries a change and prints what it found.
pub(super) async fn run(
    dir: &DataDir,
    change: PolicyChange,
    out: &mut impl Write,
) -> Result<ExitCode, CliError> {
    match Reach::once(dir, false, Command::DryRun { change }).await? {
        Answer::DryRun(run) => print(&run, out),
        other => Err(CliError::Version(format!("{other:?}"))),
    }
}

fn print(run: &DryRun, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let DryRun {
        looked_at,
        since,
        differences,
        more,
    } = run;
    let looked = match since {
        Some(since) => format!(
            "{looked_at} decisions were looked at, the oldest of {}",
            output::time(*since)
        ),
        None => "no decision is remembered yet: nothing was looked at".to_owned(),
    };
    if differences.is_empty() {
        writeln!(
            out,
            "{looked}; none would be another one. Nothing is changed."
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let total = differences.len() as u64 + more;
    writeln!(
        out,
        "{looked}; {total} would be other ones. Nothing is changed."
    )?;
    writeln!(out)?;
    let rows = differences.iter().map(|difference| {
        [
            difference.effect.as_str().to_owned(),
            // Clients choose names and topics.
            output::plain(&difference.principal),
            difference.action.to_string(),
            output::plain(&difference.topic),
            difference.count.to_string(),
            difference.clients.to_string(),
            output::time(difference.last),
            output::plain(&difference.would),
        ]
    });
    let head = [
        "WOULD BE",
        "PRINCIPAL",
        "ACTION",
        "TOPIC",
        "TIMES",
        "CLIENTS",
        "LAST",
        "BECAUSE",
    ];
    output::table(head, rows.collect(), out)?;
    if *more > 0 {
        writeln!(out, "and {more} more")?;
    }
    Ok(ExitCode::SUCCESS)
}
