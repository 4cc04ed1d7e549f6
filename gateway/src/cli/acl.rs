//! `postern acl`: allow, deny and explain what clients may publish and subscribe to.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

use super::{CliError, Reach, dry_run, output};
use crate::acl::{Action, Effect, Who};
use crate::admin::{Answer, Command, PolicyChange, Question};
use crate::auth::LOCAL_REALM;
use crate::data_dir::DataDir;

/// The exit code of `explain` for what is denied.
const DENIED: u8 = 3;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Allow publishing or subscribing to the topics of a filter
    Allow(RuleArgs),
    /// Deny it; a deny beats every allow
    Deny(RuleArgs),
    /// Remove a rule by its number
    Remove {
        id: i64,
        /// Change nothing: tell which decisions of late would have been other ones
        #[arg(long)]
        dry_run: bool,
    },
    /// List the rules
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Tell whether somebody may publish to a topic or subscribe to a filter, and by which rule (exit code 3: denied)
    Explain {
        user: String,
        /// publish or subscribe
        action: Action,
        topic: String,
        /// The client identifier it would connect with, for rules with %c
        #[arg(long, value_name = "ID")]
        client_id: Option<String>,
        /// The device id, for rules with %d, if no session of it says so
        #[arg(long, value_name = "ID")]
        device: Option<String>,
        /// A role, instead of those of the account or of the last login; may be repeated
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// A scope of its token, instead of those of the last login; may be repeated
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// The realm: that of an issuer or a foreign CA for who has no account here
        #[arg(long, default_value = LOCAL_REALM)]
        realm: String,
    },
}

#[derive(Debug, clap::Args)]
struct RuleArgs {
    /// publish or subscribe
    action: Action,
    /// A topic filter; %u, %c and %d stand for user name, client identifier and device id, %% for a percent sign
    filter: String,
    #[command(flatten)]
    who: WhoArgs,
    /// The realm of --user
    #[arg(long, conflicts_with_all = ["role", "scope", "everyone"], default_value = LOCAL_REALM)]
    realm: String,
    /// Change nothing: tell which decisions of late would have been other ones
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct WhoArgs {
    /// The rule is for this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The rule is for every user with this role
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// The rule is for every client whose token has this OAuth2 scope
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// The rule is for all clients
    #[arg(long)]
    everyone: bool,
}

impl Args {
    pub async fn run(self, dir: &DataDir, out: &mut impl Write) -> Result<ExitCode, CliError> {
        match self.verb {
            Verb::Allow(rule) => rule.run(Effect::Allow, dir, out).await,
            Verb::Deny(rule) => rule.run(Effect::Deny, dir, out).await,
            Verb::Remove { id, dry_run: true } => {
                dry_run::run(dir, PolicyChange::RemoveRule { id }, out).await
            }
            Verb::Remove { id, .. } => output::done(
                Reach::once(dir, false, Command::RemoveRule { id }).await?,
                out,
            ),
            Verb::List { json } => list(dir, json, out).await,
            Verb::Explain {
                user,
                action,
                topic,
                client_id,
                device,
                roles,
                scopes,
                realm,
            } => {
                let question = Question {
                    user,
                    action,
                    topic,
                    client_id,
                    device,
                    realm: Some(realm),
                    roles: (!roles.is_empty()).then_some(roles),
                    scopes: (!scopes.is_empty()).then_some(scopes),
                };
                let command = Command::Explain(question);
                explain(Reach::once(dir, false, command).await?, out)
            }
        }
    }
}

impl RuleArgs {
    async fn run(
        self,
        effect: Effect,
        dir: &DataDir,
        out: &mut impl Write,
    ) -> Result<ExitCode, CliError> {
        let is_dry = self.dry_run;
        match self.command(effect) {
            Command::AddRule {
                effect,
                action,
                filter,
                who,
            } if is_dry => {
                let change = PolicyChange::AddRule {
                    effect,
                    action,
                    filter,
                    who,
                };
                dry_run::run(dir, change, out).await
            }
            command => output::done(Reach::once(dir, true, command).await?, out),
        }
    }

    fn command(self, effect: Effect) -> Command {
        let who = match (self.who.user, self.who.role, self.who.scope) {
            (Some(name), ..) => Who::User {
                realm: self.realm.into(),
                name: name.into(),
            },
            (None, Some(role), _) => Who::Role(role.into()),
            (None, None, Some(scope)) => Who::Scope(scope.into()),
            (None, None, None) => Who::Everyone,
        };
        Command::AddRule {
            effect,
            action: self.action,
            filter: self.filter,
            who: who.to_string(),
        }
    }
}

async fn list(dir: &DataDir, json: bool, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let mut reach = Reach::open(dir, false).await?;
    let (mut lines, mut after) = (Vec::new(), None);
    while let Answer::Rules { rules, more } = reach.execute(Command::ListRules { after }).await? {
        lines.extend(rules);
        after = lines.last().map(|rule| rule.id);
        if !more || after.is_none() {
            break;
        }
    }
    reach.close().await?;
    if json {
        return output::json_lines(&lines, out);
    }
    let rows = lines.iter().map(|rule| {
        let (effect, action) = (rule.effect.to_string(), rule.action.to_string());
        [
            rule.id.to_string(),
            effect,
            action,
            rule.filter.clone(),
            rule.who.clone(),
        ]
    });
    output::table(
        ["ID", "EFFECT", "ACTION", "FILTER", "FOR"],
        rows.collect(),
        out,
    )
}

fn explain(answer: Answer, out: &mut impl Write) -> Result<ExitCode, CliError> {
    let Answer::Explanation(explanation) = answer else {
        return output::done(answer, out);
    };
    writeln!(out, "{}", explanation.decision)?;
    if let Some(origin) = &explanation.origin {
        writeln!(out, "  the rule applies because {origin}")?;
    }
    for part in &explanation.parts {
        let but = match &part.withheld_by[..] {
            [] => String::new(),
            [rule] => format!(", less what rule {rule} withholds"),
            rules => {
                let rules: Vec<_> = rules.iter().map(i64::to_string).collect();
                format!(", less what rules {} withhold", rules.join(", "))
            }
        };
        let by = match part.rule {
            Some(rule) => format!("by rule {rule}"),
            None => "by a scope".to_owned(),
        };
        writeln!(
            out,
            "  inside it {} is allowed {by}, because {}{but}",
            part.filter, part.origin
        )?;
    }
    for note in &explanation.notes {
        writeln!(out, "  note: {note}")?;
    }
    Ok(if explanation.allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DENIED)
    })
}
