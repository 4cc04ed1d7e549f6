use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use super::*;
use crate::tls::acme::{Ca, KeyType};
use crate::tls::testing::Authority;
use crate::tls::{Certificate, SubjectName};

/// Doors that open once, and panic when they are asked again.
#[derive(Default)]
struct Rusty {
    asked: AtomicUsize,
}

impl Doors for Rusty {
    fn open_http(&self) -> BoxFuture<'_, Result<Vec<SocketAddr>, String>> {
        assert_eq!(
            self.asked.fetch_add(1, SeqCst),
            0,
            "a panic that was asked for"
        );
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn close_http(&self) {}

    fn tls_addresses(&self) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, 1], 443))]
    }
}

/// A CA where nobody is.
fn nowhere() -> Ca {
    Ca {
        directory: "https://127.0.0.1:1/dir".to_owned(),
        root: None,
        contact: Vec::new(),
        external_account: None,
        hook: None,
        resolvers: vec![SocketAddr::from(([127, 0, 0, 1], 1))],
    }
}

fn wanted(slot: &str, challenge: Challenge) -> Wanted {
    Wanted {
        slot: slot.to_owned(),
        names: BTreeSet::from([SubjectName::parse("127.0.0.1").unwrap()]),
        challenge,
        profile: None,
        reuse_key: true,
        key_type: KeyType::EcdsaP256,
        max_chain_bytes: 8_192,
        max_chain_depth: 4,
    }
}

struct World {
    _directory: tempfile::TempDir,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    renewals: Arc<Renewals>,
}

fn world(
    plan: impl Fn() -> Plan + Send + Sync + 'static,
    private_ca: Option<PrivateRenewal>,
) -> World {
    let directory = tempfile::tempdir().unwrap();
    // The CA's root is a file that is there: the system's may not be.
    let root = directory.path().join("root.pem");
    std::fs::write(&root, Authority::new("root").certificate()).unwrap();
    let (certificates, metrics) = (Certificates::new(), Arc::new(Metrics::default()));
    let renewals = Renewals::new(Parts {
        plan: Box::new(move || {
            let mut plan = plan();
            plan.ca.root = Some(root.clone());
            plan
        }),
        data_directory: directory.path().to_owned(),
        certificates: certificates.clone(),
        challenges: Challenges::new(metrics.clone()).unwrap(),
        doors: Arc::new(Rusty::default()),
        private_ca,
        metrics: metrics.clone(),
    });
    World {
        _directory: directory,
        certificates,
        metrics,
        renewals,
    }
}

#[tokio::test]
async fn a_panic_in_one_attempt_is_a_failed_attempt_and_the_next_certificate_has_its_turn() {
    let world = world(
        || Plan {
            ca: nowhere(),
            certificates: vec![
                wanted("one", Challenge::Http01),
                wanted("two", Challenge::TlsAlpn01),
            ],
        },
        None,
    );
    world.renewals.clone().pass().await;
    let statuses = world.renewals.statuses();
    let error = |slot: &str| statuses[slot].last_error.clone().unwrap();
    assert!(error("one").contains("panicked"), "{}", error("one"));
    assert!(error("two").contains("127.0.0.1:1"), "{}", error("two"));
    assert_eq!(world.metrics.certificate_renewals_failed.get(), 2);
    let problems = world.certificates.problems();
    assert!(
        problems["two"].contains("the private CA's certificate"),
        "{problems:?}"
    );
    // What never reached the CA is tried again within minutes.
    let now = unix_seconds(SystemTime::now());
    assert!((now..now + 90).contains(&statuses["two"].next.unwrap()));
}

#[tokio::test]
async fn the_loop_survives_a_panic_of_its_own() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    let world = world(
        move || {
            assert_ne!(
                counted.fetch_add(1, SeqCst),
                0,
                "a panic that was asked for"
            );
            Plan {
                ca: nowhere(),
                certificates: Vec::new(),
            }
        },
        None,
    );
    let running = tokio::spawn(world.renewals.clone().run());
    let deadline = Instant::now() + Duration::from_secs(20);
    while looks.load(SeqCst) < 2 {
        assert!(Instant::now() < deadline, "the loop is dead");
        world.renewals.wake();
        tokio::task::yield_now().await;
    }
    assert!(!running.is_finished());
    running.abort();
}

// C4
#[tokio::test]
async fn the_private_ca_s_certificate_is_looked_after_by_the_same_loop_once_an_hour() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let renew: PrivateRenewal = Arc::new(move || match counted.fetch_add(1, SeqCst) {
        0 => Ok(true),
        _ => Err(TlsError::Random),
    });
    let empty = || Plan {
        ca: nowhere(),
        certificates: Vec::new(),
    };
    let world = world(empty, Some(renew));
    world.renewals.clone().pass().await;
    world.renewals.clone().pass().await;
    assert_eq!(calls.load(SeqCst), 1, "the hour is not over");
    assert_eq!(world.metrics.certificate_renewals.get(), 1);
    let hour_ago = SystemTime::now() - PRIVATE_EVERY;
    world.renewals.private.lock().looked = Some(hour_ago);
    world.renewals.clone().pass().await;
    assert_eq!(calls.load(SeqCst), 2);
    let problems = world.certificates.problems();
    assert!(
        problems[Certificates::DEFAULT_SLOT].contains("random number"),
        "{problems:?}"
    );
    // A clock that was set back does not stop it.
    world.renewals.private.lock().looked = Some(SystemTime::now() + 2 * PRIVATE_EVERY);
    world.renewals.clone().pass().await;
    assert_eq!(calls.load(SeqCst), 3);
}

#[tokio::test]
async fn a_certificate_that_is_wanted_no_more_is_served_no_more() {
    let authority = Authority::new("CA");
    let pair = authority.ecdsa(&["127.0.0.1"]);
    let gone = Arc::new(AtomicUsize::new(0));
    let asked = gone.clone();
    let world = world(
        move || Plan {
            ca: nowhere(),
            certificates: match asked.load(SeqCst) {
                0 => vec![wanted("own", Challenge::TlsAlpn01)],
                _ => Vec::new(),
            },
        },
        None,
    );
    world
        .renewals
        .store
        .save("own", &pair.chain, &pair.key)
        .unwrap();
    world.renewals.load();
    world.renewals.clone().pass().await;
    assert!(world.certificates.get("own").is_some());
    gone.store(1, SeqCst);
    world.renewals.clone().pass().await;
    assert!(world.certificates.get("own").is_none());
    assert!(world.certificates.problems().is_empty());
    assert!(
        world.renewals.store.load("own").unwrap().is_some(),
        "it stays on disk"
    );
}

#[tokio::test]
async fn what_waits_for_consent_is_put_in_force_by_it_and_not_before() {
    let authority = Authority::new("CA");
    let pair = authority.ecdsa(&["127.0.0.1"]);
    let world = world(
        || Plan {
            ca: nowhere(),
            certificates: vec![Wanted {
                max_chain_bytes: 300,
                ..wanted("own", Challenge::TlsAlpn01)
            }],
        },
        None,
    );
    let plan = (world.renewals.parts.plan)();
    let directory = world.renewals.parts.data_directory.join(DIRECTORY);
    let purpose = plan.certificates[0].purpose(&plan.ca);
    let file = crate::tls::acme::state::StateFile::open(&directory, "own", &purpose).unwrap();
    let held = crate::tls::acme::state::Held {
        chain: pair.chain.clone(),
        private_key: pair.key.clone(),
    };
    file.hold(&held).unwrap();
    world.renewals.clone().pass().await;
    assert!(world.certificates.get("own").is_none());
    assert!(world.certificates.problems()["own"].contains("--accept-chain"));
    let renewals = world.renewals.clone();
    renewals.request("own", Request::AcceptChain).await.unwrap();
    let served = world.certificates.get("own").unwrap();
    let expected = Certificate::from_pem(&pair.chain, &pair.key, "x".as_ref()).unwrap();
    assert_eq!(served.sha256(), expected.sha256());
    assert!(world.certificates.problems().is_empty());
    let again = world
        .renewals
        .clone()
        .request("own", Request::AcceptChain)
        .await;
    assert!(again.unwrap_err().contains("no certificate own waits"));
}

#[tokio::test]
async fn an_unknown_certificate_is_refused_with_the_names_there_are() {
    let world = world(
        || Plan {
            ca: nowhere(),
            certificates: vec![wanted("own", Challenge::TlsAlpn01)],
        },
        None,
    );
    let error = world.renewals.clone().request("owm", Request::Force).await;
    assert!(error.unwrap_err().contains("there is own"));
    assert!(world.renewals.preflight("owm").await.is_err());
}

#[tokio::test]
async fn without_a_memory_nothing_is_asked_of_the_ca_and_the_pause_is_kept_all_the_same() {
    // A CA that counts who comes.
    let ca = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    ca.set_nonblocking(true).unwrap();
    let directory = format!("https://{}/dir", ca.local_addr().unwrap());
    let world = world(
        move || Plan {
            ca: Ca {
                directory: directory.clone(),
                ..nowhere()
            },
            certificates: vec![wanted("own", Challenge::TlsAlpn01)],
        },
        None,
    );
    // Where the state should be is a directory, which no file replaces.
    let path = world.renewals.parts.data_directory.join("acme/own.json/x");
    std::fs::create_dir_all(path).unwrap();
    for _ in 0..3 {
        world.renewals.clone().pass().await;
    }
    let status = world.renewals.statuses()["own"].clone();
    assert!(status.last_error.unwrap().contains("own.json"));
    assert_eq!(status.failures, 1, "one attempt, and then the pause");
    assert!(status.next.unwrap() > unix_seconds(SystemTime::now()) + 30);
    let came = ca.accept().unwrap_err().kind();
    assert_eq!(came, std::io::ErrorKind::WouldBlock, "the CA was asked");
}

#[tokio::test]
async fn consent_where_nothing_waits_orders_nothing() {
    let world = world(
        || Plan {
            ca: nowhere(),
            certificates: vec![wanted("own", Challenge::TlsAlpn01)],
        },
        None,
    );
    // It went into force while this one waited for its turn.
    let plan = (world.renewals.parts.plan)();
    let wanted = plan.certificates[0].clone();
    let outcome = world.renewals.one(&plan, wanted, Occasion::Accepted).await;
    assert!(matches!(outcome, Outcome::NotDue), "{outcome:?}");
    assert_eq!(world.metrics.certificate_renewals_failed.get(), 0);
}

#[tokio::test]
async fn a_chain_like_the_one_in_force_needs_no_consent() {
    let authority = Authority::new("CA");
    let world = world(
        || Plan {
            ca: nowhere(),
            certificates: vec![Wanted {
                max_chain_bytes: 300,
                max_chain_depth: 1,
                ..wanted("own", Challenge::TlsAlpn01)
            }],
        },
        None,
    );
    let first = authority.ecdsa(&["127.0.0.1"]);
    let store = &world.renewals.store;
    store.save("own", &first.chain, &first.key).unwrap();
    world.renewals.load();
    let plan = (world.renewals.parts.plan)();
    let directory = world.renewals.parts.data_directory.join(DIRECTORY);
    let purpose = plan.certificates[0].purpose(&plan.ca);
    let hold = |pair: &crate::tls::testing::Pair| {
        let file = crate::tls::acme::state::StateFile::open(&directory, "own", &purpose).unwrap();
        let held = crate::tls::acme::state::Held {
            chain: pair.chain.clone(),
            private_key: pair.key.clone(),
        };
        file.hold(&held).unwrap();
    };
    let served = || world.certificates.get("own").unwrap().sha256();
    let longer = {
        let pair = authority.ecdsa(&["127.0.0.1"]);
        crate::tls::testing::Pair {
            chain: format!("{}{}", pair.chain, authority.certificate()),
            key: pair.key,
        }
    };
    let before = served();
    hold(&longer);
    world.renewals.clone().pass().await;
    assert_eq!(served(), before, "a longer one waits");
    let like = authority.ecdsa(&["127.0.0.1"]);
    hold(&like);
    world.renewals.clone().pass().await;
    assert_eq!(served(), like.load().unwrap().sha256());
}
