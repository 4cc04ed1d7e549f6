//! `postern user`: add, change and list user accounts.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

use super::{CliError, Reach, dry_run, output, prompt};
use crate::admin::{Answer, Command, NewPassword, PolicyChange};
use crate::data_dir::DataDir;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a user; its password is read from the terminal or from standard input
    Add {
        name: String,
        /// Have a strong password made, and print it; it verifies faster than a chosen one
        #[arg(long)]
        generate: bool,
        /// Give the user a role; may be repeated
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// Change a user's password
    Password {
        name: String,
        /// Have a strong password made, and print it
        #[arg(long)]
        generate: bool,
    },
    /// Give a user exactly these roles (none: take them all away)
    Roles {
        name: String,
        roles: Vec<String>,
        /// Change nothing: tell which decisions of late would have been other ones
        #[arg(long)]
        dry_run: bool,
    },
    /// Keep a user out and close its sessions
    Disable { name: String },
    /// Let a disabled user in again
    Enable { name: String },
    /// Remove a user, its sessions, and the rules that are for it alone
    Remove { name: String },
    /// List the users
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    pub async fn run(self, dir: &DataDir, out: &mut impl Write) -> Result<ExitCode, CliError> {
        let may_create = matches!(self.verb, Verb::Add { .. });
        let command = match self.verb {
            Verb::List { json } => return list(dir, json, out).await,
            Verb::Add {
                name,
                generate,
                roles,
            } => Command::AddUser {
                name,
                password: new_password(generate).await?,
                roles,
            },
            Verb::Password { name, generate } => Command::SetPassword {
                name,
                password: new_password(generate).await?,
            },
            Verb::Roles {
                name,
                roles,
                dry_run: true,
            } => return dry_run::run(dir, PolicyChange::SetRoles { name, roles }, out).await,
            Verb::Roles { name, roles, .. } => Command::SetRoles { name, roles },
            Verb::Disable { name } => Command::DisableUser { name },
            Verb::Enable { name } => Command::EnableUser { name },
            Verb::Remove { name } => Command::RemoveUser { name },
        };
        let answer = Reach::once(dir, may_create, command).await?;
        output::done(answer, out)
    }
}

async fn new_password(generate: bool) -> Result<NewPassword, CliError> {
    match generate {
        true => Ok(NewPassword::Generated),
        false => Ok(NewPassword::Chosen(prompt::new_password().await?)),
    }
}

async fn list(dir: &DataDir, json: bool, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let mut reach = Reach::open(dir, false).await?;
    let (mut lines, mut after) = (Vec::new(), None);
    while let Answer::Users { users, more } = reach.execute(Command::ListUsers { after }).await? {
        lines.extend(users);
        after = lines.last().map(|user| user.name.clone());
        if !more || after.is_none() {
            break;
        }
    }
    reach.close().await?;
    if json {
        return output::json_lines(&lines, out);
    }
    let rows = lines.iter().map(|user| {
        let state = if user.disabled { "disabled" } else { "active" };
        let password = match (user.device, user.generated, user.imported) {
            (true, ..) => "device",
            (_, true, _) => "generated",
            (.., true) => "imported",
            _ => "chosen",
        };
        [
            user.name.clone(),
            state.to_owned(),
            password.to_owned(),
            user.roles.join(","),
        ]
    });
    output::table(["NAME", "STATE", "PASSWORD", "ROLES"], rows.collect(), out)
}
