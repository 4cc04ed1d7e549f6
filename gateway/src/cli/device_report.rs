//! What a new device needs, on standard output: for people, for its configuration page, for a camera, for a program.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::{CliError, output, qr};
use crate::admin::{DeviceGiven, Secret, settings_line};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Everything in words, with the settings line; on a terminal with its QR code
    Text,
    /// The settings line of the firmware's configuration page alone
    Settings,
    /// The settings line as a QR code
    Qr,
    /// One JSON object
    Json,
}

/// A file that was written, and what it is.
pub(super) type Written = (PathBuf, &'static str);

/// Prints it. Remarks go to standard error; the secret goes to standard output and nowhere else.
pub(super) fn print(
    given: &DeviceGiven,
    files: &[Written],
    password: Option<&Secret>,
    format: Format,
    out: &mut impl Write,
) -> Result<ExitCode, CliError> {
    for warning in &given.warnings {
        eprintln!("warning: {warning}");
    }
    let line = settings_line(given);
    let is_terminal = io::stdout().is_terminal();
    // What fails comes before the secret is lost.
    let code = match format {
        Format::Qr => Some(qr::code(&line, is_terminal)?),
        Format::Text if is_terminal => qr::code(&line, true).ok(),
        _ => None,
    };
    if format != Format::Text {
        eprintln!("{}; its secret cannot be shown again", given.message);
        list(files, password, format, &mut io::stderr())?;
    }
    match format {
        Format::Text => {
            text(given, &line, out)?;
            list(files, password, format, out)?;
            if let Some(code) = code {
                write!(out, "\n{code}")?;
            }
        }
        Format::Settings => writeln!(out, "{line}")?,
        Format::Qr => write!(out, "{}", code.unwrap_or_default())?,
        Format::Json => {
            return output::json_lines(&[object(given, &line, files, password)], out);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(given: &DeviceGiven, line: &str, out: &mut impl Write) -> io::Result<()> {
    let place = &given.place;
    writeln!(out, "{}; what follows is shown once\n", given.message)?;
    let roles = match given.roles.as_slice() {
        [] => "(none)".to_owned(),
        roles => roles.join(", "),
    };
    let topics = |filters: &[String]| match filters {
        [] => "(nothing)".to_owned(),
        filters => filters.join(", "),
    };
    let mut rows = vec![
        ("broker", place.host.clone()),
        ("port", format!("{} (MQTT over TLS)", place.port)),
        ("client id", given.id.clone()),
        ("user name", given.id.clone()),
        ("password", given.secret.0.clone()),
        ("roles", roles),
        ("publishes to", topics(&given.publish)),
        ("subscribes to", topics(&given.subscribe)),
    ];
    match &place.ca {
        Some(ca) => {
            rows.push(("CA certificate", ca.path.clone()));
            rows.push(("its SHA-256", ca.sha256.clone()));
        }
        None => rows.push((
            "CA certificate",
            "that of whoever issued the server's certificate".to_owned(),
        )),
    }
    rows.push(("pin (SPKI SHA-256)", place.pin.clone()));
    rows.push(("settings", line.to_owned()));
    for (label, value) in rows {
        writeln!(out, "{label:18}  {value}")?;
    }
    if let Some(certificate) = &given.certificate {
        writeln!(
            out,
            "{:18}  {}",
            "certificate until",
            output::time(certificate.not_after)
        )?;
    }
    Ok(())
}

fn list(
    files: &[Written],
    password: Option<&Secret>,
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    for (path, what) in files {
        writeln!(out, "  {}  {what}", path.display())?;
    }
    match (password, format) {
        (Some(Secret(password)), Format::Text) => {
            writeln!(out, "{:18}  {password}", "PKCS #12 password")
        }
        // In the JSON object. Never on standard error.
        _ => Ok(()),
    }
}

fn object(
    given: &DeviceGiven,
    line: &str,
    files: &[Written],
    password: Option<&Secret>,
) -> serde_json::Value {
    let place = &given.place;
    let files: Vec<_> = files
        .iter()
        .map(|(path, _)| path.display().to_string())
        .collect();
    json!({
        "id": given.id,
        "secret": given.secret.0,
        "roles": given.roles,
        "host": place.host,
        "port": place.port,
        "ca-path": place.ca.as_ref().map(|ca| &ca.path),
        "ca-sha256": place.ca.as_ref().map(|ca| &ca.sha256),
        "pin": place.pin,
        "publish": given.publish,
        "subscribe": given.subscribe,
        "settings": line,
        "certificate-until": given.certificate.as_ref().map(|one| one.not_after),
        "files": files,
        "pkcs12-password": password.map(|password| &password.0),
    })
}
