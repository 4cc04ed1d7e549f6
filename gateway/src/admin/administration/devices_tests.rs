use std::sync::Arc;

use broker_config::Config;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::DeviceDesk;
use crate::acl::Action;
use crate::admin::{
    AdminError, Administration, Answer, Broker, CertificateDesk, CertificateRequest, Command,
    DeviceCommand, DeviceGiven, DeviceLine, Import, ImportedUser, LiveSessions, NewPassword,
    Question, ReachedBy,
};
use crate::auth::{Credentials, Principal, Refusal, Settings};
use crate::listen::Sightings;
use crate::metrics::Metrics;
use crate::store::StoreError;
use crate::tls::private_ca::signing::KeyRequest;
use crate::tls::{CertificateStore, Certificates, PrivateCa, server_names};

struct World {
    admin: Arc<Administration>,
    sightings: Arc<Sightings>,
    ear: Arc<Ear>,
    config: Arc<Mutex<Config>>,
    dir: TempDir,
}

/// Hears what live sessions are told; every device has published its firmware version.
#[derive(Default)]
struct Ear(Mutex<Vec<String>>);

impl Ear {
    fn note(&self, what: String) -> BoxFuture<'static, ()> {
        self.0.lock().push(what);
        Box::pin(std::future::ready(()))
    }
}

struct Ears(Arc<Ear>);

impl LiveSessions for Ears {
    fn policy_changed(&self) -> BoxFuture<'static, ()> {
        self.0.note("policy".to_owned())
    }
    fn principal_disabled(&self, _: &str, name: &str) -> BoxFuture<'static, ()> {
        self.0.note(format!("disabled {name}"))
    }
    fn roles_changed(&self, _: &str, name: &str) -> BoxFuture<'static, ()> {
        self.0.note(format!("roles {name}"))
    }
    fn password_changed(&self, _: &str, name: &str) -> BoxFuture<'static, ()> {
        self.0.note(format!("password {name}"))
    }
    fn certificates_changed(&self, _: Vec<[u8; 32]>) -> BoxFuture<'static, ()> {
        self.0.note("certificates".to_owned())
    }
    fn retained_on(
        &self,
        topics: Vec<String>,
        _: usize,
    ) -> BoxFuture<'static, Vec<Option<Box<[u8]>>>> {
        let payload = |topic: &String| {
            let is_lamp = topic == "devices/lamp/firmware";
            is_lamp.then(|| b"published".as_slice().into())
        };
        let found = topics.iter().map(payload).collect();
        Box::pin(std::future::ready(found))
    }
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administration::open(dir.path(), Settings::default())
            .await
            .unwrap();
        let names =
            server_names(&["mqtt.example.org".to_owned(), "new.example.org".to_owned()]).unwrap();
        let ca = PrivateCa::open(dir.path(), names).unwrap();
        let certificates = Certificates::load(&ca.source()).unwrap();
        let store = CertificateStore::new(dir.path());
        admin.attach_certificates(Arc::new(CertificateDesk::new(certificates, store)));
        let config = Arc::new(Mutex::new(Config::default()));
        let now = config.clone();
        let sightings = Arc::new(Sightings::default());
        admin.attach_devices(DeviceDesk {
            broker: Box::new(move || Broker::of(&now.lock(), |_| None)),
            sightings: Some(sightings.clone()),
        });
        let ear = Arc::new(Ear::default());
        admin.attach(Arc::new(Ears(ear.clone())));
        World {
            admin,
            sightings,
            ear,
            config,
            dir,
        }
    }

    async fn run(&self, command: DeviceCommand) -> Result<Answer, AdminError> {
        self.admin.execute("test", Command::Device(command)).await
    }

    async fn given(&self, command: DeviceCommand) -> DeviceGiven {
        match self.run(command).await.unwrap() {
            Answer::Given(given) => *given,
            other => panic!("{other:?}"),
        }
    }

    async fn add(&self, name: &str, roles: &[&str]) -> DeviceGiven {
        self.given(add(name, roles, None)).await
    }

    async fn list(&self) -> Vec<DeviceLine> {
        match self.run(DeviceCommand::List { after: None }).await.unwrap() {
            Answer::Devices { devices, more } => {
                assert!(!more);
                devices
            }
            other => panic!("{other:?}"),
        }
    }

    async fn login(&self, name: &str, secret: &str) -> Result<Principal, Refusal> {
        let credentials = Credentials {
            username: Some(name),
            password: Some(secret.as_bytes()),
            certificate: None,
        };
        let authenticator = self.admin.authenticator();
        authenticator.authenticate(credentials, None).await
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.ear.0.lock())
    }
}

fn add(name: &str, roles: &[&str], certificate: Option<CertificateRequest>) -> DeviceCommand {
    DeviceCommand::Add {
        name: name.to_owned(),
        roles: roles.iter().map(|role| role.to_string()).collect(),
        certificate,
        reach: ReachedBy::default(),
    }
}

fn rotate(name: &str) -> DeviceCommand {
    DeviceCommand::Rotate {
        name: name.to_owned(),
        reach: ReachedBy::default(),
    }
}

fn revoke(name: &str) -> DeviceCommand {
    DeviceCommand::Revoke {
        name: name.to_owned(),
    }
}

#[tokio::test]
async fn what_is_given_for_a_device_lets_it_in_with_its_topics_alone() {
    let world = World::new().await;
    let given = world.add("lamp", &[]).await;
    assert_eq!(given.roles, ["device"]);
    assert_eq!(given.publish, ["devices/lamp/#", "mqtt_tx_lamp"]);
    assert_eq!(given.subscribe, ["devices/lamp/#", "mqtt_rx_lamp"]);
    assert_eq!(given.place.host, "mqtt.example.org");
    assert_eq!(given.secret.0.len(), "pst_".len() + 52);
    let principal = world.login("lamp", &given.secret.0).await.unwrap();
    assert_eq!(principal.device.as_deref(), Some("lamp"));
    // P1
    let policy = world.admin.policy().load();
    let permissions = policy.permissions(&crate::acl::Subject {
        realm: "local",
        name: "lamp",
        client_id: "other",
        device: principal.device.as_deref(),
        roles: &principal.roles,
        scopes: &[],
    });
    for (topic, expected) in [
        ("devices/lamp/state", true),
        ("mqtt_tx_lamp", true),
        ("mqtt_rx_lamp", false),
        ("devices/lamp2/state", false),
        ("devices/other/state", false),
        ("mqtt_tx_other", false),
    ] {
        assert_eq!(permissions.publish(topic).allowed, expected, "{topic}");
    }
    for (filter, expected) in [
        ("devices/lamp/#", true),
        ("mqtt_rx_lamp", true),
        ("mqtt_tx_lamp", false),
        ("devices/+/state", false),
        ("#", false),
    ] {
        assert_eq!(permissions.subscribe(filter).allowed, expected, "{filter}");
    }
    let question = Question::new("lamp", Action::Publish, "devices/lamp/state");
    let explain = Command::Explain(question);
    match world.admin.execute("test", explain).await.unwrap() {
        Answer::Explanation(explanation) => assert!(explanation.allowed, "{explanation:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_role_of_its_own_replaces_the_usual_one_and_one_without_rules_is_warned_of() {
    let world = World::new().await;
    let given = world.add("lamp", &["lights"]).await;
    assert_eq!(given.roles, ["lights"]);
    assert!(given.publish.is_empty() && given.subscribe.is_empty());
    let warnings = given.warnings.join("\n");
    assert!(warnings.contains("no rule allows lamp"), "{warnings}");
    let rules = world.admin.policy().load().rules().count();
    assert_eq!(rules, 3, "the role device was not asked for");
}

// P1
#[tokio::test]
async fn a_name_that_is_no_topic_level_or_taken_is_refused_with_nothing_made() {
    let world = World::new().await;
    world.add("lamp", &[]).await;
    for bad in ["", "a/b", "$SYS", "+"] {
        let refused = world.run(add(bad, &[], None)).await.unwrap_err();
        assert!(refused.to_string().contains("device id"), "{refused}");
    }
    let taken = world.run(add("lamp", &[], None)).await.unwrap_err();
    assert!(
        matches!(taken, AdminError::Store(StoreError::NameTaken(_))),
        "{taken}"
    );
    assert_eq!(world.list().await.len(), 1);
}

#[tokio::test]
async fn a_device_is_no_user_to_the_commands_that_would_spoil_it() {
    let world = World::new().await;
    let given = world.add("lamp", &[]).await;
    let name = || "lamp".to_owned();
    for (command, verb) in [
        (
            Command::SetPassword {
                name: name(),
                password: NewPassword::Generated,
            },
            "postern device rotate lamp",
        ),
        (
            Command::RemoveUser { name: name() },
            "postern device revoke lamp",
        ),
    ] {
        let refused = world.admin.execute("test", command).await.unwrap_err();
        assert!(refused.to_string().contains(verb), "{refused}");
    }
    let import = Import {
        users: vec![ImportedUser {
            name: name(),
            hash: "$7$101$MPgamSnFibpsTeyg$lpmPfc7F1Mtkpg5JKJAFHc4m41MmpfvCPo6J9E4As2x9Javgg2flI4gNrBuiGdfeIAeCOoA3lM4rpEk0+bRxrw==".to_owned(),
            roles: Vec::new(),
            disabled: false,
        }],
        rules: Vec::new(),
        replace: true,
    };
    let refused = world.admin.import("test", import).await.unwrap_err();
    assert!(matches!(refused, AdminError::IsDevice { .. }), "{refused}");
    world.login("lamp", &given.secret.0).await.unwrap();
    // And a user is no device.
    let command = Command::AddUser {
        name: "ann".to_owned(),
        password: NewPassword::Generated,
        roles: Vec::new(),
    };
    world.admin.execute("test", command).await.unwrap();
    let disable = DeviceCommand::Disable {
        name: "ann".to_owned(),
    };
    for command in [rotate("ann"), revoke("ann"), disable] {
        let refused = world.run(command).await.unwrap_err();
        assert!(
            refused.to_string().contains("no device \"ann\""),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn rotation_ends_the_old_secret_and_the_sessions_that_used_it_hear_of_it() {
    let world = World::new().await;
    let first = world.add("lamp", &[]).await.secret.0;
    world.told();
    let second = world.given(rotate("lamp")).await.secret.0;
    assert_eq!(world.told(), ["password lamp"]);
    assert_eq!(
        world.login("lamp", &first).await.unwrap_err(),
        Refusal::BadCredentials
    );
    world.login("lamp", &second).await.unwrap();
    assert!(world.list().await[0].rotated_at.is_some());
}

// P3
#[tokio::test]
async fn a_revoked_device_has_no_secret_no_certificate_and_no_session() {
    let world = World::new().await;
    let key = KeyRequest::generate().unwrap();
    let request = CertificateRequest {
        request: key.request.clone(),
        days: None,
    };
    let given = world.given(add("lamp", &[], Some(request))).await;
    let issued = given.certificate.unwrap();
    assert!(
        issued
            .certificate
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
    assert_eq!(given.warnings.len(), 2, "{:?}", given.warnings);
    world.told();
    let message = match world.run(revoke("lamp")).await.unwrap() {
        Answer::Done { message, warnings } => {
            assert_eq!(warnings, [""; 0]);
            message
        }
        other => panic!("{other:?}"),
    };
    assert!(message.contains("its certificate"), "{message}");
    assert_eq!(
        world.told(),
        ["certificates", "disabled lamp"],
        "the certificate first: it would let in a client without an account"
    );
    assert_eq!(
        world.login("lamp", &given.secret.0).await.unwrap_err(),
        Refusal::BadCredentials
    );
    assert_eq!(world.admin.revoked_fingerprints().await.unwrap().len(), 1);
    assert!(world.list().await.is_empty());
    // The name is free for another one, which inherits nothing.
    let again = world.add("lamp", &[]).await;
    assert_ne!(again.secret.0, given.secret.0);
}

#[tokio::test]
async fn a_device_that_is_to_have_a_certificate_and_cannot_get_one_is_not_made() {
    let world = World::new().await;
    let request = CertificateRequest {
        request: "nonsense".to_owned(),
        days: None,
    };
    world
        .run(add("lamp", &[], Some(request)))
        .await
        .unwrap_err();
    let request = CertificateRequest {
        request: KeyRequest::generate().unwrap().request.clone(),
        days: Some(0),
    };
    let refused = world.run(add("lamp", &[], Some(request))).await;
    assert!(matches!(refused, Err(AdminError::Days { .. })));
    assert!(world.list().await.is_empty());
    // A certificate of a server of the same name is none of the device's.
    let server = Command::IssueCertificate {
        kind: crate::admin::CertificateKind::Server,
        name: "lamp".to_owned(),
        names: Vec::new(),
        days: None,
        request: KeyRequest::generate().unwrap().request.clone(),
    };
    world.admin.execute("test", server).await.unwrap();
    world.add("lamp", &[]).await;
    world.run(revoke("lamp")).await.unwrap();
    assert!(world.admin.revoked_fingerprints().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_disabled_device_is_kept_out_until_it_is_enabled() {
    let world = World::new().await;
    let secret = world.add("lamp", &[]).await.secret.0;
    world.told();
    let name = || "lamp".to_owned();
    world
        .run(DeviceCommand::Disable { name: name() })
        .await
        .unwrap();
    assert_eq!(world.told(), ["disabled lamp"]);
    assert_eq!(
        world.login("lamp", &secret).await.unwrap_err(),
        Refusal::Banned
    );
    assert!(world.list().await[0].disabled);
    world
        .run(DeviceCommand::Enable { name: name() })
        .await
        .unwrap();
    world.login("lamp", &secret).await.unwrap();
}

#[tokio::test]
async fn a_new_device_is_told_the_name_that_the_configuration_says_now() {
    let world = World::new().await;
    assert_eq!(world.add("fan", &[]).await.place.host, "mqtt.example.org");
    world.config.lock().acme.domains = vec!["new.example.org".to_owned()];
    assert_eq!(world.add("lamp", &[]).await.place.host, "new.example.org");
}

#[tokio::test]
async fn the_list_shows_what_was_seen_before_and_after_it_was_written_down() {
    let world = World::new().await;
    for name in ["fan", "lamp"] {
        world.add(name, &[]).await;
    }
    let address = "192.0.2.7".parse().unwrap();
    let sighting = world
        .sightings
        .came("fan".into(), address, Some("1.0".into()));
    let listed = world.list().await;
    let (fan, lamp) = (&listed[0], &listed[1]);
    assert!(fan.connected && fan.seen_at.is_some());
    assert_eq!(fan.address.as_deref(), Some("192.0.2.7"));
    assert_eq!(fan.firmware.as_deref(), Some("1.0"));
    assert_eq!((lamp.connected, lamp.seen_at), (false, None));
    assert_eq!(lamp.firmware.as_deref(), Some("published"));

    drop(sighting);
    let metrics = Metrics::default();
    let write = crate::admin::sightings::write(&world.admin, &world.sightings, &metrics);
    write.await;
    assert_eq!(metrics.device_sightings.get(), 1);
    assert!(world.sightings.take().is_empty());
    let stored = world.list().await;
    assert!(!stored[0].connected);
    assert_eq!(
        (&stored[0].address, &stored[0].firmware),
        (&fan.address, &fan.firmware)
    );
}

#[tokio::test]
async fn a_storm_of_devices_is_written_down_in_a_few_statements() {
    let world = World::new().await;
    // One that is there, and very many that were revoked meanwhile.
    world.add("lamp", &[]).await;
    let address = "192.0.2.7".parse().unwrap();
    for n in 0..2_500 {
        drop(
            world
                .sightings
                .came(format!("gone-{n}").into(), address, None),
        );
    }
    drop(world.sightings.came("lamp".into(), address, None));
    let metrics = Metrics::default();
    crate::admin::sightings::write(&world.admin, &world.sightings, &metrics).await;
    assert_eq!(metrics.device_sightings.get(), 1);
    assert!(world.list().await[0].seen_at.is_some());

    // What cannot be written waits.
    drop(world.sightings.came("lamp".into(), address, None));
    world.admin.close().await;
    crate::admin::sightings::write(&world.admin, &world.sightings, &metrics).await;
    assert_eq!(world.sightings.take().len(), 1);
    drop(world.dir);
}
