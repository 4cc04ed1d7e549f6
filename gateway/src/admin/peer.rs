//! Who may give commands over the control socket: root, the user the gateway runs as, and the group `postern` (N3).

use std::fs;

/// The group whose members administer the gateway.
const GROUP: &str = "postern";

/// Whom to accept, read once when the socket is made.
///
/// The group is looked up in `/etc/group`: its members are those whose own group it is and those it lists. Groups
/// from a directory service alone are not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    own_uid: u32,
    pub group: Option<u32>,
    members: Vec<u32>,
}

impl Accepted {
    pub fn read() -> Self {
        // Without these files there is no such group; root and the own user are accepted all the same.
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::from_files(
            rustix::process::geteuid().as_raw(),
            &read("/etc/group"),
            &read("/etc/passwd"),
        )
    }

    /// Whether a peer with these credentials (SO_PEERCRED) may give commands.
    pub fn accepts(&self, uid: u32, gid: u32) -> bool {
        uid == 0 || uid == self.own_uid || self.group == Some(gid) || self.members.contains(&uid)
    }

    /// Whether a peer may have the private keys: it can read them from the data directory anyway.
    pub fn is_trusted_with_keys(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own_uid
    }

    fn from_files(own_uid: u32, group_file: &str, passwd_file: &str) -> Self {
        let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let entry = group_file
            .lines()
            .map(fields)
            .find(|fields| fields[0] == GROUP && fields.len() == 4);
        let Some(entry) = entry else {
            return Accepted {
                own_uid,
                group: None,
                members: Vec::new(),
            };
        };
        let names: Vec<&str> = entry[3]
            .split(',')
            .filter(|name| !name.is_empty())
            .collect();
        let member = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let listed = names.contains(fields.first()?);
            listed.then(|| fields.get(2)?.parse().ok()).flatten()
        };
        let members = passwd_file.lines().filter_map(member).collect();
        Accepted {
            own_uid,
            group: entry[2].parse().ok(),
            members,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str = "root:x:0:\nadm:x:4:eve\npostern:x:990:ann,bob\nposterns:x:991:eve\n";
    const USERS: &str = "root:x:0:0::/:/bin/sh\nann:x:1001:1001::/:/bin/sh\nbob:x:1002:990::/:/bin/sh\n\
                         eve:x:1003:1003::/:/bin/sh\n";

    // N3
    #[test]
    fn root_the_own_user_and_the_group_are_accepted_and_nobody_else() {
        let accepted = Accepted::from_files(900, GROUPS, USERS);
        for (uid, gid, ok) in [
            (0, 0, true),
            (900, 900, true),
            (1001, 1001, true),
            (5000, 990, true),
            (1003, 1003, false),
            (1003, 991, false),
        ] {
            assert_eq!(accepted.accepts(uid, gid), ok, "{uid} {gid}");
            let keys = [0, 900].contains(&uid);
            assert_eq!(accepted.is_trusted_with_keys(uid), keys, "{uid}");
        }
    }

    #[test]
    fn without_the_group_only_root_and_the_own_user_are_accepted() {
        for broken in [
            "",
            "postern",
            "postern:x:",
            "other:x:990:ann",
            "postern:x:abc:",
        ] {
            let accepted = Accepted::from_files(900, broken, USERS);
            assert!(
                accepted.accepts(0, 0) && accepted.accepts(900, 1),
                "{broken}"
            );
            assert!(!accepted.accepts(1001, 990), "{broken}");
        }
    }
}
