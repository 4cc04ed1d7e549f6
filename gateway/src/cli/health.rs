//! `postern health`: does the gateway run, and does everything in it work? Exit code 0 if so.

use std::io::Write;
use std::process::ExitCode;

use super::{CliError, Reach};
use crate::admin::{Answer, Command};
use crate::data_dir::DataDir;

pub(super) async fn run(dir: &DataDir, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let mut reach = Reach::open(dir, false).await?;
    let running = matches!(reach, Reach::Running(_));
    let answer = match running {
        true => Some(reach.execute(Command::Health).await),
        false => None,
    };
    reach.close().await?;
    let problems = match answer.transpose()? {
        Some(Answer::Health { problems }) => problems,
        Some(other) => return Err(CliError::Version(format!("{other:?}"))),
        None => vec![format!("no gateway runs on {}", dir.path().display())],
    };
    for problem in &problems {
        writeln!(out, "{problem}")?;
    }
    if problems.is_empty() {
        writeln!(out, "healthy")?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
