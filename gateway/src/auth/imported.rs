//! Hashes in Mosquitto's forms: how they are read and verified until their users log in, and what they cost till then.
//!
//! `mosquitto_passwd` writes `$6$SALT$HASH` (SHA-512 of password and salt; the default before 2.0),
//! `$7$ITERATIONS$SALT$HASH` (PBKDF2 with HMAC-SHA-512; the default of 2.0) and `$argon2id$…` (since 2.1; the form of the
//! reference implementation, with a salt of 64 bytes). The dynamic security plugin keeps the second and third.

use std::num::NonZeroU32;
use std::sync::Arc;

use argon2::{Algorithm, Params, Version};
use aws_lc_rs::{constant_time, digest, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::password::{MAX_MEMORY_KIB, MAX_PASSES, Memory, OWN_PREFIX, compute};

/// About half a second of one core; Mosquitto itself makes 101 to 1,000, and OWASP advises 210,000.
const MAX_ITERATIONS: u32 = 1_000_000;
const MAX_LANES: u32 = 4;
/// Longest text of a hash that is looked at.
const MAX_TEXT: usize = 512;
/// Different costs of argon2id that imported hashes may have: every wrong answer pays for each.
const MAX_ARGON2_COSTS: usize = 4;

/// Why a hash cannot be taken over; never any part of the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImportedHashError {
    #[error("it is in no form that Mosquitto writes ($6$, $7$ or $argon2id$)")]
    Form,
    #[error("it is damaged: salt or hash is not what its form asks for")]
    Damaged,
    #[error("it asks for {0} iterations; at most {MAX_ITERATIONS} are verified here")]
    Iterations(u32),
    /// I3
    #[error("it needs {0} KiB of memory; at most {MAX_MEMORY_KIB} KiB are given to one login")]
    Memory(u32),
    #[error(
        "it asks for {passes} passes in {lanes} lanes; at most {MAX_PASSES} and {MAX_LANES} are verified here"
    )]
    Passes { passes: u32, lanes: u32 },
    #[error(
        "the argon2id hashes have {0} different costs; at most {MAX_ARGON2_COSTS} can be imported together: import fewer \
         users, or set some passwords anew"
    )]
    Costs(usize),
}

/// Whether a user may be imported with this hash.
pub fn check_imported(hash: &str) -> Result<(), ImportedHashError> {
    Imported::parse(hash).map(drop)
}

/// Whether these hashes may be imported together: each of their costs is one that every wrong answer pays for.
pub fn check_imported_together<'a>(
    hashes: impl Iterator<Item = &'a str>,
) -> Result<(), ImportedHashError> {
    match Efforts::of(hashes).argon2id.len() {
        0..=MAX_ARGON2_COSTS => Ok(()),
        costs => Err(ImportedHashError::Costs(costs)),
    }
}

/// Whether a stored hash is one to be replaced at the next login.
pub fn is_imported(phc: &str) -> bool {
    !phc.starts_with(OWN_PREFIX)
}

/// A hash as Mosquitto stored it.
pub(super) struct Imported {
    cost: Cost,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

#[derive(Clone, PartialEq)]
enum Cost {
    Sha512,
    Pbkdf2(NonZeroU32),
    Argon2id(Params),
}

impl Imported {
    pub fn parse(text: &str) -> Result<Imported, ImportedHashError> {
        if text.len() > MAX_TEXT {
            return Err(ImportedHashError::Form);
        }
        let rest = text.strip_prefix('$').ok_or(ImportedHashError::Form)?;
        let parts: Vec<&str> = rest.split('$').collect();
        match *parts {
            ["6", salt, hash] => Self::sha512(Cost::Sha512, salt, hash),
            ["7", iterations, salt, hash] => {
                let count: NonZeroU32 =
                    iterations.parse().map_err(|_| ImportedHashError::Damaged)?;
                if count.get() > MAX_ITERATIONS {
                    return Err(ImportedHashError::Iterations(count.get()));
                }
                Self::sha512(Cost::Pbkdf2(count), salt, hash)
            }
            ["argon2id", "v=19", costs, salt, hash] => Self::argon2id(costs, salt, hash),
            _ => Err(ImportedHashError::Form),
        }
    }

    fn sha512(cost: Cost, salt: &str, hash: &str) -> Result<Imported, ImportedHashError> {
        let decoded = |text| {
            STANDARD
                .decode(text)
                .map_err(|_| ImportedHashError::Damaged)
        };
        let (salt, hash) = (decoded(salt)?, decoded(hash)?);
        // 12 bytes up to Mosquitto 2.0, 64 since.
        if !matches!(salt.len(), 12 | 64) || hash.len() != digest::SHA512_OUTPUT_LEN {
            return Err(ImportedHashError::Damaged);
        }
        Ok(Imported { cost, salt, hash })
    }

    fn argon2id(costs: &str, salt: &str, hash: &str) -> Result<Imported, ImportedHashError> {
        let mut values = costs.splitn(3, ',').zip(["m=", "t=", "p="]);
        let mut value = || -> Option<u32> {
            let (text, key) = values.next()?;
            text.strip_prefix(key)?.parse().ok()
        };
        let (Some(memory), Some(passes), Some(lanes)) = (value(), value(), value()) else {
            return Err(ImportedHashError::Damaged);
        };
        if memory > MAX_MEMORY_KIB {
            return Err(ImportedHashError::Memory(memory));
        }
        if passes > MAX_PASSES || lanes > MAX_LANES {
            return Err(ImportedHashError::Passes { passes, lanes });
        }
        let decoded = |text| {
            STANDARD_NO_PAD
                .decode(text)
                .map_err(|_| ImportedHashError::Damaged)
        };
        let (salt, hash) = (decoded(salt)?, decoded(hash)?);
        if !(8..=64).contains(&salt.len()) || !(16..=64).contains(&hash.len()) {
            return Err(ImportedHashError::Damaged);
        }
        let params = Params::new(memory, passes, lanes, Some(hash.len()));
        let params = params.map_err(|_| ImportedHashError::Damaged)?;
        let cost = Cost::Argon2id(params);
        Ok(Imported { cost, salt, hash })
    }

    /// Whether the password is the one that was hashed.
    pub fn verify(&self, password: &[u8], memory: &mut Memory) -> bool {
        match &self.cost {
            Cost::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                let hash = context.finish();
                constant_time::verify_slices_are_equal(hash.as_ref(), &self.hash).is_ok()
            }
            Cost::Pbkdf2(iterations) => {
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
                pbkdf2::verify(algorithm, *iterations, &self.salt, password, &self.hash).is_ok()
            }
            Cost::Argon2id(params) => {
                let mut output = vec![0; self.hash.len()];
                let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
                compute(
                    password,
                    &self.salt,
                    algorithm,
                    version,
                    params.clone(),
                    &mut output,
                    memory,
                )
                .is_some()
                    && constant_time::verify_slices_are_equal(&output, &self.hash).is_ok()
            }
        }
    }

    /// A hash of this cost that no password has. `None` without random bytes.
    fn decoy(cost: &Cost) -> Option<String> {
        let (mut salt, mut hash) = ([0; 12], [0; 64]);
        rand::fill(&mut salt)
            .and_then(|()| rand::fill(&mut hash))
            .ok()?;
        Some(match cost {
            Cost::Sha512 => format!("$6${}${}", STANDARD.encode(salt), STANDARD.encode(hash)),
            Cost::Pbkdf2(iterations) => {
                let (salt, hash) = (STANDARD.encode(salt), STANDARD.encode(hash));
                format!("$7${iterations}${salt}${hash}")
            }
            Cost::Argon2id(params) => {
                let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
                let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
                format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}")
            }
        })
    }
}

/// What the imported hashes of all users cost together: the most iterations, and each cost of argon2id. Every wrong answer
/// pays that and one hash of ours, so that its time tells neither whether a name exists nor whose hash is an imported one
/// (I2). Empty, and free, once the last imported hash is replaced.
///
/// One digest of a `$6$` hash takes a microsecond beside the 20,000 of a hash of ours: it is not counted.
#[derive(Debug, Default)]
pub(super) struct Efforts {
    iterations: u32,
    argon2id: Vec<Params>,
}

impl Efforts {
    pub fn of<'a>(hashes: impl Iterator<Item = &'a str>) -> Efforts {
        let mut efforts = Efforts::default();
        for imported in hashes.filter(|hash| is_imported(hash)) {
            match Imported::parse(imported).map(|imported| imported.cost) {
                Ok(Cost::Pbkdf2(count)) => efforts.iterations = efforts.iterations.max(count.get()),
                Ok(Cost::Argon2id(params)) => {
                    let known = efforts.argon2id.iter().any(|other| same(other, &params));
                    if !known {
                        efforts.argon2id.push(params);
                    }
                }
                Ok(Cost::Sha512) | Err(_) => {}
            }
        }
        efforts
    }

    /// What is still to be verified, in vain, after `verified` was: all that it did not cost itself. `own` is a decoy of
    /// our own kind.
    pub fn beside(&self, verified: &str, own: &Arc<str>) -> Vec<Arc<str>> {
        let mut missing = Vec::new();
        let spent = match is_imported(verified) {
            true => Imported::parse(verified).ok().map(|imported| imported.cost),
            false => None,
        };
        if is_imported(verified) {
            missing.push(own.clone());
        }
        let iterated = match &spent {
            Some(Cost::Pbkdf2(count)) => count.get(),
            _ => 0,
        };
        let rest = NonZeroU32::new(self.iterations.saturating_sub(iterated)).map(Cost::Pbkdf2);
        let others = self.argon2id.iter().filter(|params| match &spent {
            Some(Cost::Argon2id(spent)) => !same(spent, params),
            _ => true,
        });
        let costs = rest
            .into_iter()
            .chain(others.map(|params| Cost::Argon2id(params.clone())));
        missing.extend(
            costs
                .filter_map(|cost| Imported::decoy(&cost))
                .map(Arc::from),
        );
        missing
    }
}

fn same(one: &Params, other: &Params) -> bool {
    let cost = |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost());
    cost(one) == cost(other)
}

#[cfg(test)]
#[path = "imported_tests.rs"]
mod tests;
