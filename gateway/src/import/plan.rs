//! Accounts and rules that mean what Mosquitto's files mean, or less.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::acl_file::{Access, AclFile, Entry};
use super::conf::{Bridge, Conf, Plugin, Security};
use super::dynsec::Dynsec;
use super::files::Place;
use super::meaning::Meaning;
use super::{Finding, ImportError, Kind, dynsec_rules, options, passwords, settings};
use crate::acl::{Action, Effect, Template, Who};
use crate::admin::{Import, ImportedUser, RuleLine};
use crate::auth::{LOCAL_REALM, check_imported, check_user_name};

/// What the operator chose.
#[derive(Debug, Clone)]
pub struct Choices {
    /// With `per_listener_settings`: whose users and rules.
    pub listener: Option<u16>,
    /// The role of all that is imported; the roles of the dynamic security plugin get it as a prefix.
    pub role: String,
    /// The role that anonymous clients have here.
    pub anonymous_role: String,
    /// Users that are left out.
    pub skip: BTreeSet<String>,
    /// Whether users that exist already are replaced.
    pub replace: bool,
}

/// What is to be made, and what is to be said about it.
pub struct Plan {
    pub import: Import,
    /// Settings, in TOML.
    pub settings: String,
    pub findings: Vec<Finding>,
    /// Whether anonymous clients are let in.
    pub anonymous: bool,
    pub(super) anonymous_role: String,
    pub(super) meaning: Meaning,
}

/// Reads `mosquitto.conf` and the files that it names.
pub fn plan(path: &Path, choices: &Choices) -> Result<Plan, ImportError> {
    let conf = Conf::read(path)?;
    let security = conf.chosen(path, choices.listener)?;
    let mut draft = Draft::new(choices, security.allow_anonymous.unwrap_or(false));
    let dynsec = draft.plugins(security)?;
    let meaning = match (&security.acl_file, dynsec) {
        (Some(file), dynsec) => {
            if dynsec.is_some() {
                let text = "acl_file answers before the dynamic security plugin is asked: its rules are taken, those of \
                     the plugin are not";
                draft.remark(Kind::Differs, Some(&file.place), text);
            }
            Meaning::AclFile(AclFile::read(&file.path())?)
        }
        (None, Some(dynsec)) => Meaning::Dynsec(dynsec),
        (None, None) if draft.has_strangers => Meaning::Unknown,
        (None, None) => Meaning::Everything,
    };
    if let Some(file) = &security.password_file {
        let entries = passwords::read(&file.path(), &mut draft.findings)?;
        for (name, entry) in entries {
            draft
                .hashes
                .insert(name, (entry.hash, false, Some(entry.place)));
        }
    }
    match &meaning {
        Meaning::Everything => draft.everything(),
        Meaning::Unknown => {}
        Meaning::AclFile(acl) => draft.acl_file(acl, identities(&conf)),
        Meaning::Dynsec(dynsec) => dynsec_rules::add(dynsec, &mut draft),
    }
    draft.users();
    draft.without_passwords(security);
    if let Some(file) = &security.psk_file {
        draft.remark(
            Kind::Unmapped,
            Some(&file.place),
            "there are no pre-shared keys: give these clients passwords",
        );
    }
    draft.forced_client_ids(&conf);
    let settings = settings::write(&conf, security, draft.anonymous, &mut draft.findings);
    for bridge in &conf.bridges {
        draft.findings.push(of_bridge(bridge));
    }
    draft.other_settings(&conf);
    Ok(draft.finish(meaning, settings))
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub choices: &'a Choices,
    pub anonymous: bool,
    pub findings: Vec<Finding>,
    /// By name: the hash, whether the user is disabled, and where that stands.
    pub hashes: BTreeMap<String, (String, bool, Option<Place>)>,
    /// By name, beside the common one.
    pub roles: BTreeMap<String, Vec<String>>,
    /// Names that the common role would allow too much.
    without_common: BTreeSet<String>,
    /// Whether a plugin decided that is not known here.
    has_strangers: bool,
    rules: Vec<RuleLine>,
    known: BTreeSet<(Effect, Action, String, String)>,
}

impl<'a> Draft<'a> {
    const MAX_ROLES: usize = 32;

    fn new(choices: &'a Choices, anonymous: bool) -> Self {
        Draft {
            choices,
            anonymous,
            findings: Vec::new(),
            hashes: BTreeMap::new(),
            roles: BTreeMap::new(),
            without_common: BTreeSet::new(),
            has_strangers: false,
            rules: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    pub fn remark(&mut self, kind: Kind, place: Option<&Place>, text: impl Into<String>) {
        self.findings.push(Finding::new(kind, place, text));
    }

    /// Adds a rule, unless it is there; a filter that no rule can have becomes a finding.
    pub fn rule(
        &mut self,
        effect: Effect,
        action: Action,
        filter: &str,
        who: &Who,
        place: Option<&Place>,
    ) {
        if let Err(error) = filter.parse::<Template>() {
            let (kind, lost) = match effect {
                Effect::Deny => (Kind::Wider, "a deny is lost"),
                Effect::Allow => (Kind::Unmapped, "an allow is left out"),
            };
            return self.remark(kind, place, format!("{lost}: {error}"));
        }
        let who = who.to_string();
        if self
            .known
            .insert((effect, action, filter.to_owned(), who.clone()))
        {
            self.rules.push(RuleLine {
                id: 0,
                effect,
                action,
                filter: filter.to_owned(),
                who,
            });
        }
    }

    /// Whom a rule is for that Mosquitto has for all clients: who was imported, and anonymous clients if they are let in.
    /// Nobody who has an account here already.
    pub fn common(&self) -> Vec<Who> {
        let mut all = vec![Who::Role(self.choices.role.as_str().into())];
        all.extend(self.anonymous_role());
        all
    }

    pub fn anonymous_role(&self) -> Option<Who> {
        let role = &self.choices.anonymous_role;
        self.anonymous.then(|| Who::Role(role.as_str().into()))
    }

    /// The dynamic security plugin's file, if it is among the plugins. Sorts out the plugins that the file names.
    fn plugins(&mut self, security: &Security) -> Result<Option<Dynsec>, ImportError> {
        let (mut found, mut strangers) = (None, Vec::new());
        for plugin in &security.plugins {
            match config_of_dynsec(plugin) {
                Some(path) => found = Some(Dynsec::read(Path::new(path))?),
                None if plugin.file().is_some() => {}
                None => strangers.push(plugin),
            }
        }
        self.has_strangers = !strangers.is_empty();
        for plugin in strangers {
            let kind = match found.is_some() {
                true => Kind::Wider,
                false => Kind::Unmapped,
            };
            let text = format!(
                "the plugin {} decided who may come in or what they may do, and cannot be asked here: add users and rules \
                 for what it allowed",
                plugin.setting.value
            );
            self.remark(kind, Some(&plugin.setting.place), text);
        }
        if let Some(dynsec) = &found {
            for (name, client) in &dynsec.clients {
                match &client.hash {
                    Some(hash) => {
                        self.hashes
                            .insert(name.clone(), (hash.clone(), client.disabled, None));
                    }
                    None => {
                        let text = format!(
                            "the client {name:?} has no password, and could not log in: left out"
                        );
                        self.remark(Kind::Unmapped, None, text);
                    }
                }
                if let Some(id) = &client.client_id {
                    let text = format!(
                        "the client {name:?} could log in with the client identifier {id:?} only; here with any"
                    );
                    self.remark(Kind::Wider, None, text);
                }
            }
        }
        Ok(found)
    }

    /// Mosquitto without rules: everything, `$SYS` included.
    fn everything(&mut self) {
        for who in self.common() {
            for (action, filter) in [
                (Action::Publish, "#"),
                (Action::Subscribe, "#"),
                (Action::Subscribe, "$SYS/#"),
            ] {
                self.rule(Effect::Allow, action, filter, &who, None);
            }
        }
        let text = "there is no acl_file: whoever is let in may publish and subscribe everything, and so it is imported";
        self.remark(Kind::Mapped, None, text);
    }

    fn acl_file(&mut self, acl: &AclFile, by_certificate: bool) {
        match self.anonymous_role() {
            Some(role) => {
                for entry in &acl.anonymous {
                    self.entry(entry, &literal(&entry.filter), &role);
                }
            }
            None if !acl.anonymous.is_empty() => {
                let text = format!(
                    "{} topics in front of the first user are for anonymous clients, who are not let in: left out",
                    acl.anonymous.len()
                );
                self.remark(Kind::Mapped, Some(&acl.anonymous[0].place), text);
            }
            None => {}
        }
        for (name, entries) in &acl.users {
            let text = match (self.hashes.contains_key(name), by_certificate) {
                _ if self.choices.skip.contains(name) => continue,
                (true, _) => None,
                (false, true) => {
                    Some("no password: its rules are for the name that its certificate gives")
                }
                (false, false) => Some("no password, so it could not log in: left out"),
            };
            if let Some(text) = text {
                let text = format!("the user {name:?} has {} topics and {text}", entries.len());
                self.remark(Kind::Unmapped, Some(&entries[0].place), text);
            }
            if !self.hashes.contains_key(name) && !by_certificate {
                continue;
            }
            let who = Who::User {
                realm: LOCAL_REALM.into(),
                name: name.as_str().into(),
            };
            for entry in entries {
                self.entry(entry, &literal(&entry.filter), &who);
            }
        }
        self.patterns(acl);
        let text = "Mosquitto grants every SUBSCRIBE and then delivers only what may be read; here a filter is refused unless \
             one rule allows all of it: the replay lists such filters";
        self.remark(Kind::Differs, None, text);
    }

    fn patterns(&mut self, acl: &AclFile) {
        for entry in &acl.patterns {
            let filter = template(&entry.filter);
            self.entry(
                entry,
                &filter,
                &Who::Role(self.choices.role.as_str().into()),
            );
            // Without a name such a pattern is skipped.
            if !entry.filter.contains("%u")
                && let Some(role) = self.anonymous_role()
            {
                self.entry(entry, &filter, &role);
            }
            self.denies_of_long_names(entry, &filter);
            let inside =
                |level: &str| level.len() > 2 && (level.contains("%u") || level.contains("%c"));
            if entry.filter.split('/').any(inside) {
                let text = format!(
                    "the pattern {} has a variable beside other text: it is replaced, as by Mosquitto 2.0; 2.1 takes it \
                     literally",
                    entry.filter
                );
                self.remark(Kind::Differs, Some(&entry.place), text);
            }
        }
        let Some(first) = acl.patterns.first() else {
            return;
        };
        if acl
            .patterns
            .iter()
            .any(|entry| entry.access != Access::Deny && entry.filter.contains("%c"))
        {
            let text = "a pattern allows by %c, the client identifier, which every client chooses for itself: as a rule it keeps \
                 nobody out";
            self.remark(Kind::Differs, Some(&first.place), text);
        }
        let dangerous = |name: &&String| name.contains(['+', '#']);
        self.without_common = self.hashes.keys().filter(dangerous).cloned().collect();
        if acl
            .patterns
            .iter()
            .any(|entry| !entry.filter.contains("%c"))
        {
            let text = "a client identifier with + or # loses every pattern in Mosquitto; here only those with %c";
            self.remark(Kind::Differs, Some(&first.place), text);
        }
    }

    /// A name with a slash stands for several levels in Mosquitto 2.0. Here an allow with `%u` never matches for it, and a
    /// deny means any one level: so the deny is also made for the very topics.
    fn denies_of_long_names(&mut self, entry: &Entry, filter: &str) {
        if entry.access != Access::Deny || !filter.contains("%u") {
            return;
        }
        let names: Vec<String> = self
            .hashes
            .keys()
            .filter(|name| name.contains('/'))
            .cloned()
            .collect();
        for name in names {
            let who = Who::User {
                realm: LOCAL_REALM.into(),
                name: name.as_str().into(),
            };
            self.entry(entry, &with_name(filter, &literal(&name)), &who);
        }
    }

    /// The rules for one line of an ACL file.
    fn entry(&mut self, entry: &Entry, filter: &str, who: &Who) {
        use Access::{Deny, Read, ReadWrite, Write};
        let effect = match entry.access {
            Deny => Effect::Deny,
            Read | Write | ReadWrite => Effect::Allow,
        };
        let dollar = entry.filter.starts_with('$');
        if entry.access != Read && !dollar {
            self.rule(effect, Action::Publish, filter, who, Some(&entry.place));
        }
        if entry.access != Write {
            self.rule(effect, Action::Subscribe, filter, who, Some(&entry.place));
        }
        if dollar && matches!(entry.access, Write | ReadWrite) {
            let text = format!(
                "clients never publish to $ topics here: write access to {} is left out",
                entry.filter
            );
            self.remark(Kind::Unmapped, Some(&entry.place), text);
        }
    }

    /// Leaves out the users that cannot be had, with the reason.
    fn users(&mut self) {
        let skip = &self.choices.skip;
        let mut findings = Vec::new();
        for name in skip.iter().filter(|name| !self.hashes.contains_key(*name)) {
            let text = format!("the user {name:?} was to be skipped, and there is none");
            findings.push(Finding::new(Kind::Unmapped, None, text));
        }
        let roles = &self.roles;
        self.hashes.retain(|name, (hash, _, place)| {
            let problem = match (check_user_name(name), check_imported(hash)) {
                _ if skip.contains(name) => return false,
                (Err(error), _) => error.to_string(),
                (_, Err(error)) => format!(
                    "its password hash cannot be taken over: {error}; give it a new password"
                ),
                _ => match roles.get(name).map_or(0, Vec::len) {
                    count if count >= Self::MAX_ROLES => {
                        format!(
                            "it has {count} roles; at most {} and the common one fit",
                            Self::MAX_ROLES - 1
                        )
                    }
                    _ => return true,
                },
            };
            let text = format!("the user {name:?} is left out: {problem}");
            findings.push(Finding::new(Kind::Unmapped, place.as_ref(), text));
            false
        });
        self.findings.append(&mut findings);
        let out = |rule: &RuleLine| match rule.who.strip_prefix("user:local:") {
            Some(name) => skip.contains(name),
            None => false,
        };
        self.rules.retain(|rule| !out(rule));
    }

    fn without_passwords(&mut self, security: &Security) {
        if security.password_file.is_none() && self.hashes.is_empty() && self.anonymous {
            let text = "there are no passwords: Mosquitto lets clients in under any name; here a client that presents a name \
                 needs an account, and one that presents none is anonymous";
            self.remark(Kind::Differs, None, text);
        }
        if self.anonymous {
            let text = format!(
                "anonymous clients are let in: [auth] allow_anonymous = true is among the settings, and what they may do \
                 is for the role {}",
                self.choices.anonymous_role
            );
            self.remark(Kind::Mapped, None, text);
        }
    }

    /// Where Mosquitto made the client identifier the user name, an allow by %c keeps everybody at what is theirs.
    fn forced_client_ids(&mut self, conf: &Conf) {
        let by_client_id =
            |rule: &RuleLine| rule.effect == Effect::Allow && rule.filter.contains("%c");
        let Some(setting) = conf.username_as_client_id() else {
            return;
        };
        if self.rules.iter().any(by_client_id) {
            let text = "use_username_as_clientid makes %c the user name, and here clients choose it: write %u in place of %c \
                 in the rules first";
            self.remark(Kind::Wider, Some(&setting.place), text);
        }
    }

    fn other_settings(&mut self, conf: &Conf) {
        let listeners = conf
            .listeners
            .iter()
            .flat_map(|listener| &listener.settings);
        for setting in conf.settings.iter().chain(listeners) {
            if settings::is_taken(&setting.key) {
                continue;
            }
            if let Some((kind, text)) = options::remark(&setting.key, &setting.value) {
                // The value stays where it is: of some options it is a secret.
                let text = format!("{}: {text}", setting.key);
                self.findings
                    .push(Finding::new(kind, Some(&setting.place), text));
            }
        }
    }

    fn finish(mut self, meaning: Meaning, settings: String) -> Plan {
        let common = self.choices.role.clone();
        let is_common = self
            .rules
            .iter()
            .any(|rule| rule.who == Who::Role(common.as_str().into()).to_string());
        let users: Vec<ImportedUser> = std::mem::take(&mut self.hashes)
            .into_iter()
            .map(|(name, (hash, disabled, _))| {
                let mut roles = self.roles.remove(&name).unwrap_or_default();
                if is_common && !self.without_common.contains(&name) {
                    roles.push(common.clone());
                }
                ImportedUser {
                    name,
                    hash,
                    roles,
                    disabled,
                }
            })
            .collect();
        if !users.is_empty() {
            let text = format!(
                "{} users keep their passwords; each hash is verified as it is, and replaced by argon2id at the next login",
                users.len()
            );
            self.remark(Kind::Mapped, None, text);
        }
        self.findings.sort_by_key(|finding| finding.kind);
        Plan {
            import: Import {
                users,
                rules: self.rules,
                replace: self.choices.replace,
            },
            settings,
            findings: self.findings,
            anonymous: self.anonymous,
            anonymous_role: self.choices.anonymous_role.clone(),
            meaning,
        }
    }
}

/// A topic of Mosquitto's as a filter without variables.
pub(super) fn literal(topic: &str) -> String {
    topic.replace('%', "%%")
}

/// A pattern of an ACL file: `%u` and `%c` stay, any other percent sign is one.
fn template(pattern: &str) -> String {
    let mut filter = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        let after = &rest[at + 1..];
        filter.push_str(&rest[..at]);
        filter.push_str(match after.as_bytes().first() {
            Some(b'u' | b'c') => "%",
            _ => "%%",
        });
        rest = after;
    }
    filter + rest
}

/// The filter with `%u` replaced; `%%u` is a percent sign and a letter.
fn with_name(filter: &str, name: &str) -> String {
    let parts: Vec<String> = filter
        .split("%%")
        .map(|part| part.replace("%u", name))
        .collect();
    parts.join("%%")
}

/// The file of the dynamic security plugin, if this is that.
fn config_of_dynsec(plugin: &Plugin) -> Option<&str> {
    let is_it = plugin.setting.value.contains("mosquitto_dynamic_security");
    let file = plugin
        .options
        .iter()
        .rfind(|option| option.key == "config_file");
    file.filter(|_| is_it).map(|file| file.value.as_str())
}

/// Whether clients get their names from certificates.
fn identities(conf: &Conf) -> bool {
    let mut listeners = conf.listeners.iter();
    listeners.any(|listener| {
        listener.is_set("use_identity_as_username") || listener.is_set("use_subject_as_username")
    })
}

fn of_bridge(bridge: &Bridge) -> Finding {
    let all = |key: &str| {
        let values = bridge
            .settings
            .iter()
            .filter(|setting| setting.key.starts_with(key));
        values
            .map(|setting| setting.value.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let text = format!(
        "the bridge {} to {} (topics: {}) cannot be taken over: there are no bridges here; let a client subscribe on one side \
         and publish on the other, or keep Mosquitto beside the gateway for it",
        bridge.setting.value,
        all("address"),
        all("topic")
    );
    Finding::new(Kind::Unmapped, Some(&bridge.setting.place), text)
}
