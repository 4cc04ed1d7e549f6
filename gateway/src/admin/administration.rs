//! Executes commands: checks them, stores the change, puts it into force, and tells the live sessions.

mod audit;
mod ca;
mod devices;
mod dry_run;
mod explain;

pub use devices::DeviceDesk;
pub use dry_run::PolicyChange;
pub use explain::Question;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::upgrades::HashUpgrades;
use super::{
    AdminError, Answer, Backup, CertificateDesk, Command, LiveSessions, NewPassword, RuleLine,
    Secret, UserLine, bans,
};
use crate::acl::{Decisions, Policy, PolicyHandle, Rule, Who};
use crate::audit::{self as audit_log, AuditLog};
use crate::auth::{
    Authenticator, LOCAL_REALM, SecretKey, Settings, Users, check_role, check_user_name,
    generate_secret, is_imported,
};
use crate::listen::Door;
use crate::metrics::Metrics;
use crate::store::{Accounts, Credential, NewRule, Snapshot, StoreError, StoredRule};
use crate::tls::acme::{Renewals, Request};

/// Accounts and policy of one data directory: the database, and what of it is in force in memory.
pub struct Administration {
    directory: PathBuf,
    pub(super) accounts: Accounts,
    users: Arc<Users>,
    policy: Arc<PolicyHandle>,
    authenticator: Arc<Authenticator>,
    in_force: Mutex<InForce>,
    audit: Arc<AuditLog>,
    decisions: Arc<Decisions>,
    live: OnceLock<Arc<dyn LiveSessions>>,
    certificates: OnceLock<Arc<CertificateDesk>>,
    door: OnceLock<Arc<Door>>,
    devices: OnceLock<DeviceDesk>,
    /// One change at a time, in the order they came: live sessions hear of them in the order they were stored.
    turns: Semaphore,
    /// One backup at a time: it needs as much space as the databases.
    backups: Arc<Semaphore>,
    /// One import at a time on the control socket: it is large.
    pub(super) imports: Semaphore,
}

/// How long an answer waits for the live sessions to hear of a change. They hear of it all the same.
const TELL_PATIENCE: Duration = Duration::from_secs(5);

/// The snapshot that was last put into force.
struct InForce {
    revision: i64,
    rules: Vec<StoredRule>,
}

impl Administration {
    /// Users and rules in one page of a list: with the longest names and filters still under a megabyte.
    const PAGE: usize = 200;
    pub(super) const MAX_ROLES: usize = 32;

    /// Opens the accounts database and the key of a data directory whose lock the caller holds. Any damage is an
    /// error: without accounts and policy nobody is let in (D11).
    pub async fn open(
        directory: &Path,
        settings: Settings,
    ) -> Result<Arc<Administration>, AdminError> {
        let audit = audit_log::Settings::default();
        Self::open_with(directory, settings, audit, Arc::default()).await
    }

    /// [`Self::open`] with other settings of the audit log.
    pub async fn open_with(
        directory: &Path,
        settings: Settings,
        audit: audit_log::Settings,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Administration>, AdminError> {
        Backup::clear(directory)?;
        let audit = AuditLog::open(directory, audit, metrics.clone()).await?;
        let accounts = Accounts::open(directory).await?;
        let check = accounts.key_check().await?;
        let key = SecretKey::open(directory, check.as_deref())?;
        if check.is_none() {
            accounts.set_key_check(&key.check()).await?;
        }
        let Snapshot {
            revision,
            users,
            rules,
        } = accounts.snapshot().await?;
        let policy = Arc::new(PolicyHandle::new(compile(&rules)?));
        let users = Arc::new(Users::new(users));
        let authenticator = Arc::new(Authenticator::new(users.clone(), Arc::new(key), settings)?);
        let in_force = Mutex::new(InForce { revision, rules });
        let administration = Arc::new(Administration {
            directory: directory.to_owned(),
            accounts,
            users,
            policy,
            authenticator,
            in_force,
            audit,
            decisions: Arc::new(Decisions::new(0, metrics)),
            live: OnceLock::new(),
            certificates: OnceLock::new(),
            door: OnceLock::new(),
            devices: OnceLock::new(),
            turns: Semaphore::new(1),
            backups: Arc::new(Semaphore::new(1)),
            imports: Semaphore::new(1),
        });
        HashUpgrades::attach(&administration);
        Ok(administration)
    }

    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.authenticator
    }

    pub fn policy(&self) -> &Arc<PolicyHandle> {
        &self.policy
    }

    pub fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// Where everything is noted that is refused or changed.
    pub fn audit(&self) -> &Arc<AuditLog> {
        &self.audit
    }

    /// Where decisions are remembered, if any are.
    pub fn decisions(&self) -> &Arc<Decisions> {
        &self.decisions
    }

    /// Says who is to be told of changes. The first one stays.
    pub fn attach(&self, live: Arc<dyn LiveSessions>) {
        let _ = self.live.set(live);
    }

    /// Says where the certificates are. The first one stays.
    pub fn attach_certificates(&self, desk: Arc<CertificateDesk>) {
        let _ = self.certificates.set(desk);
    }

    /// Says whose bans the operator lists and lifts. The first one stays.
    pub fn attach_door(&self, door: Arc<Door>) {
        let _ = self.door.set(door);
    }

    /// Says what devices are told, and who knows when they were here. The first one stays.
    pub fn attach_devices(&self, desk: DeviceDesk) {
        let _ = self.devices.set(desk);
    }

    /// Closes the databases after what is under way.
    pub async fn close(&self) {
        self.audit.close().await;
        self.accounts.close().await;
    }

    /// Copies of everything that the data directory keeps, the message store's as of now.
    pub async fn backup(&self) -> Result<Backup, AdminError> {
        let place = self.backups.clone().try_acquire_owned();
        let place = place.map_err(|_| AdminError::BackupUnderWay)?;
        self.audit.flush_soon().await;
        Backup::make(&self.directory, &self.accounts, place).await
    }

    /// Executes a command for `actor`, whom the audit log names. Once begun it is carried through, even if the caller
    /// stops waiting: a change that is stored must not fail to be put into force.
    pub async fn execute(
        self: &Arc<Self>,
        actor: &str,
        command: Command,
    ) -> Result<Answer, AdminError> {
        let (this, actor) = (self.clone(), actor.to_owned());
        let running = tokio::spawn(async move {
            let audit = command.audit();
            let result = this.run(command).await;
            if let Some(what) = audit {
                this.note_change(&actor, &what, result.as_ref().err()).await;
                match &result {
                    Ok(_) => tracing::info!(target: "postern::audit", actor, "{what}: done"),
                    Err(error) => {
                        tracing::warn!(target: "postern::audit", actor, "{what}: {error}")
                    }
                }
            }
            result
        });
        running.await.map_err(|_| AdminError::Died)?
    }

    async fn run(&self, command: Command) -> Result<Answer, AdminError> {
        match command {
            Command::AddUser {
                name,
                password,
                roles,
            } => self.add_user(&name, password, &roles).await,
            Command::SetPassword { name, password } => {
                self.refuse_device(&name, "rotate")?;
                self.set_password(&name, password).await
            }
            Command::SetRoles { name, roles } => self.set_roles(&name, &roles).await,
            Command::DisableUser { name } => self.disable_user(&name).await,
            Command::EnableUser { name } => self.enable_user(&name).await,
            Command::RemoveUser { name } => {
                self.refuse_device(&name, "revoke")?;
                self.remove_user(&name).await
            }
            Command::Device(command) => self.run_device(command).await,
            Command::ListUsers { after } => Ok(self.list_users(after.as_deref())),
            Command::AddRule {
                effect,
                action,
                filter,
                who,
            } => {
                let rule = Rule {
                    id: 0,
                    effect,
                    action,
                    filter: filter.parse()?,
                    who: who.parse()?,
                };
                self.add_rule(rule).await
            }
            Command::RemoveRule { id } => self.remove_rule(id).await,
            Command::ListRules { after } => Ok(self.list_rules(after)),
            Command::Health => self.health().await,
            Command::ListCertificates => self.at_desk(|desk| Ok(desk.list())).await,
            Command::ShowCertificate { name } => self.at_desk(move |desk| desk.show(&name)).await,
            Command::RenewCertificate { name, force } => {
                let request = match force {
                    true => Request::Force,
                    false => Request::IfDue,
                };
                self.renew(&name, request).await
            }
            Command::AcceptCertificate { name } => self.renew(&name, Request::AcceptChain).await,
            Command::PreflightCertificate { name } => {
                let found = self.renewals()?.preflight(&name).await;
                let found = found.map_err(AdminError::Refused)?;
                Ok(Answer::Findings {
                    findings: found.findings,
                })
            }
            Command::RollBackCertificate { name } => {
                let _turn = self.turn().await?;
                self.at_desk(move |desk| desk.roll_back(&name)).await
            }
            Command::InitCa => self.init_ca().await,
            Command::ShowCa => self.show_ca().await,
            Command::IssueCertificate {
                kind,
                name,
                names,
                days,
                request,
            } => {
                self.issue_certificate(kind, name, names, days, request)
                    .await
            }
            Command::RevokeCertificate { which, reason } => {
                self.revoke_certificate(which, reason).await
            }
            Command::ListIssued { after } => self.list_issued(after).await,
            Command::RevocationList => self.revocation_list().await,
            Command::ListBans => bans::list(self.door()?),
            Command::AddBan { network, seconds } => bans::add(self.door()?, &network, seconds),
            Command::LiftBans { network } => bans::lift(self.door()?, &network),
            Command::Explain(question) => Ok(Answer::Explanation(self.explain(question)?)),
            Command::DryRun { change } => Ok(Answer::DryRun(self.dry_run(change).await?)),
            Command::Audit(query) => Ok(Answer::Audit {
                entries: self.audit_page(query).await?,
            }),
        }
    }

    async fn health(&self) -> Result<Answer, AdminError> {
        let mut problems = self.live.get().map_or(Vec::new(), |live| live.problems());
        if let Some(desk) = self.certificates.get() {
            problems.extend(desk.problems(SystemTime::now()));
        }
        Ok(Answer::Health { problems })
    }

    async fn renew(&self, name: &str, request: Request) -> Result<Answer, AdminError> {
        let message = self.renewals()?.request(name, request).await;
        Ok(Answer::Done {
            message: message.map_err(AdminError::Refused)?,
            warnings: Vec::new(),
        })
    }

    fn renewals(&self) -> Result<Arc<Renewals>, AdminError> {
        let desk = self.certificates.get();
        desk.and_then(|desk| desk.renewals()).ok_or_else(|| {
            AdminError::Refused(
                "no gateway runs here, and only a running one gets certificates: start it"
                    .to_owned(),
            )
        })
    }

    /// Certificates are files: what is done with them is no work for an async worker.
    async fn at_desk(
        &self,
        work: impl FnOnce(&CertificateDesk) -> Result<Answer, AdminError> + Send + 'static,
    ) -> Result<Answer, AdminError> {
        let desk = self.certificates.get().cloned();
        let desk = desk.ok_or_else(|| AdminError::Refused("no certificates here".to_owned()))?;
        let done = tokio::task::spawn_blocking(move || work(&desk)).await;
        done.map_err(|_| AdminError::Died)?
    }

    fn door(&self) -> Result<&Door, AdminError> {
        self.door
            .get()
            .map(|door| &**door)
            .ok_or(AdminError::NoGateway)
    }

    async fn add_user(
        &self,
        name: &str,
        password: NewPassword,
        roles: &[String],
    ) -> Result<Answer, AdminError> {
        let mut warnings: Vec<String> = check_user_name(name)?.into_iter().collect();
        let roles = self.checked_roles(roles, &mut warnings)?;
        if self.users.find(name).is_some() {
            // Asked again by the database; this saves the hash.
            return Err(StoreError::NameTaken(name.to_owned()).into());
        }
        let (credential, generated) = self.credential(name, password).await?;
        let _turn = self.turn().await?;
        self.accounts.add_user(name, &credential, &roles).await?;
        self.refresh().await?;
        Ok(done(format!("user {name} added"), generated, warnings))
    }

    async fn set_password(&self, name: &str, password: NewPassword) -> Result<Answer, AdminError> {
        self.users
            .find(name)
            .ok_or_else(|| StoreError::NoSuchUser(name.to_owned()))?;
        let (credential, generated) = self.credential(name, password).await?;
        let _turn = self.turn().await?;
        self.accounts.set_credential(name, &credential).await?;
        self.refresh().await?;
        self.tell(|live| live.password_changed(LOCAL_REALM, name))
            .await;
        Ok(done(
            format!("password of {name} changed"),
            generated,
            Vec::new(),
        ))
    }

    async fn set_roles(&self, name: &str, roles: &[String]) -> Result<Answer, AdminError> {
        let mut warnings = Vec::new();
        let roles = self.checked_roles(roles, &mut warnings)?;
        let _turn = self.turn().await?;
        self.accounts.set_roles(name, &roles).await?;
        self.refresh().await?;
        self.tell(|live| live.roles_changed(LOCAL_REALM, name))
            .await;
        let message = match roles.is_empty() {
            true => format!("{name} has no role now"),
            false => format!("{name} has the roles {} now", roles.join(", ")),
        };
        Ok(done(message, None, warnings))
    }

    async fn disable_user(&self, name: &str) -> Result<Answer, AdminError> {
        let _turn = self.turn().await?;
        self.accounts.set_disabled(name, true).await?;
        self.refresh().await?;
        self.tell(|live| live.principal_disabled(LOCAL_REALM, name))
            .await;
        Ok(done(
            format!(
                "{} {name} disabled; its sessions are closed",
                self.noun(name)
            ),
            None,
            Vec::new(),
        ))
    }

    async fn enable_user(&self, name: &str) -> Result<Answer, AdminError> {
        let _turn = self.turn().await?;
        self.accounts.set_disabled(name, false).await?;
        self.refresh().await?;
        let message = format!("{} {name} enabled", self.noun(name));
        Ok(done(message, None, Vec::new()))
    }

    async fn remove_user(&self, name: &str) -> Result<Answer, AdminError> {
        let _turn = self.turn().await?;
        let rules = self.accounts.remove_user(name).await?;
        self.refresh().await?;
        self.tell(|live| live.principal_disabled(LOCAL_REALM, name))
            .await;
        let message = match rules {
            0 => format!("user {name} removed"),
            _ => format!("user {name} removed, and {rules} rules that were for it"),
        };
        Ok(done(message, None, self.certificates_left(name).await))
    }

    async fn add_rule(&self, rule: Rule) -> Result<Answer, AdminError> {
        let mut warnings = rule.warnings();
        match &rule.who {
            Who::Role(role) => check_role(role)?,
            Who::User { realm, name } if realm.as_ref() == LOCAL_REALM => {
                check_user_name(name)?;
                if self.users.find(name).is_none() {
                    warnings.push(format!("there is no user {name:?} yet"));
                }
            }
            Who::User { .. } | Who::Scope(_) | Who::Everyone => {}
        }
        let _turn = self.turn().await?;
        let id = self.accounts.add_rule(&stored(&rule)).await?;
        self.refresh().await?;
        Ok(done(format!("rule {id} added: {rule}"), None, warnings))
    }

    async fn remove_rule(&self, id: i64) -> Result<Answer, AdminError> {
        let _turn = self.turn().await?;
        let removed = self.accounts.remove_rule(id).await?;
        self.refresh().await?;
        let message = match Rule::try_from(&removed) {
            Ok(rule) => format!("rule {id} removed: {rule}"),
            Err(_) => format!("rule {id} removed"),
        };
        Ok(done(message, None, Vec::new()))
    }

    fn list_users(&self, after: Option<&str>) -> Answer {
        let all = self.users.all();
        let mut users: Vec<_> = all
            .values()
            .filter(|user| after.is_none_or(|after| *user.name > *after))
            .collect();
        users.sort_by(|one, other| one.name.cmp(&other.name));
        let more = users.len() > Self::PAGE;
        let line = |user: &Arc<crate::store::User>| UserLine {
            name: user.name.to_string(),
            generated: matches!(user.credential, Credential::Generated(_)),
            imported: matches!(&user.credential, Credential::Chosen(phc) if is_imported(phc)),
            device: user.device,
            disabled: user.disabled,
            roles: user.roles.iter().map(|role| role.to_string()).collect(),
            created_at: user.created_at,
            changed_at: user.changed_at,
        };
        Answer::Users {
            users: users.into_iter().take(Self::PAGE).map(line).collect(),
            more,
        }
    }

    fn list_rules(&self, after: Option<i64>) -> Answer {
        let policy = self.policy.load();
        let mut rest = policy
            .rules()
            .filter(|rule| after.is_none_or(|after| rule.id > after))
            .peekable();
        let line = |rule: &Rule| RuleLine {
            id: rule.id,
            effect: rule.effect,
            action: rule.action,
            filter: rule.filter.to_string(),
            who: rule.who.to_string(),
        };
        let rules = rest.by_ref().take(Self::PAGE).map(line).collect();
        Answer::Rules {
            rules,
            more: rest.peek().is_some(),
        }
    }

    /// Adds the first user, if there is none; false if there is one already.
    pub(super) async fn add_first_user(
        &self,
        name: &str,
        secret: &str,
        role: &str,
    ) -> Result<bool, AdminError> {
        let credential = self.authenticator.hash_secret(name, secret);
        match self
            .accounts
            .add_first_user(name, &credential, &[role.into()])
            .await
        {
            Ok(()) => self.refresh().await.map(|()| true),
            Err(StoreError::NotEmpty(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts what the database holds now into force, and tells the live sessions if the rules are other ones.
    pub(super) async fn refresh(&self) -> Result<(), AdminError> {
        let snapshot = self
            .accounts
            .snapshot()
            .await
            .map_err(AdminError::NotLive)?;
        if self.install(snapshot)? {
            self.tell(|live| live.policy_changed()).await;
        }
        Ok(())
    }

    /// Puts a snapshot into force unless a newer one is; whether that changed the policy.
    fn install(&self, snapshot: Snapshot) -> Result<bool, AdminError> {
        let Snapshot {
            revision,
            users,
            rules,
        } = snapshot;
        let mut in_force = self.in_force.lock();
        if revision <= in_force.revision {
            return Ok(false);
        }
        let new_policy = match rules == in_force.rules {
            true => None,
            false => Some(compile(&rules)?),
        };
        self.users.replace(users);
        *in_force = InForce { revision, rules };
        let changed = new_policy.is_some();
        if let Some(policy) = new_policy {
            self.policy.replace(policy);
        }
        Ok(changed)
    }

    /// Tells the live sessions, and waits until all of them know; not for ever, so that one that hangs does not keep
    /// the operator from the next change.
    pub(super) async fn tell(
        &self,
        what: impl FnOnce(&dyn LiveSessions) -> BoxFuture<'static, ()>,
    ) {
        let Some(live) = self.live.get() else { return };
        if timeout(TELL_PATIENCE, tokio::spawn(what(live.as_ref())))
            .await
            .is_err()
        {
            tracing::warn!(
                "a change is in force, but some live sessions have not heard of it after {TELL_PATIENCE:?}"
            );
        }
    }

    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, AdminError> {
        self.turns.acquire().await.map_err(|_| AdminError::Died)
    }

    /// What to store for a new password, and the password itself if it was generated here.
    async fn credential(
        &self,
        name: &str,
        password: NewPassword,
    ) -> Result<(Credential, Option<Secret>), AdminError> {
        match password {
            NewPassword::Chosen(Secret(password)) => Ok((
                self.authenticator
                    .hash_password(password.as_bytes())
                    .await?,
                None,
            )),
            NewPassword::Generated => {
                let secret = generate_secret()?;
                Ok((
                    self.authenticator.hash_secret(name, &secret),
                    Some(Secret(secret)),
                ))
            }
        }
    }

    fn checked_roles(
        &self,
        roles: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Arc<str>>, AdminError> {
        if roles.len() > Self::MAX_ROLES {
            return Err(AdminError::TooManyRoles {
                count: roles.len(),
                max: Self::MAX_ROLES,
            });
        }
        let policy = self.policy.load();
        for role in roles {
            check_role(role)?;
            if !policy
                .rules()
                .any(|rule| matches!(&rule.who, Who::Role(known) if **known == **role))
            {
                warnings.push(format!("no rule is for the role {role} yet"));
            }
        }
        Ok(roles.iter().map(|role| role.as_str().into()).collect())
    }
}

fn compile(rules: &[StoredRule]) -> Result<Policy, AdminError> {
    let rules: Vec<Rule> = rules.iter().map(Rule::try_from).collect::<Result<_, _>>()?;
    Ok(Policy::new(rules))
}

pub(super) fn stored(rule: &Rule) -> NewRule {
    let (who_kind, realm, who) = match &rule.who {
        Who::User { realm, name } => ("user", realm.as_ref(), name.as_ref()),
        Who::Role(role) => ("role", "", role.as_ref()),
        Who::Scope(scope) => ("scope", "", scope.as_ref()),
        Who::Everyone => ("everyone", "", ""),
    };
    NewRule {
        effect: rule.effect.to_string(),
        action: rule.action.to_string(),
        filter: rule.filter.to_string(),
        who_kind: who_kind.to_owned(),
        realm: realm.to_owned(),
        who: who.to_owned(),
    }
}

fn done(message: String, generated: Option<Secret>, warnings: Vec<String>) -> Answer {
    match generated {
        Some(password) => Answer::Password {
            message,
            password,
            warnings,
        },
        None => Answer::Done { message, warnings },
    }
}

#[cfg(test)]
#[path = "administration_tests.rs"]
mod tests;
