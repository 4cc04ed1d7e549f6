//! All rules at one moment, and the handle through which a new policy replaces the old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use super::{Permissions, Rule, Who};

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
}

type RulesByName = HashMap<Arc<str>, Vec<Arc<Rule>>>;

/// An immutable set of rules, indexed by whom they are for.
#[derive(Debug)]
pub struct Policy {
    generation: u64,
    rules: Vec<Arc<Rule>>,
    everyone: Vec<Arc<Rule>>,
    roles: RulesByName,
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
            users: HashMap::new(),
        };
        policy.rules.sort_by_key(|rule| rule.id);
        for rule in &policy.rules {
            let place = match &rule.who {
                Who::Everyone => &mut policy.everyone,
                Who::Role(role) => policy.roles.entry(role.clone()).or_default(),
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

    /// What this subject may do: the rules that apply to it, with their variables replaced (P1).
    pub fn permissions(&self, subject: &Subject) -> Permissions {
        Permissions::new(self.generation, self.rules_for(subject), subject)
    }

    /// The rules for everyone, for the subject's roles and for the subject itself.
    pub(super) fn rules_for<'a>(
        &'a self,
        subject: &Subject<'a>,
    ) -> impl Iterator<Item = &'a Arc<Rule>> {
        let own = self
            .users
            .get(subject.realm)
            .and_then(|names| names.get(subject.name));
        let roles = subject.roles;
        let by_role = roles
            .iter()
            .enumerate()
            .filter(move |(i, role)| !roles[..*i].contains(role));
        let by_role = by_role
            .filter_map(|(_, role)| self.roles.get(role))
            .flatten();
        self.everyone
            .iter()
            .chain(by_role)
            .chain(own.into_iter().flatten())
    }
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
