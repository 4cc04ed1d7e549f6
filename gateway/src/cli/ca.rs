//! `postern ca`: the private CA, what it issues and what it takes back.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;

use super::certificate_files::{self, Files};
use super::{CliError, Reach, output, prompt};
use crate::admin::{
    Answer, CaLine, CertificateKind, Command, IssuedLine, RevocationReason, Secret,
};
use crate::auth::generate_secret;
use crate::data_dir::DataDir;
use crate::tls::fingerprint::hex_with_colons;
use crate::tls::private_ca::signing::{KeyRequest, Prints, to_der, to_pem};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the private CA, if there is none yet
    Init,
    /// Show the CA's certificate: where it is, until when it holds, its fingerprints
    Show {
        /// Print the certificate itself, in PEM
        #[arg(long)]
        pem: bool,
    },
    /// Issue a certificate, with a new key
    #[command(subcommand)]
    Issue(Issue),
    /// Revoke certificates: all of a name, the one of a serial number, or the one in a file
    Revoke {
        #[arg(value_name = "NAME|SERIAL|FILE")]
        which: String,
        #[arg(long, value_enum, default_value = "unspecified")]
        reason: RevocationReason,
    },
    /// List what the CA has issued
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Print the list of revoked certificates (PEM), signed anew if it is due
    Crl {
        /// Write it to a file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// In DER; needs --out
        #[arg(long, requires = "out")]
        der: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Issue {
    /// For a client: a device, or a user
    Device {
        /// Who it is to the gateway
        name: String,
        #[command(flatten)]
        common: IssueArgs,
    },
    /// For a server: another broker, a web server
    Server {
        /// A DNS name or an IP address
        name: String,
        /// Another DNS name or IP address; may be repeated
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        common: IssueArgs,
    },
}

#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// How long it holds; 1095 days for a device and 397 for a server unless told otherwise
    #[arg(long)]
    days: Option<u32>,
    /// The folder for the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Make a PKCS #12 file as well; its password is read from the terminal or from standard input
    #[arg(long, value_name = "FILE", conflicts_with = "csr")]
    pkcs12: Option<PathBuf>,
    /// Have the password of the PKCS #12 file made, and print it
    #[arg(long, requires = "pkcs12")]
    generate: bool,
    /// Certify the key of this request (PKCS #10, PEM) instead of making one
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// The largest file with a request or a certificate, in bytes.
const FILE_MAX: u64 = 64 * 1024;

impl Args {
    pub async fn run(self, dir: &DataDir, out: &mut impl Write) -> Result<ExitCode, CliError> {
        match self.verb {
            Verb::Init => show(Reach::once(dir, true, Command::InitCa).await?, false, out),
            Verb::Show { pem } => show(Reach::once(dir, false, Command::ShowCa).await?, pem, out),
            Verb::Issue(Issue::Device { name, common }) => {
                issue(dir, CertificateKind::Device, name, Vec::new(), common, out).await
            }
            Verb::Issue(Issue::Server {
                name,
                names,
                common,
            }) => issue(dir, CertificateKind::Server, name, names, common, out).await,
            Verb::Revoke { which, reason } => {
                let which = certificate_of(&which)?.unwrap_or(which);
                let command = Command::RevokeCertificate { which, reason };
                output::done(Reach::once(dir, false, command).await?, out)
            }
            Verb::List { json } => list(dir, json, out).await,
            Verb::Crl { out: file, der } => {
                let answer = Reach::once(dir, false, Command::RevocationList).await?;
                crl(answer, file, der, out)
            }
        }
    }
}

fn show(answer: Answer, pem: bool, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let Answer::Ca(ca) = answer else {
        return output::done(answer, out);
    };
    if pem {
        write!(out, "{}", ca.certificate)?;
        return Ok(ExitCode::SUCCESS);
    }
    if ca.made {
        writeln!(out, "the private CA was made")?;
    }
    let CaLine {
        path, not_after, ..
    } = &ca;
    writeln!(out, "certificate   {path}")?;
    writeln!(
        out,
        "holds until   {} ({} days)",
        output::time(*not_after),
        (not_after - now()) / 86_400
    )?;
    if let Some(prints) = Prints::of(&ca.certificate) {
        writeln!(out, "SHA-256       {}", hex_with_colons(&prints.sha256))?;
        writeln!(out, "SHA-1         {}", hex_with_colons(&prints.sha1))?;
        writeln!(out, "pin of the key (SHA-256, base64)  {}", prints.pin())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn issue(
    dir: &DataDir,
    kind: CertificateKind,
    name: String,
    names: Vec<String>,
    common: IssueArgs,
    out: &mut impl Write,
) -> Result<ExitCode, CliError> {
    let (key, request) = match &common.csr {
        Some(file) => (None, text_of(file)?),
        None => {
            let key = KeyRequest::generate().map_err(crate::admin::AdminError::from)?;
            let request = key.request.clone();
            (Some(key), request)
        }
    };
    // Whatever can fail comes before the certificate: it would be one that nobody has.
    let ca = match Reach::once(dir, false, Command::ShowCa).await? {
        Answer::Ca(ca) => ca.certificate,
        other => return output::done(other, out),
    };
    let files = Files::prepare(&common.out, &name, &ca, key.is_some(), common.force)?;
    if let Some(file) = &common.pkcs12 {
        certificate_files::check(file, common.force)?;
    }
    let password = match (&common.pkcs12, common.generate) {
        (None, _) => None,
        (Some(_), true) => Some(Secret(
            generate_secret().map_err(crate::admin::AdminError::from)?,
        )),
        (Some(_), false) => Some(prompt::new_password().await?),
    };
    let command = Command::IssueCertificate {
        kind,
        name: name.clone(),
        names,
        days: common.days,
        request,
    };
    let answer = Reach::once(dir, false, command).await?;
    let Answer::Issued {
        message,
        certificate,
        ca,
        not_after,
        warnings,
    } = answer
    else {
        return output::done(answer, out);
    };
    let mut written = files.write(&certificate, &ca, key.as_ref())?;
    if let (Some(file), Some(password), Some(key)) = (&common.pkcs12, &password, &key) {
        let store = certificate_files::pkcs12(&name, &certificate, &ca, key, &password.0)?;
        certificate_files::write(file, &store, 0o600, common.force)?;
        written.push((file.clone(), "PKCS #12: key and certificates"));
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    let until = output::time(not_after);
    let mut report = format!("{message}, until {until}\n");
    for (path, what) in &written {
        report.push_str(&format!("  {}  {what}\n", path.display()));
    }
    match password.filter(|_| common.generate) {
        // Alone on standard output, ready for a pipe.
        Some(Secret(password)) => {
            eprint!("{report}");
            eprintln!("this is the password of the PKCS #12 file, and it cannot be shown again:");
            writeln!(out, "{password}")?;
        }
        None => write!(out, "{report}")?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(dir: &DataDir, json: bool, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let mut reach = Reach::open(dir, false).await?;
    let (mut lines, mut after) = (Vec::new(), None);
    loop {
        let answer = reach.execute(Command::ListIssued { after }).await;
        let (certificates, more) = match answer {
            Ok(Answer::IssuedCertificates { certificates, more }) => (certificates, more),
            Ok(_) => break,
            Err(error) => {
                reach.close().await?;
                return Err(error);
            }
        };
        lines.extend(certificates);
        after = lines.last().map(|one: &IssuedLine| one.id);
        if !more || after.is_none() {
            break;
        }
    }
    reach.close().await?;
    if json {
        return output::json_lines(&lines, out);
    }
    let now = now();
    let rows = lines.iter().map(|one| {
        let state = match (one.revoked_at, &one.reason) {
            (Some(_), Some(reason)) if reason != "unspecified" => format!("revoked ({reason})"),
            (Some(_), _) => "revoked".to_owned(),
            (None, _) if one.not_after < now => "expired".to_owned(),
            (None, _) => "valid".to_owned(),
        };
        let until = output::time(one.not_after);
        let (name, kind) = (one.name.clone(), one.kind.clone());
        [name, kind, state, until, one.serial.clone()]
    });
    let head = ["NAME", "KIND", "STATE", "UNTIL", "SERIAL"];
    output::table(head, rows.collect(), out)
}

fn crl(
    answer: Answer,
    file: Option<PathBuf>,
    der: bool,
    out: &mut impl Write,
) -> Result<ExitCode, CliError> {
    let Answer::RevocationList { list, path } = answer else {
        return output::done(answer, out);
    };
    let Some(file) = file else {
        write!(out, "{list}")?;
        return Ok(ExitCode::SUCCESS);
    };
    let contents = match der {
        true => to_der(&list).ok_or_else(|| CliError::Version(path))?,
        false => list.into_bytes(),
    };
    // It is meant to be written again and again.
    certificate_files::write(&file, &contents, 0o644, true)?;
    writeln!(out, "the revocation list is in {}", file.display())?;
    Ok(ExitCode::SUCCESS)
}

/// The certificate in a file, in PEM; `None` if there is no such file, or no certificate in it: then it is a name.
fn certificate_of(argument: &str) -> Result<Option<String>, CliError> {
    let path = Path::new(argument);
    if !path.is_file() {
        return Ok(None);
    }
    let contents = bytes_of(path)?;
    if contents.first() == Some(&0x30) {
        return Ok(Some(to_pem("CERTIFICATE", &contents)));
    }
    let text = String::from_utf8_lossy(&contents);
    let first = text.find("-----BEGIN CERTIFICATE-----");
    Ok(first.map(|start| text[start..].to_owned()))
}

fn text_of(path: &Path) -> Result<String, CliError> {
    let contents = bytes_of(path)?;
    Ok(String::from_utf8_lossy(&contents).into_owned())
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |source| CliError::file("read", path, source);
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > FILE_MAX {
        let large = std::io::Error::other("it is larger than 64 KiB");
        return Err(failed(large));
    }
    fs::read(path).map_err(failed)
}

fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| elapsed.as_secs() as i64)
}
