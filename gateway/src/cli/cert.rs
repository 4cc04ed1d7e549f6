//! `postern cert`: which certificates does the gateway serve, what do devices pin, and back to the
//! one before.

use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use broker_config::Config;
use clap::Subcommand;

use super::{CliError, Reach, output};
use crate::admin::{
    AdminError, Answer, CertificateDetails, CertificateFacts, CertificateLine, Command,
};
use crate::data_dir::DataDir;
use crate::supervise;
use crate::tls::acme::{Finding, Severity};
use crate::tls::unix_seconds;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the certificates: for whom, from whom, how long they are valid
    Status {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show a certificate's chain, sizes, fingerprints and pins, in the forms that devices take
    Show {
        /// As `postern cert status` lists it; without it the default one
        #[arg(default_value = crate::tls::Certificates::DEFAULT_SLOT)]
        name: String,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Serve the previous certificate again; a second time undoes it
    Rollback { name: String },
    /// Have the running gateway get a new certificate now, if it is due or the last attempt failed
    Renew {
        /// As `postern cert status` lists it
        #[arg(default_value = supervise::ACME_SLOT)]
        name: String,
        /// Due or not, and whatever `postern cert preflight` says
        #[arg(long)]
        force: bool,
        /// Put the renewed certificate in force that waits because its chain is too long
        #[arg(long, conflicts_with = "force")]
        accept_chain: bool,
    },
    /// Look for what would make an order fail: name, port, clock, CAA record, CA
    Preflight {
        /// The certificate; without it the one of [acme]
        #[arg(default_value = supervise::ACME_SLOT)]
        name: String,
    },
}

impl Args {
    pub async fn run(
        self,
        config: &Config,
        dir: &DataDir,
        out: &mut impl Write,
    ) -> Result<ExitCode, CliError> {
        let command = match &self.verb {
            Verb::Status { .. } => Command::ListCertificates,
            Verb::Show { name, .. } => Command::ShowCertificate { name: name.clone() },
            Verb::Rollback { name } => Command::RollBackCertificate { name: name.clone() },
            Verb::Renew {
                name,
                accept_chain: true,
                ..
            } => Command::AcceptCertificate { name: name.clone() },
            Verb::Renew { name, force, .. } => Command::RenewCertificate {
                name: name.clone(),
                force: *force,
            },
            Verb::Preflight { name } => return preflight(config, dir, name, out).await,
        };
        match (ask(config, dir, command).await?, self.verb) {
            (Answer::Certificates { certificates }, Verb::Status { json: true }) => {
                output::json_lines(&certificates, out)
            }
            (Answer::Certificates { certificates }, _) => status(&certificates, out),
            (Answer::Certificate(details), Verb::Show { json: true, .. }) => {
                output::json_lines(&[details], out)
            }
            (Answer::Certificate(details), _) => show(&details, out),
            (answer, _) => output::done(answer, out),
        }
    }
}

/// Asks the running gateway, or looks at the files where none runs.
async fn ask(config: &Config, dir: &DataDir, command: Command) -> Result<Answer, CliError> {
    let mut reach = Reach::with_certificates(dir, config).await?;
    let answer = reach.execute(command).await;
    reach.close().await?;
    answer
}

/// By the running gateway, which holds the ports; else here.
async fn preflight(
    config: &Config,
    dir: &DataDir,
    name: &str,
    out: &mut impl Write,
) -> Result<ExitCode, CliError> {
    let findings = match Reach::running(dir).await? {
        Some(mut client) => {
            let name = name.to_owned();
            match client
                .execute(&Command::PreflightCertificate { name })
                .await?
            {
                Answer::Findings { findings } => findings,
                other => return Err(CliError::Version(format!("{other:?}"))),
            }
        }
        None => supervise::preflight(config, name)
            .await
            .map_err(AdminError::Refused)?,
    };
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let fails = |finding: &Finding| finding.severity == Severity::Problem;
    match findings.iter().any(fails) {
        true => Ok(ExitCode::FAILURE),
        false => Ok(ExitCode::SUCCESS),
    }
}

fn status(lines: &[CertificateLine], out: &mut impl Write) -> Result<ExitCode, CliError> {
    let head = [
        "NAME",
        "FOR",
        "ISSUER",
        "DAYS LEFT",
        "KEY",
        "CHAIN",
        "RENEWAL",
        "SOURCE",
    ];
    let rows = lines.iter().map(|line| match &line.certificate {
        Some(facts) => [
            line.name.clone(),
            facts.names.join(","),
            facts.issuer.clone(),
            days_left(facts.not_after),
            facts.key.clone(),
            format!("{} ({} bytes)", facts.depth, facts.chain_bytes),
            line.renewal.map_or("-".to_owned(), output::time),
            source(facts),
        ],
        None => {
            let mut row = ["-"; 8].map(str::to_owned);
            row[0].clone_from(&line.name);
            row
        }
    });
    output::table(head, rows.collect(), out)?;
    let problems: Vec<_> = lines
        .iter()
        .filter_map(|line| Some((&line.name, line.problem.as_ref()?)))
        .collect();
    for (name, problem) in &problems {
        writeln!(out, "\n{name}: {problem}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(details: &CertificateDetails, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let (facts, pins) = (&details.certificate, &details.pins);
    let valid = |not_before, not_after| {
        let left = days_left(not_after);
        format!(
            "{} to {} ({left} days left)",
            output::time(not_before),
            output::time(not_after)
        )
    };
    writeln!(out, "name      {}", details.name)?;
    writeln!(out, "for       {}", facts.names.join(", "))?;
    writeln!(
        out,
        "valid     {}",
        valid(facts.not_before, facts.not_after)
    )?;
    writeln!(out, "key       {}", facts.key)?;
    writeln!(out, "source    {}", source(facts))?;
    if details.previous {
        let name = &details.name;
        writeln!(
            out,
            "previous  kept: `postern cert rollback {name}` goes back to it"
        )?;
    }
    if let Some(problem) = &details.problem {
        writeln!(out, "problem   {problem}")?;
    }
    let (depth, bytes) = (facts.depth, facts.chain_bytes);
    let certificates = if depth == 1 {
        "certificate"
    } else {
        "certificates"
    };
    writeln!(
        out,
        "\nchain     {bytes} bytes in {depth} {certificates}, as they are sent"
    )?;
    for (index, link) in details.chain.iter().enumerate() {
        let number = index + 1;
        writeln!(
            out,
            "  {number}  {}, {} bytes, {}",
            link.subject, link.bytes, link.key
        )?;
        writeln!(out, "     issued by {}", link.issuer)?;
        writeln!(out, "     valid {}", valid(link.not_before, link.not_after))?;
        writeln!(out, "     serial {}", link.serial)?;
    }
    writeln!(out, "\nof the certificate: these change with each renewal")?;
    writeln!(out, "  SHA-256  {}", pins.sha256)?;
    writeln!(out, "  SHA-1    {}", pins.sha1)?;
    writeln!(out, "  Arduino  client.setFingerprint(\"{}\");", pins.sha1)?;
    writeln!(out, "  ESPHome  ssl_fingerprints: [{}]", pins.sha1_digits)?;
    writeln!(
        out,
        "\nof the public key: these stay as long as the private key stays"
    )?;
    writeln!(out, "  SPKI SHA-256  {}", pins.spki_sha256)?;
    match &pins.tasmota {
        Some(tasmota) => writeln!(out, "  Tasmota       MqttFingerprint1 {tasmota}")?,
        None => writeln!(out, "  Tasmota       takes RSA and ECDSA P-256 only")?,
    }
    writeln!(
        out,
        "  Arduino       client.setKnownKey(&key), where key is a BearSSL::PublicKey of"
    )?;
    write!(out, "\n{}", pins.public_key)?;
    Ok(ExitCode::SUCCESS)
}

/// Whole days; negative once it has expired.
fn days_left(not_after: i64) -> String {
    let left = not_after - unix_seconds(SystemTime::now());
    left.div_euclid(86_400).to_string()
}

fn source(facts: &CertificateFacts) -> String {
    match facts.built_in {
        true => format!("private CA, {}", facts.source),
        false => facts.source.clone(),
    }
}
