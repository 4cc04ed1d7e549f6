//! Chosen passwords: argon2id hashes as PHC strings, and how they are made and verified.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::{constant_time, rand};

use super::AuthError;
use super::imported::Imported;

/// Longest password a user may be given, in bytes.
pub(super) const MAX_BYTES: usize = 1024;

/// OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What one verification may cost at most, whatever the stored hash asks for (I3).
pub(super) const MAX_MEMORY_KIB: u32 = 64 * 1024;
pub(super) const MAX_PASSES: u32 = 16;

/// What begins every hash made here; any other was imported.
pub(super) const OWN_PREFIX: &str = "$argon2id$v=19$m=19456,t=2,p=1$";

/// The working memory of one hash, kept from one hash to the next: touching 19 MiB anew costs a fifth of the time.
#[derive(Default)]
pub(super) struct Memory(Vec<Block>);

impl Memory {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Checks a password that is to be hashed: 1 to 1024 bytes.
pub(super) fn check(password: &[u8]) -> Result<(), AuthError> {
    match password.len() {
        0 => Err(AuthError::Password(
            "is empty; give it at least one character",
        )),
        1..=MAX_BYTES => Ok(()),
        _ => Err(AuthError::Password(
            "is longer than 1024 bytes; choose a shorter one",
        )),
    }
}

/// Hashes a password under a new random salt.
pub(super) fn hash(password: &[u8], memory: &mut Memory) -> Result<String, AuthError> {
    let mut salt = [0; Salt::RECOMMENDED_LENGTH];
    rand::fill(&mut salt).map_err(|_| AuthError::Random)?;
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| AuthError::Hashing)?;
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    compute(
        password,
        &salt,
        Algorithm::Argon2id,
        Version::V0x13,
        params,
        &mut output,
        memory,
    )
    .ok_or(AuthError::Hashing)?;
    phc(&salt, &output).ok_or(AuthError::Hashing)
}

/// Whether the password is the one that was hashed. False also for a hash that is neither an argon2 PHC string nor in a
/// form of Mosquitto's, or costs more than the limits above.
pub(super) fn verify(password: &[u8], phc: &str, memory: &mut Memory) -> bool {
    let Ok(stored) = PasswordHash::new(phc) else {
        // Also Mosquitto's argon2id hashes: their salts are longer than a PHC string's may be.
        return Imported::parse(phc).is_ok_and(|hash| hash.verify(password, memory));
    };
    let (Some(salt), Some(expected)) = (stored.salt, stored.hash) else {
        return false;
    };
    let Ok(algorithm) = Algorithm::try_from(stored.algorithm.as_str()) else {
        return false;
    };
    let Ok(version) = stored.version.map_or(Ok(Version::V0x13), Version::try_from) else {
        return false;
    };
    let Ok(params) = Params::try_from(&stored) else {
        return false;
    };
    if params.m_cost() > MAX_MEMORY_KIB || params.t_cost() > MAX_PASSES {
        return false;
    }
    let mut buffer = [0; Output::MAX_LENGTH];
    let output = &mut buffer[..expected.len()];
    compute(password, &salt, algorithm, version, params, output, memory).is_some()
        && constant_time::verify_slices_are_equal(output, expected.as_bytes()).is_ok()
}

/// A hash that no password has, to verify against for a name that does not exist: salt and output are random.
pub(super) fn decoy() -> Result<String, AuthError> {
    let (mut salt, mut output) = (
        [0; Salt::RECOMMENDED_LENGTH],
        [0; Params::DEFAULT_OUTPUT_LEN],
    );
    rand::fill(&mut salt)
        .and_then(|()| rand::fill(&mut output))
        .map_err(|_| AuthError::Random)?;
    phc(&salt, &output).ok_or(AuthError::Hashing)
}

fn phc(salt: &[u8], output: &[u8]) -> Option<String> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).ok()?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).ok()?,
        salt: Some(Salt::new(salt).ok()?),
        hash: Some(Output::new(output).ok()?),
    };
    Some(hash.to_string())
}

pub(super) fn compute(
    password: &[u8],
    salt: &[u8],
    algorithm: Algorithm,
    version: Version,
    params: Params,
    output: &mut [u8],
    memory: &mut Memory,
) -> Option<()> {
    let blocks = params.block_count();
    if memory.0.len() < blocks {
        memory.0.resize(blocks, Block::new());
    }
    let argon2 = Argon2::new(algorithm, version, params);
    argon2
        .hash_password_into_with_memory(password, salt, output, &mut memory.0[..blocks])
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hashed_password_verifies() {
        let mut memory = Memory::default();
        let phc = hash(b"correct horse", &mut memory).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(verify(b"correct horse", &phc, &mut memory));
        for wrong in [
            &b""[..],
            b"correct hors",
            b"correct horse ",
            b"Correct horse",
        ] {
            assert!(!verify(wrong, &phc, &mut memory));
        }
        assert_ne!(hash(b"correct horse", &mut memory).unwrap(), phc, "salted");
    }

    #[test]
    fn a_hash_made_by_another_implementation_verifies() {
        // argon2 (the C reference) of "password", salt "somesalt", m=65536, t=2, p=1.
        let phc = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(verify(b"password", phc, &mut Memory::default()));
        assert!(!verify(b"passwore", phc, &mut Memory::default()));
    }

    #[test]
    fn a_broken_or_too_expensive_hash_never_verifies() {
        let mut memory = Memory::default();
        for phc in [
            "",
            "$6$salt$hash",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=65537,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=1024,t=17,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        ] {
            assert!(!verify(b"password", phc, &mut memory), "{phc}");
        }
        assert!(memory.0.is_empty(), "refused before any memory was taken");
    }

    #[test]
    fn nothing_verifies_against_a_decoy_and_it_costs_what_a_real_hash_costs() {
        let decoy = decoy().unwrap();
        assert!(decoy.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let mut memory = Memory::default();
        assert!(!verify(b"", &decoy, &mut memory) && !verify(b"x", &decoy, &mut memory));
        assert_eq!(memory.0.len(), 19456, "the work was done");
    }

    #[test]
    fn an_empty_or_huge_password_is_refused_at_creation() {
        assert!(check(b"").is_err() && check(&[b'x'; 1025]).is_err());
        assert!(check(b"x").is_ok() && check(&[b'x'; 1024]).is_ok());
    }
}
