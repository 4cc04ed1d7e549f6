//! Which names users and roles may have.

use super::AuthError;

/// The realm of our own accounts (I1).
pub const LOCAL_REALM: &str = "local";

const USER_NAME_MAX_BYTES: usize = 255;
/// What the common name of a certificate may have (RFC 5280, A.1).
const DEVICE_ID_MAX_BYTES: usize = 64;
const ROLE_MAX_BYTES: usize = 64;

/// Checks the name of a new user: 1 to 255 bytes, no control characters, no white space around it. Returns what the
/// operator should know about it, if anything.
pub fn check_user_name(name: &str) -> Result<Option<String>, AuthError> {
    let problem = if name.is_empty() {
        "is empty; give it at least one character"
    } else if name.len() > USER_NAME_MAX_BYTES {
        "is longer than 255 bytes; choose a shorter one"
    } else if name.chars().any(char::is_control) {
        "contains a control character; leave it out"
    } else if name.trim() != name {
        "begins or ends with white space; leave it out"
    } else {
        // P1: such a name can log in, but it cannot stand for a topic level.
        let unusable = name.contains(['/', '+', '#']);
        return Ok(unusable
            .then(|| format!("{name:?} contains \"/\", \"+\" or \"#\": no rule that allows by %u will ever match it")));
    };
    Err(AuthError::UserName {
        name: name.chars().take(80).collect(),
        problem,
    })
}

/// Checks the id of a new device: a user name that can stand for a topic level and for the common name of a
/// certificate. 1 to 64 bytes without `/`, `+` and `#`, and no `$` at the beginning.
pub fn check_device_id(id: &str) -> Result<(), AuthError> {
    let problem = match check_user_name(id) {
        Err(AuthError::UserName { problem, .. }) => problem,
        Err(error) => return Err(error),
        Ok(_) if id.len() > DEVICE_ID_MAX_BYTES => "is longer than 64 bytes; choose a shorter one",
        Ok(Some(_)) => {
            "contains \"/\", \"+\" or \"#\", and is to be one level of its topics; leave them out"
        }
        Ok(None) if id.starts_with('$') => {
            "begins with \"$\", as only topics of the gateway itself do; leave it out"
        }
        Ok(None) => return Ok(()),
    };
    Err(AuthError::DeviceId {
        id: id.chars().take(80).collect(),
        problem,
    })
}

/// Checks the name of a role: 1 to 64 of `A-Z a-z 0-9 _ . -`.
pub fn check_role(role: &str) -> Result<(), AuthError> {
    let problem = if role.is_empty() || role.len() > ROLE_MAX_BYTES {
        "must have 1 to 64 characters"
    } else if !role
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    {
        "may contain only letters, digits, \"_\", \".\" and \"-\""
    } else {
        return Ok(());
    };
    Err(AuthError::Role {
        name: role.chars().take(80).collect(),
        problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_confuse_an_operator_are_refused() {
        for bad in ["", " a", "a\n", "a\0b", "a\u{9b}b", &"x".repeat(256)] {
            assert!(check_user_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "Jörg Müller", "sensor-7", &"x".repeat(255)] {
            assert_eq!(check_user_name(good).unwrap(), None, "{good:?}");
        }
        for bad in ["", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(check_role(bad).is_err(), "{bad:?}");
        }
        check_role("Read_only.v2-x").unwrap();
    }

    // P1
    #[test]
    fn a_device_id_is_always_one_topic_level() {
        for bad in [
            "",
            "a/b",
            "+",
            "x#",
            "$SYS",
            " a",
            "a\n",
            "a\0",
            &"x".repeat(65),
        ] {
            let error = check_device_id(bad).unwrap_err().to_string();
            assert!(error.starts_with("the device id "), "{error}");
        }
        for good in ["lamp-7", "Küche 2", "a%u", "b$", &"x".repeat(64)] {
            check_device_id(good).unwrap();
        }
    }

    // P1
    #[test]
    fn a_name_that_cannot_stand_for_a_topic_level_comes_with_a_warning() {
        assert!(
            check_user_name("site/dev1")
                .unwrap()
                .unwrap()
                .contains("%u")
        );
    }
}
