//! `postern import`: take accounts, rules and settings of another broker over, after a report of what that means.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

use super::{CliError, Reach, import_report, settings::SettingsArgs};
use crate::admin::{AdminError, Answer, Command, Import, RuleLine};
use crate::auth::check_role;
use crate::import::{Choices, Finding, Kind, Plan, Replay, plan, replay};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// From Mosquitto: users, ACLs, dynamic security, listeners
    Mosquitto(MosquittoArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct MosquittoArgs {
    /// The configuration of Mosquitto, /etc/mosquitto/mosquitto.conf for most
    file: PathBuf,
    /// Report only; change nothing
    #[arg(long)]
    dry_run: bool,
    /// The report as one JSON object, with every rule
    #[arg(long)]
    json: bool,
    /// Write the settings (listeners, TLS files, limits) to this new file; without it they are shown
    #[arg(long, value_name = "FILE")]
    config_out: Option<PathBuf>,
    /// With per_listener_settings: take the users and rules of the listener on this port
    #[arg(long, value_name = "PORT")]
    listener: Option<u16>,
    /// The role that every imported user gets for what Mosquitto allows all clients
    #[arg(long, value_name = "ROLE", default_value = "mosquitto")]
    role: String,
    /// Leave this user out; may be repeated
    #[arg(long, value_name = "USER")]
    skip: Vec<String>,
    /// Replace what is here already: the passwords and roles of these users, and the rules for them and their new roles
    #[arg(long)]
    replace: bool,
    /// Import even though the report names restrictions that are lost
    #[arg(long)]
    accept_wider: bool,
}

/// What is printed.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Report<'a> {
    pub dry_run: bool,
    pub users: Vec<UserLine<'a>>,
    pub rules: &'a [RuleLine],
    pub findings: &'a [Finding],
    pub replay: &'a Replay,
    pub settings: &'a str,
    /// Users that exist already.
    pub existing: &'a [String],
}

/// A user without its hash.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct UserLine<'a> {
    pub name: &'a str,
    pub roles: &'a [String],
    pub disabled: bool,
}

impl Args {
    pub async fn run(
        self,
        settings: &SettingsArgs,
        out: &mut impl Write,
    ) -> Result<ExitCode, CliError> {
        let Verb::Mosquitto(args) = self.verb;
        args.run(settings, out).await
    }
}

impl MosquittoArgs {
    async fn run(
        self,
        settings: &SettingsArgs,
        out: &mut impl Write,
    ) -> Result<ExitCode, CliError> {
        check_role(&self.role).map_err(AdminError::from)?;
        let config = settings.load()?;
        let choices = Choices {
            listener: self.listener,
            role: self.role.clone(),
            anonymous_role: config.auth.anonymous_role.clone(),
            skip: self.skip.iter().cloned().collect(),
            replace: self.replace,
        };
        let plan = plan(&self.file, &choices)?;
        let dir = settings.locate()?;
        let mut reach = match Reach::open(&dir, !self.dry_run).await {
            Ok(reach) => Some(reach),
            Err(CliError::NoAccounts(_)) => None,
            Err(error) => return Err(error),
        };
        let result = self.with(&mut reach, &plan, out).await;
        if let Some(reach) = reach {
            reach.close().await?;
        }
        result
    }

    async fn with(
        &self,
        reach: &mut Option<Reach>,
        plan: &Plan,
        out: &mut impl Write,
    ) -> Result<ExitCode, CliError> {
        let (mut in_force, mut existing) = (Vec::new(), Vec::new());
        if let Some(reach) = reach.as_mut() {
            in_force = rules(reach).await?;
            let removed = plan.import.removal();
            in_force.retain(|rule| !removed(rule));
            existing = existing_users(reach, &plan.import).await?;
        }
        let replay = replay(plan, &in_force);
        let report = Report {
            dry_run: self.dry_run,
            users: users(&plan.import),
            rules: &plan.import.rules,
            findings: &plan.findings,
            replay: &replay,
            settings: &plan.settings,
            existing: &existing,
        };
        match self.json {
            true => {
                serde_json::to_writer(&mut *out, &report).map_err(std::io::Error::from)?;
                writeln!(out)?;
            }
            false => import_report::write(&report, self.config_out.is_none(), out)?,
        }
        let Some(reach) = reach.as_mut().filter(|_| !self.dry_run) else {
            return Ok(ExitCode::SUCCESS);
        };
        self.refuse_wider(plan, &replay)?;
        let message = self.apply(reach, plan).await?;
        // With --json standard output has the report alone.
        match self.json {
            true => eprintln!("{message}"),
            false => writeln!(out, "\n{message}")?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn refuse_wider(&self, plan: &Plan, replay: &Replay) -> Result<(), CliError> {
        let lost = plan
            .findings
            .iter()
            .filter(|finding| finding.kind == Kind::Wider)
            .count();
        match self.accept_wider || lost + replay.wider == 0 {
            true => Ok(()),
            false => Err(CliError::Wider {
                restrictions: lost,
                decisions: replay.wider,
            }),
        }
    }

    /// The settings first: a file that cannot be written stops everything, and one whose import is refused goes again.
    async fn apply(&self, reach: &mut Reach, plan: &Plan) -> Result<String, CliError> {
        if let Some(path) = &self.config_out {
            write_new(path, &plan.settings)?;
        }
        match reach.import(&plan.import).await {
            Ok(Answer::Done { message, warnings }) => {
                for warning in warnings {
                    eprintln!("warning: {warning}");
                }
                let settings = self.config_out.as_ref();
                let written = settings.map_or(String::new(), |path| {
                    format!("; settings written to {}", path.display())
                });
                Ok(format!("{message}{written}"))
            }
            Ok(_) => Err(CliError::Version(
                "another answer than to an import".to_owned(),
            )),
            Err(error) => {
                if let Some(path) = &self.config_out {
                    std::fs::remove_file(path)
                        .map_err(|source| CliError::file("remove", path, source))?;
                }
                Err(error)
            }
        }
    }
}

fn users(import: &Import) -> Vec<UserLine<'_>> {
    let users = import.users.iter();
    users
        .map(|user| UserLine {
            name: &user.name,
            roles: &user.roles,
            disabled: user.disabled,
        })
        .collect()
}

fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::NotOverwritten(path.to_owned()),
        _ => CliError::file("write", path, source),
    })?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    written.map_err(|source| CliError::file("write", path, source))
}

async fn rules(reach: &mut Reach) -> Result<Vec<RuleLine>, CliError> {
    let (mut lines, mut after) = (Vec::new(), None);
    while let Answer::Rules { rules, more } = reach.execute(Command::ListRules { after }).await? {
        lines.extend(rules);
        after = lines.last().map(|rule| rule.id);
        if !more || after.is_none() {
            break;
        }
    }
    Ok(lines)
}

async fn existing_users(reach: &mut Reach, import: &Import) -> Result<Vec<String>, CliError> {
    let imported: HashSet<&str> = import.users.iter().map(|user| user.name.as_str()).collect();
    let (mut existing, mut after) = (Vec::new(), None);
    while let Answer::Users { users, more } = reach.execute(Command::ListUsers { after }).await? {
        after = users.last().map(|user| user.name.clone());
        let names = users.into_iter().map(|user| user.name);
        existing.extend(names.filter(|name| imported.contains(name.as_str())));
        if !more || after.is_none() {
            break;
        }
    }
    Ok(existing)
}
