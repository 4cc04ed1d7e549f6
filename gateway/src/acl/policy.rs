//! All rules at one moment, and the handle through which a new policy replaces the old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use super::{Permissions, Rule, Who, scope};

/// Who asks: the principal, and the client identifier it connected with.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub realm: &'a str,
    /// `%u`. Empty for an anonymous client, so that no allow with `%u` opens for it.
    pub name: &'a str,
    /// `%c`.
    pub client_id: &'a str,
    /// `%d`; `None` for what is not a device.
    pub device: Option<&'a str>,
    pub roles: &'a [Arc<str>],
    /// The scopes of its token; those of the forms `mqtt:pub:FILTER` and `mqtt:sub:FILTER` are permissions themselves.
    pub scopes: &'a [Arc<str>],
}

type RulesByName = HashMap<Arc<str>, Vec<Arc<Rule>>>;

/// An immutable set of rules, indexed by whom they are for.
#[derive(Debug)]
pub struct Policy {
    generation: u64,
    rules: Vec<Arc<Rule>>,
    everyone: Vec<Arc<Rule>>,
    roles: RulesByName,
    scopes: RulesByName,
    /// By realm, then by name.
    users: HashMap<Arc<str>, RulesByName>,
}

impl Policy {
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let mut policy = Policy {
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            rules: rules.into_iter().map(Arc::new).collect(),
            everyone: Vec::new(),
            roles: HashMap::new(),
            scopes: HashMap::new(),
            users: HashMap::new(),
        };
        policy.rules.sort_by_key(|rule| rule.id);
        for rule in &policy.rules {
            let place = match &rule.who {
                Who::Everyone => &mut policy.everyone,
                Who::Role(role) => policy.roles.entry(role.clone()).or_default(),
                Who::Scope(scope) => policy.scopes.entry(scope.clone()).or_default(),
                Who::User { realm, name } => policy
                    .users
                    .entry(realm.clone())
                    .or_default()
                    .entry(name.clone())
                    .or_default(),
            };
            place.push(rule.clone());
        }
        policy
    }

    /// Grows with every policy made in this process; a session compares it to learn that its permissions are stale.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Every rule, by ascending id.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.iter().map(Arc::as_ref)
    }

    /// What this subject may do: the rules that apply to it, with their variables replaced (P1), and what its scopes say.
    pub fn permissions(&self, subject: &Subject) -> Permissions {
        if subject.scopes.is_empty() {
            return Permissions::new(self.generation, self.rules_for(subject), subject);
        }
        let said = scope::rules(subject.scopes);
        let rules = said.iter().chain(self.rules_for(subject));
        Permissions::new(self.generation, rules, subject)
    }

    /// The rules for everyone, for the subject's roles and scopes, and for the subject itself.
    pub(super) fn rules_for<'a>(
        &'a self,
        subject: &Subject<'a>,
    ) -> impl Iterator<Item = &'a Arc<Rule>> {
        let own = self
            .users
            .get(subject.realm)
            .and_then(|names| names.get(subject.name));
        let by_role = each_once(subject.roles).filter_map(|role| self.roles.get(role));
        let by_scope = each_once(subject.scopes).filter_map(|scope| self.scopes.get(scope));
        self.everyone
            .iter()
            .chain(by_role.flatten())
            .chain(by_scope.flatten())
            .chain(own.into_iter().flatten())
    }
}

fn each_once(names: &[Arc<str>]) -> impl Iterator<Item = &Arc<str>> {
    let first = move |(i, name): &(usize, &Arc<str>)| !names[..*i].contains(name);
    names.iter().enumerate().filter(first).map(|(_, name)| name)
}

/// The policy in force. Reading it takes no lock; a replacement is seen by the next read.
#[derive(Debug)]
pub struct PolicyHandle(ArcSwap<Policy>);

impl PolicyHandle {
    pub fn new(policy: Policy) -> Self {
        PolicyHandle(ArcSwap::from_pointee(policy))
    }

    pub fn load(&self) -> Arc<Policy> {
        self.0.load_full()
    }

    /// The generation of the policy in force, without taking a reference to it.
    pub fn generation(&self) -> u64 {
        self.0.load().generation
    }

    pub fn replace(&self, policy: Policy) {
        self.0.store(Arc::new(policy));
    }
}
