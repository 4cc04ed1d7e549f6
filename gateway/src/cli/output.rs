//! Answers on the terminal: what was asked for goes to standard output, remarks go to standard error.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use super::CliError;
pub(super) use crate::admin::date as time;
use crate::admin::{Answer, Secret};

/// Prints that a change is done. A generated password stands alone on standard output, ready for a pipe.
pub(super) fn done(answer: Answer, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let (message, password, warnings) = match answer {
        Answer::Done { message, warnings } => (message, None, warnings),
        Answer::Password {
            message,
            password,
            warnings,
        } => (message, Some(password), warnings),
        // Only asked for by verbs that print these themselves.
        Answer::Users { .. }
        | Answer::Given(_)
        | Answer::Devices { .. }
        | Answer::Rules { .. }
        | Answer::Explanation(_)
        | Answer::DryRun(_)
        | Answer::Audit { .. }
        | Answer::Bans { .. }
        | Answer::Health { .. }
        | Answer::Certificates { .. }
        | Answer::Certificate(_)
        | Answer::Ca(_)
        | Answer::Issued { .. }
        | Answer::IssuedCertificates { .. }
        | Answer::RevocationList { .. }
        | Answer::Findings { .. }
        | Answer::Backup { .. } => {
            return Ok(ExitCode::SUCCESS);
        }
    };
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    match password {
        Some(Secret(password)) => {
            eprintln!("{message}; this is its password, and it cannot be shown again:");
            writeln!(out, "{password}")?;
        }
        None => writeln!(out, "{message}")?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn json_lines(
    lines: &[impl Serialize],
    out: &mut impl Write,
) -> Result<ExitCode, CliError> {
    for line in lines {
        serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
        writeln!(out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Text that strangers chose, without anything that a terminal would take for a command.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => plain.extend(character.escape_default()),
            false => plain.push(character),
        }
    }
    plain
}

/// Columns as wide as their widest cell; no space at the end of a line.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: Vec<[String; N]>,
    out: &mut impl Write,
) -> Result<ExitCode, CliError> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut out = Vec::new();
        let rows = vec![
            ["jörg".to_owned(), "".to_owned()],
            ["a-longer-name".to_owned(), "x".to_owned()],
        ];
        table(["NAME", "ROLES"], rows, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME           ROLES\njörg\na-longer-name  x\n"
        );
    }
}
