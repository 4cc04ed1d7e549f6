use std::sync::Arc;

use argon2::{Algorithm, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::{
    Cost, Efforts, Imported, ImportedHashError, check_imported, check_imported_together,
    is_imported,
};
use crate::auth::password::{self, Memory, compute};

/// Made by mosquitto_passwd 2.0.11, of "secret".
const PBKDF2: &str = "$7$101$MPgamSnFibpsTeyg$lpmPfc7F1Mtkpg5JKJAFHc4m41MmpfvCPo6J9E4As2x9Javgg2flI4gNrBuiGdfeIAeCOoA3lM4rpEk0+bRxrw==";
/// Made by mosquitto_passwd 2.0.11 -H sha512, of "secret2".
const SHA512: &str = "$6$NbvgUjim0o9izJSa$Z6KItf3cl4FwwRrOO6/1k2KUz+iJ9lj29st8IxQ1Np0i1ZGRkna7J8iPci1DPOnlQZguOusggwmKmXZ3jDQXtA==";

/// As Mosquitto 2.1 makes it: a salt and a hash of 64 bytes, which a PHC string could not have.
fn argon2id(password: &[u8], memory: u32, passes: u32) -> String {
    let (salt, mut hash) = ([7; 64], [0; 64]);
    let params = Params::new(memory, passes, 1, Some(64)).unwrap();
    let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
    compute(
        password,
        &salt,
        algorithm,
        version,
        params,
        &mut hash,
        &mut Memory::default(),
    )
    .unwrap();
    let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    format!("$argon2id$v=19$m={memory},t={passes},p=1${salt}${hash}")
}

#[test]
fn hashes_of_all_forms_verify_their_password_and_no_other() {
    let mut memory = Memory::default();
    let argon2id = argon2id(b"secret3", 1024, 1);
    for (hash, right) in [
        (PBKDF2, "secret"),
        (SHA512, "secret2"),
        (argon2id.as_str(), "secret3"),
    ] {
        assert_eq!(check_imported(hash), Ok(()), "{hash}");
        assert!(
            password::verify(right.as_bytes(), hash, &mut memory),
            "{hash}"
        );
        for wrong in ["", "secre", "secret22", "Secret"] {
            assert!(
                !password::verify(wrong.as_bytes(), hash, &mut memory),
                "{hash} {wrong}"
            );
        }
        assert!(is_imported(hash));
    }
    assert!(!is_imported(&password::hash(b"x", &mut memory).unwrap()));
    assert!(!is_imported(&password::decoy().unwrap()));
}

// I3
#[test]
fn a_hash_that_costs_too_much_or_is_damaged_is_refused_without_being_shown() {
    let salt = "AAAAAAAAAAAAAAAA";
    let hash = "A".repeat(86) + "==";
    let (salt64, hash64) = ("A".repeat(86), "A".repeat(86));
    for (text, expected) in [
        (
            format!("$7$1000001${salt}${hash}"),
            ImportedHashError::Iterations(1_000_001),
        ),
        (
            format!("$argon2id$v=19$m=65537,t=1,p=1${salt64}${hash64}"),
            ImportedHashError::Memory(65_537),
        ),
        (
            format!("$argon2id$v=19$m=1024,t=17,p=1${salt64}${hash64}"),
            ImportedHashError::Passes {
                passes: 17,
                lanes: 1,
            },
        ),
        (
            format!("$argon2id$v=19$m=1024,t=1,p=5${salt64}${hash64}"),
            ImportedHashError::Passes {
                passes: 1,
                lanes: 5,
            },
        ),
        (format!("$7$0${salt}${hash}"), ImportedHashError::Damaged),
        (format!("$7$-1${salt}${hash}"), ImportedHashError::Damaged),
        (format!("$7$x${salt}${hash}"), ImportedHashError::Damaged),
        (format!("$7$101$AAAA${hash}"), ImportedHashError::Damaged),
        (format!("$7$101${salt}$AAAA"), ImportedHashError::Damaged),
        (format!("$6$*${hash}"), ImportedHashError::Damaged),
        (
            format!("$argon2id$v=19$t=1,m=1024,p=1${salt64}${hash64}"),
            ImportedHashError::Damaged,
        ),
        (
            format!("$argon2id$v=16$m=1024,t=1,p=1${salt64}${hash64}"),
            ImportedHashError::Form,
        ),
        (
            format!("$argon2i$v=19$m=1024,t=1,p=1${salt64}${hash64}"),
            ImportedHashError::Form,
        ),
        (format!("$5${salt}${hash}"), ImportedHashError::Form),
        ("plain text".to_owned(), ImportedHashError::Form),
        (String::new(), ImportedHashError::Form),
        ("$6$".to_owned() + &"A".repeat(600), ImportedHashError::Form),
    ] {
        let error = check_imported(&text).unwrap_err();
        assert_eq!(error, expected, "{text}");
        assert!(!error.to_string().contains(salt), "{error}");
        assert!(
            !password::verify(b"x", &text, &mut Memory::default()),
            "{text}"
        );
    }
}

/// What a wrong password costs in all: hashes of ours, iterations, and the other costs of argon2id.
fn total(efforts: &Efforts, verified: &str, own: &Arc<str>) -> (usize, u32, Vec<u32>) {
    let mut sum = (0, 0, Vec::new());
    let beside = efforts.beside(verified, own);
    for text in std::iter::once(verified).chain(beside.iter().map(|decoy| &**decoy)) {
        match Imported::parse(text).map(|imported| imported.cost) {
            _ if !is_imported(text) => sum.0 += 1,
            Ok(Cost::Pbkdf2(count)) => sum.1 += count.get(),
            Ok(Cost::Argon2id(params)) => sum.2.push(params.m_cost()),
            Ok(Cost::Sha512) => {}
            Err(error) => panic!("{error}"),
        }
    }
    sum.2.sort();
    sum
}

// I2
#[test]
fn a_wrong_password_costs_the_same_whatever_is_stored_for_the_name() {
    let own: Arc<str> = password::decoy().unwrap().into();
    let slow = PBKDF2.replace("$101$", "$5000$");
    let (one, other) = (argon2id(b"x", 1024, 1), argon2id(b"x", 2048, 1));
    let stored = [
        PBKDF2,
        SHA512,
        slow.as_str(),
        one.as_str(),
        other.as_str(),
        one.as_str(),
        &own,
    ];
    let efforts = Efforts::of(stored.iter().copied());
    let expected = (1, 5000, vec![1024, 2048]);
    for verified in stored {
        assert_eq!(total(&efforts, verified, &own), expected, "{verified}");
    }
    // Without imported hashes nothing is added.
    assert!(
        Efforts::of([&*own].into_iter())
            .beside(&own, &own)
            .is_empty()
    );
}

#[test]
fn every_different_cost_of_argon2id_counts_and_too_many_are_refused() {
    let hashes: Vec<String> = (0..5).map(|n| argon2id(b"x", 64 + n, 1)).collect();
    let first = |count| hashes[..count].iter().map(String::as_str);
    assert_eq!(check_imported_together(first(4)), Ok(()));
    assert_eq!(
        check_imported_together(first(5)),
        Err(ImportedHashError::Costs(5))
    );
}
