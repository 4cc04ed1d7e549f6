//! Accounts and rules of another broker, taken over in one transaction. What they mean is `import`'s business.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::administration::stored;
use super::{AdminError, Administration, Answer, RuleLine};
use crate::acl::{Rule, Who};
use crate::auth::{
    LOCAL_REALM, Upgrade, check_imported, check_imported_together, check_role, check_user_name,
};
use crate::store::{Credential, NewAccount, NewRule};

/// What is to be taken over.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Import {
    pub users: Vec<ImportedUser>,
    /// Their ids are of no account.
    pub rules: Vec<RuleLine>,
    /// Whether users that exist already are replaced, with the rules for them and for the roles that are imported.
    pub replace: bool,
}

/// An account with the hash that the other broker stored.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ImportedUser {
    pub name: String,
    /// In one of Mosquitto's forms.
    pub hash: String,
    pub roles: Vec<String>,
    pub disabled: bool,
}

impl Import {
    /// Tells whether a rule that is in force goes when this is executed.
    pub fn removal(&self) -> impl Fn(&RuleLine) -> bool {
        let users = self.users.iter().filter(|_| self.replace);
        let names: HashSet<&str> = users.clone().map(|user| user.name.as_str()).collect();
        let roles: HashSet<&str> = users
            .flat_map(|user| user.roles.iter().map(String::as_str))
            .collect();
        move |rule| match rule.who.parse() {
            Ok(Who::Role(name)) => roles.contains(&*name),
            Ok(Who::User { realm, name }) => *realm == *LOCAL_REALM && names.contains(&*name),
            Ok(Who::Scope(_) | Who::Everyone) | Err(_) => false,
        }
    }

    /// Bytes of an import on the control socket.
    pub const MAX_BYTES: usize = 16 * 1024 * 1024;
    const MAX_USERS: usize = 50_000;
    const MAX_RULES: usize = 50_000;
    /// Names of existing users that an error shows.
    const SHOWN: usize = 10;
}

impl Administration {
    /// Takes accounts and rules over for `actor`, all or nothing, and puts them into force.
    pub async fn import(
        self: &Arc<Self>,
        actor: &str,
        import: Import,
    ) -> Result<Answer, AdminError> {
        let (this, actor) = (self.clone(), actor.to_owned());
        // Once begun it is carried through, as any command is.
        let running = tokio::spawn(async move {
            let what = format!(
                "import {} users and {} rules",
                import.users.len(),
                import.rules.len()
            );
            let result = this.run_import(import).await;
            this.note_change(&actor, &what, result.as_ref().err()).await;
            match &result {
                Ok(_) => tracing::info!(target: "postern::audit", actor, "{what}: done"),
                Err(error) => tracing::warn!(target: "postern::audit", actor, "{what}: {error}"),
            }
            result
        });
        running.await.map_err(|_| AdminError::Died)?
    }

    async fn run_import(&self, import: Import) -> Result<Answer, AdminError> {
        bounded("users", import.users.len(), Import::MAX_USERS)?;
        bounded("rules", import.rules.len(), Import::MAX_RULES)?;
        let (mut accounts, mut warnings) = (Vec::new(), Vec::new());
        for user in &import.users {
            accounts.push(Self::checked_account(user, &mut warnings)?);
        }
        let hashes = import.users.iter().map(|user| user.hash.as_str());
        check_imported_together(hashes).map_err(|source| AdminError::ImportedHash {
            name: "(all)".to_owned(),
            source,
        })?;
        let rules: Vec<NewRule> = import
            .rules
            .iter()
            .map(checked_rule)
            .collect::<Result<_, _>>()?;
        if !import.replace {
            self.refuse_existing(&accounts)?;
        }
        let _turn = self.turn().await?;
        for account in &accounts {
            self.refuse_device(&account.name, "revoke")?;
        }
        let done = self
            .accounts
            .import(&accounts, &rules, import.replace)
            .await?;
        self.refresh().await?;
        for name in &done.replaced {
            self.tell(|live| live.password_changed(LOCAL_REALM, name))
                .await;
            self.tell(|live| live.roles_changed(LOCAL_REALM, name))
                .await;
        }
        for account in accounts.iter().filter(|account| account.disabled) {
            if done.replaced.contains(&account.name) {
                self.tell(|live| live.principal_disabled(LOCAL_REALM, &account.name))
                    .await;
            }
        }
        let known = rules.len() - done.rules;
        let mut message = format!(
            "{} users added, {} replaced; {} rules added, {known} were there already",
            done.added,
            done.replaced.len(),
            done.rules
        );
        if done.removed_rules > 0 {
            message += &format!(
                "; {} earlier rules of these users and roles removed",
                done.removed_rules
            );
        }
        Ok(Answer::Done { message, warnings })
    }

    /// Stores hashes of ours in the place of imported ones.
    pub(super) async fn replace_imported(&self, upgrades: &[Upgrade]) -> Result<(), AdminError> {
        let rows: Vec<_> = upgrades
            .iter()
            .map(|one| (one.name.clone(), one.imported.clone(), one.own.clone()))
            .collect();
        let _turn = self.turn().await?;
        let replaced = self.accounts.upgrade_hashes(&rows).await?;
        self.refresh().await?;
        tracing::debug!("{replaced} imported password hashes were replaced by our own");
        Ok(())
    }

    fn checked_account(
        user: &ImportedUser,
        warnings: &mut Vec<String>,
    ) -> Result<NewAccount, AdminError> {
        warnings.extend(check_user_name(&user.name)?);
        check_imported(&user.hash).map_err(|source| AdminError::ImportedHash {
            name: user.name.clone(),
            source,
        })?;
        let (count, max) = (user.roles.len(), Self::MAX_ROLES);
        if count > max {
            return Err(AdminError::TooManyRoles { count, max });
        }
        for role in &user.roles {
            check_role(role)?;
        }
        Ok(NewAccount {
            name: user.name.clone(),
            credential: Credential::Chosen(user.hash.as_str().into()),
            roles: user.roles.iter().map(|role| role.as_str().into()).collect(),
            disabled: user.disabled,
        })
    }

    /// Asked again by the database; this names all of them.
    fn refuse_existing(&self, accounts: &[NewAccount]) -> Result<(), AdminError> {
        let users = self.users().all();
        let names: Vec<&str> = accounts
            .iter()
            .map(|account| account.name.as_str())
            .filter(|name| users.contains_key(*name))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let mut shown = names[..names.len().min(Import::SHOWN)].join(", ");
        if names.len() > Import::SHOWN {
            shown += ", …";
        }
        Err(AdminError::UsersExist {
            count: names.len(),
            names: shown,
        })
    }
}

fn checked_rule(line: &RuleLine) -> Result<NewRule, AdminError> {
    let rule = Rule {
        id: 0,
        effect: line.effect,
        action: line.action,
        filter: line.filter.parse()?,
        who: line.who.parse()?,
    };
    match &rule.who {
        Who::Role(role) => check_role(role)?,
        Who::User { realm, name } if realm.as_ref() == LOCAL_REALM => {
            check_user_name(name)?;
        }
        Who::User { .. } | Who::Scope(_) | Who::Everyone => {}
    }
    Ok(stored(&rule))
}

fn bounded(what: &'static str, count: usize, max: usize) -> Result<(), AdminError> {
    match count > max {
        true => Err(AdminError::TooMuch { what, count, max }),
        false => Ok(()),
    }
}
