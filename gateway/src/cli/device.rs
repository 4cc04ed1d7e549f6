//! `postern device`: add devices, list them, change their secrets, and take everything back.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use broker_config::Config;
use clap::Subcommand;

use super::certificate_files::{self, Files};
use super::device_report::{self, Format, Written};
use super::{CliError, Reach, output};
use crate::admin::{
    AdminError, Answer, Broker, CertificateRequest, Command, DeviceCommand, DeviceDesk,
    DeviceGiven, DeviceLine, ReachedBy, Secret,
};
use crate::auth::generate_secret;
use crate::data_dir::DataDir;
use crate::tls::private_ca::signing::KeyRequest;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a device, and print everything it needs, once
    Add {
        /// Its id: user name, client identifier and %d
        name: String,
        /// Its role, instead of `device`; may be repeated
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        #[command(flatten)]
        certificate: CertificateArgs,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// List the devices: whether they are connected, when and where they were last seen, their firmware
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Give a device another secret; the old one ends at once, and connections with it
    Rotate {
        name: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Take everything back: secret, certificates, sessions, and the rules that are for it alone
    Revoke { name: String },
    /// Keep a device out and close its sessions
    Disable { name: String },
    /// Let a disabled device in again
    Enable { name: String },
}

#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The DNS name or address by which devices reach the gateway, if it cannot know
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// The port by which they do
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

#[derive(Debug, clap::Args)]
struct CertificateArgs {
    /// Have the private CA issue a client certificate as well
    #[arg(long)]
    certificate: bool,
    /// How long it holds; 1095 days unless told otherwise
    #[arg(long, requires = "certificate")]
    days: Option<u32>,
    /// The folder for key and certificate
    #[arg(
        long,
        value_name = "DIR",
        default_value = ".",
        requires = "certificate"
    )]
    out: PathBuf,
    /// Make a PKCS #12 file as well; its password is made, and printed
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pkcs12: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long, requires = "certificate")]
    force: bool,
}

/// What is ready before the device is: what can fail does so while nothing is lost.
struct Prepared {
    key: KeyRequest,
    files: Files,
    /// A file, and its password.
    pkcs12: Option<(PathBuf, Secret)>,
    days: Option<u32>,
    force: bool,
}

impl Args {
    pub async fn run(
        self,
        config: &Config,
        dir: &DataDir,
        out: &mut impl Write,
    ) -> Result<ExitCode, CliError> {
        let mut reach = Reach::with_certificates(dir, config).await?;
        if let Reach::Direct { administration, .. } = &reach {
            let config = config.clone();
            administration.attach_devices(DeviceDesk {
                broker: Box::new(move || Broker::of(&config, |_| None)),
                sightings: None,
            });
        }
        let done = self.verb.execute(&mut reach, out).await;
        reach.close().await?;
        done
    }
}

impl Verb {
    async fn execute(self, reach: &mut Reach, out: &mut impl Write) -> Result<ExitCode, CliError> {
        let command = match self {
            Verb::Add {
                name,
                roles,
                certificate,
                place,
            } => return add(reach, name, roles, certificate, place, out).await,
            Verb::Rotate { name, place } => {
                let (format, reach_by) = place.split();
                let reach_by = DeviceCommand::Rotate {
                    name,
                    reach: reach_by,
                };
                return match reach.execute(Command::Device(reach_by)).await? {
                    Answer::Given(given) => device_report::print(&given, &[], None, format, out),
                    other => output::done(other, out),
                };
            }
            Verb::List { json } => return list(reach, json, out).await,
            Verb::Revoke { name } => DeviceCommand::Revoke { name },
            Verb::Disable { name } => DeviceCommand::Disable { name },
            Verb::Enable { name } => DeviceCommand::Enable { name },
        };
        output::done(reach.execute(Command::Device(command)).await?, out)
    }
}

impl PlaceArgs {
    fn split(self) -> (Format, ReachedBy) {
        let PlaceArgs { format, host, port } = self;
        (format, ReachedBy { host, port })
    }
}

async fn add(
    reach: &mut Reach,
    name: String,
    roles: Vec<String>,
    certificate: CertificateArgs,
    place: PlaceArgs,
    out: &mut impl Write,
) -> Result<ExitCode, CliError> {
    let (format, reach_by) = place.split();
    if certificate.pkcs12.is_some() && !matches!(format, Format::Text | Format::Json) {
        return Err(CliError::Password(
            "the password of a PKCS #12 file is printed with --format text or json only",
        ));
    }
    let prepared = match certificate.certificate {
        true => Some(prepare(reach, &name, certificate).await?),
        false => None,
    };
    let command = DeviceCommand::Add {
        name: name.clone(),
        roles,
        certificate: prepared.as_ref().map(|prepared| CertificateRequest {
            request: prepared.key.request.clone(),
            days: prepared.days,
        }),
        reach: reach_by,
    };
    let given = match reach.execute(Command::Device(command)).await? {
        Answer::Given(given) => given,
        other => return output::done(other, out),
    };
    let written = match &prepared {
        Some(prepared) => write(prepared, &name, &given),
        None => Ok(Vec::new()),
    };
    // The device is there: its secret is printed whatever became of the files.
    let files = written.as_deref().unwrap_or_default();
    let password = prepared.as_ref().and_then(|all| all.pkcs12.as_ref());
    let password = password.map(|(_, password)| password);
    device_report::print(&given, files, password, format, out)?;
    written.map(|_| ExitCode::SUCCESS)
}

async fn prepare(
    reach: &mut Reach,
    name: &str,
    args: CertificateArgs,
) -> Result<Prepared, CliError> {
    let ca = match reach.execute(Command::ShowCa).await? {
        Answer::Ca(ca) => ca.certificate,
        other => return Err(CliError::Version(format!("{other:?}"))),
    };
    let key = KeyRequest::generate().map_err(AdminError::from)?;
    let files = Files::prepare(&args.out, name, &ca, true, args.force)?;
    let pkcs12 = match args.pkcs12 {
        None => None,
        Some(file) => {
            certificate_files::check(&file, args.force)?;
            let password = generate_secret().map_err(AdminError::from)?;
            Some((file, Secret(password)))
        }
    };
    Ok(Prepared {
        key,
        files,
        pkcs12,
        days: args.days,
        force: args.force,
    })
}

fn write(prepared: &Prepared, name: &str, given: &DeviceGiven) -> Result<Vec<Written>, CliError> {
    let Some(issued) = &given.certificate else {
        return Err(CliError::Version("no certificate".to_owned()));
    };
    let Prepared { key, files, .. } = prepared;
    let mut written = files.write(&issued.certificate, &issued.ca, Some(key))?;
    if let Some((file, Secret(password))) = &prepared.pkcs12 {
        let store =
            certificate_files::pkcs12(name, &issued.certificate, &issued.ca, key, password)?;
        certificate_files::write(file, &store, 0o600, prepared.force)?;
        written.push((file.clone(), "PKCS #12: key and certificates"));
    }
    Ok(written)
}

async fn list(reach: &mut Reach, json: bool, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let (mut lines, mut after): (Vec<DeviceLine>, _) = (Vec::new(), None);
    loop {
        let command = Command::Device(DeviceCommand::List { after });
        let Answer::Devices { devices, more } = reach.execute(command).await? else {
            break;
        };
        lines.extend(devices);
        after = lines.last().map(|device| device.name.clone());
        if !more || after.is_none() {
            break;
        }
    }
    if json {
        return output::json_lines(&lines, out);
    }
    let time = |at: Option<i64>| at.map_or("-".to_owned(), output::time);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows = lines.iter().map(|device| {
        let state = match (device.disabled, device.connected) {
            (true, _) => "disabled",
            (_, true) => "connected",
            _ => "away",
        };
        [
            device.name.clone(),
            state.to_owned(),
            device.roles.join(","),
            time(Some(device.created_at)),
            time(device.rotated_at),
            time(device.seen_at),
            or_dash(&device.address),
            or_dash(&device.firmware),
        ]
    });
    let head = [
        "NAME",
        "STATE",
        "ROLES",
        "CREATED",
        "ROTATED",
        "LAST SEEN",
        "ADDRESS",
        "FIRMWARE",
    ];
    output::table(head, rows.collect(), out)
}
