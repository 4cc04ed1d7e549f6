use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Choices, Class, ImportError, Kind, Plan, Replay, plan, replay};
use crate::acl::Effect;

const HASH: &str = "$6$NbvgUjim0o9izJSa$Z6KItf3cl4FwwRrOO6/1k2KUz+iJ9lj29st8IxQ1Np0i1ZGRkna7J8iPci1DPOnlQZguOusggwmKmXZ3jDQXtA==";

/// A folder with files of Mosquitto's; `DIR` in them stands for it.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Files {
        let all = Files(tempfile::tempdir().unwrap());
        for (name, text) in files {
            all.write(name, text);
        }
        all
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(
            path,
            text.replace("DIR", &self.0.path().display().to_string()),
        )
        .unwrap();
    }

    fn conf(&self) -> PathBuf {
        self.0.path().join("mosquitto.conf")
    }

    fn try_plan(&self, change: impl Fn(&mut Choices)) -> Result<Plan, ImportError> {
        let mut choices = Choices {
            listener: None,
            role: "mosquitto".to_owned(),
            anonymous_role: "anonymous".to_owned(),
            skip: BTreeSet::new(),
            replace: false,
        };
        change(&mut choices);
        plan(&self.conf(), &choices)
    }

    fn plan(&self) -> Plan {
        self.try_plan(|_| {}).unwrap()
    }

    fn error(&self) -> String {
        match self.try_plan(|_| {}) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it was read"),
        }
    }
}

fn texts(plan: &Plan, kind: Kind) -> String {
    let found = plan.findings.iter().filter(|finding| finding.kind == kind);
    found.map(|finding| format!("{finding}\n")).collect()
}

fn rules(plan: &Plan) -> Vec<String> {
    let line = |rule: &crate::admin::RuleLine| {
        format!(
            "{} {} {} for {}",
            rule.effect, rule.action, rule.filter, rule.who
        )
    };
    plan.import.rules.iter().map(line).collect()
}

fn replayed(plan: &Plan) -> Replay {
    replay(plan, &[])
}

#[test]
fn listeners_tls_files_and_limits_become_settings() {
    let files = Files::new(&[
        (
            "mosquitto.conf",
            "per_listener_settings false\nmax_queued_messages 500\nmax_keepalive 120\nsys_interval 30\n\
             persistent_client_expiration 2w\nmax_inflight_messages 0\n\
             listener 1883 localhost\nmax_connections 10\n\
             listener 8883\ncertfile /etc/ssl/a \"b\".pem\nkeyfile /etc/ssl/key.pem\ntls_version tlsv1.3\nmax_connections 20\n\
             listener 9001 192.0.2.1\nprotocol websockets\nmax_connections 5\n\
             listener 8884\ncafile ca.pem\ncertfile other.pem\nkeyfile other.key\ntls_version tlsv1.3\nrequire_certificate true\n\
             use_identity_as_username true\nmax_connections 5\n\
             listener 0 /run/mosquitto.sock\nmax_connections 1\ninclude_dir DIR/conf.d\n",
        ),
        (
            "conf.d/b.conf",
            "listener 1885 broker.example.org\nmax_connections 1\n",
        ),
        (
            "conf.d/a.conf",
            "listener 1884 127.0.0.1\nmax_connections 8\n",
        ),
        ("conf.d/notes.txt", "not read\n"),
    ]);
    let plan = files.plan();
    for expected in [
        "[listeners.mqtt]\nbind = [\"127.0.0.1:1883\", \"[::1]:1883\"]\nprotocol = \"mqtt\"\ntls = false\n",
        "[listeners.mqtt-1884]\nbind = [\"127.0.0.1:1884\"]\n",
        "[listeners.mqtts]\nbind = [\"[::]:8883\"]\n",
        "[listeners.mqtts-8884]\nbind = [\"[::]:8884\"]\nenabled = false\n",
        "[listeners.ws]\nallow_plain_remote = true\nbind = [\"192.0.2.1:9001\"]\n",
        "certificate = \"/etc/ssl/a \\\"b\\\".pem\"\nmin_version = \"1.3\"\nprivate_key = \"/etc/ssl/key.pem\"\n",
        "max_connections = 50\nmax_queued_messages = 500\n",
        "[session]\nexpiry_max = \"336h\"\nmax_keep_alive = \"120s\"\n",
        "[sys]\ninterval = \"30s\"\n",
    ] {
        assert!(
            plan.settings.contains(expected),
            "{expected}\n---\n{}",
            plan.settings
        );
    }
    assert!(
        !plan.settings.contains("[auth]"),
        "anonymous clients are not let in: {}",
        plan.settings
    );
    let unmapped = texts(&plan, Kind::Unmapped);
    for expected in [
        "port 8884",
        "Unix sockets",
        "broker.example.org",
        "max_inflight_messages 0",
    ] {
        assert!(unmapped.contains(expected), "{expected}\n---\n{unmapped}");
    }
    assert!(!unmapped.contains("need a correction"), "{unmapped}");
    assert!(broker_config::Config::parse(&plan.settings, "plan").is_ok());
}

#[test]
fn a_listener_whose_users_were_not_taken_stays_shut() {
    let files = Files::new(&[
        (
            "mosquitto.conf",
            "per_listener_settings true\nlistener 1883 127.0.0.1\nallow_anonymous true\n\
             listener 8883\nallow_anonymous false\npassword_file DIR/pw\nacl_file DIR/acl\n",
        ),
        ("pw", &format!("ann:{HASH}\n")),
        ("acl", "user ann\ntopic readwrite a/#\n"),
    ]);
    let plan = files
        .try_plan(|choices| choices.listener = Some(1883))
        .unwrap();
    let shut = plan.settings.split("[listeners.").any(|section| {
        section.contains("bind = [\"[::]:8883\"]") && section.contains("enabled = false")
    });
    assert!(shut, "{}", plan.settings);
}

#[test]
fn a_client_identifier_that_was_the_user_name_is_a_restriction_that_would_be_lost() {
    let conf =
        |option: &str| format!("listener 1883\npassword_file DIR/pw\nacl_file DIR/acl\n{option}");
    let wider = |option: &str, acl: &str| {
        let files = Files::new(&[
            ("mosquitto.conf", &conf(option)),
            ("pw", &format!("ann:{HASH}\n")),
            ("acl", acl),
        ]);
        let is_wider = |finding: &super::Finding| finding.kind == Kind::Wider;
        files.plan().findings.iter().any(is_wider)
    };
    let by_client_id = "pattern readwrite devices/%c/#\n";
    assert!(wider("use_username_as_clientid true\n", by_client_id));
    assert!(!wider("use_username_as_clientid false\n", by_client_id));
    assert!(!wider(
        "use_username_as_clientid true\n",
        "pattern readwrite devices/%u/#\n"
    ));
}

#[test]
fn a_broker_without_listeners_is_open_on_loopback() {
    let plan = Files::new(&[("mosquitto.conf", "# nothing\n")]).plan();
    assert!(plan.anonymous);
    assert!(
        plan.settings
            .contains("bind = [\"127.0.0.1:1883\", \"[::1]:1883\"]"),
        "{}",
        plan.settings
    );
    assert!(rules(&plan).contains(&"allow publish # for role:anonymous".to_owned()));
    let replay = replayed(&plan);
    assert_eq!(
        (replay.wider, replay.narrower, replay.refused),
        (0, 0, 0),
        "{replay:?}"
    );
}

#[test]
fn a_restriction_that_is_lost_is_called_wider_and_an_unknown_plugin_opens_nothing() {
    let plan = Files::new(&[(
        "mosquitto.conf",
        "listener 1883\nmount_point inner/\nclientid_prefixes secure-\n",
    )])
    .plan();
    let wider = texts(&plan, Kind::Wider);
    assert!(
        wider.contains("mount_point") && wider.contains("clientid_prefixes"),
        "{wider}"
    );

    let files = Files::new(&[
        (
            "mosquitto.conf",
            "listener 1883\npassword_file DIR/pw\nauth_plugin /usr/lib/go-auth.so\nauth_opt_backends jwt\n",
        ),
        ("pw", &format!("ann:{HASH}\n")),
    ]);
    let plan = files.plan();
    assert!(rules(&plan).is_empty(), "{:?}", rules(&plan));
    assert!(texts(&plan, Kind::Unmapped).contains("go-auth.so"));
    assert_eq!(plan.import.users.len(), 1);
}

#[test]
fn the_plugins_of_2_1_that_read_the_old_files_are_known() {
    let files = Files::new(&[
        (
            "mosquitto.conf",
            "listener 1883\nplugin /usr/lib/mosquitto_password_file.so\nplugin_opt_password_file DIR/pw\n\
             plugin /usr/lib/mosquitto_acl_file.so\nplugin_opt_acl_file DIR/acl\n",
        ),
        ("pw", &format!("ann:{HASH}\n")),
        ("acl", "user ann\ntopic read a\n"),
    ]);
    let plan = files.plan();
    assert_eq!(rules(&plan), ["allow subscribe a for user:local:ann"]);
    assert_eq!(plan.import.users.len(), 1);
    assert!(!texts(&plan, Kind::Unmapped).contains("plugin"));
}

#[test]
fn bridges_are_reported_with_their_topics_and_without_their_passwords() {
    let plan = Files::new(&[(
        "mosquitto.conf",
        "listener 1883\nconnection cloud\naddress cloud.example.org:8883\ntopic a/# out 1\ntopic b/# in 1\nremote_username u\n\
         remote_password hunter2\nbridge_psk cafe1234\n",
    )])
    .plan();
    let unmapped = texts(&plan, Kind::Unmapped);
    assert!(
        unmapped.contains("cloud to cloud.example.org:8883 (topics: a/# out 1, b/# in 1)"),
        "{unmapped}"
    );
    let everything = format!("{:?}", plan.findings);
    assert!(
        !everything.contains("hunter2") && !everything.contains("cafe1234"),
        "{everything}"
    );
}

#[test]
fn errors_name_the_file_and_the_line() {
    let conf = "listener 1883\nacl_file DIR/acl\npassword_file DIR/pw\n";
    for (acl, part) in [
        ("topic read a/#\nuser\n", "acl:2: user without a name"),
        ("topic\n", "acl:1: \"\" is not a topic filter"),
        (
            "\n\ntopic sometimes a\n",
            "acl:3: \"sometimes\" is neither read",
        ),
        (
            "topic read a/#/b\n",
            "acl:1: \"a/#/b\" is not a topic filter",
        ),
        (
            "Topic a\n",
            "acl:1: \"Topic\" is neither user, topic nor pattern",
        ),
    ] {
        let error = Files::new(&[("mosquitto.conf", conf), ("acl", acl), ("pw", "")]).error();
        assert!(error.contains(part), "{error}");
    }
    for (conf, part) in [
        (
            "listener 99999\n",
            "mosquitto.conf:1: \"99999\" is not a port",
        ),
        (
            "listener 1883\nallow_anonymous yes\n",
            "mosquitto.conf:2: allow_anonymous is \"yes\"",
        ),
        (
            "listener 1883\npassword_file\n",
            "mosquitto.conf:2: \"password_file\" has no value",
        ),
        (
            "address x\n",
            "mosquitto.conf:1: address before any connection",
        ),
        (
            "listener 1883\nacl_file DIR/missing\n",
            "missing: No such file",
        ),
        ("plugin_opt_config_file x\n", "before any plugin"),
    ] {
        let error = Files::new(&[("mosquitto.conf", conf)]).error();
        assert!(error.contains(part), "{error}");
    }
    let files = Files::new(&[("mosquitto.conf", "listener 1883\n")]);
    fs::write(files.conf(), b"listener 1883\n\nlog_dest \xff\n").unwrap();
    assert!(
        files.error().contains("mosquitto.conf:3: it is not UTF-8"),
        "{}",
        files.error()
    );
    fs::write(files.conf(), vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert!(
        files.error().contains("more than 1048576 bytes"),
        "{}",
        files.error()
    );
}

#[test]
fn with_settings_per_listener_one_must_be_chosen_unless_they_are_the_same() {
    let files = Files::new(&[
        (
            "mosquitto.conf",
            "per_listener_settings true\nlistener 1883 127.0.0.1\nallow_anonymous true\nlistener 8883\nallow_anonymous false\n\
             password_file DIR/pw\n",
        ),
        ("pw", &format!("ann:{HASH}\n")),
    ]);
    assert!(
        files.error().contains("--listener PORT"),
        "{}",
        files.error()
    );
    let error = files
        .try_plan(|choices| choices.listener = Some(1))
        .err()
        .unwrap();
    assert!(error.to_string().contains("1883, 8883"), "{error}");
    let open = files
        .try_plan(|choices| choices.listener = Some(1883))
        .unwrap();
    assert!(open.anonymous && open.import.users.is_empty());
    let closed = files
        .try_plan(|choices| choices.listener = Some(8883))
        .unwrap();
    assert!(!closed.anonymous && closed.import.users.len() == 1);
}

// I3
#[test]
fn users_that_cannot_be_had_are_left_out_with_the_reason_and_never_a_hash() {
    let expensive = HASH.replace("$6$", "$7$2000000$");
    let files = Files::new(&[
        (
            "mosquitto.conf",
            "listener 1883\npassword_file DIR/pw\nacl_file DIR/acl\n",
        ),
        (
            "pw",
            &format!(
                "# comment\nann:{HASH}\nbob:{expensive}\nplain:password\nempty:\nno colon\n{}:{HASH}\nskipped:{HASH}\n\
                 a+b:{HASH}\n",
                "x".repeat(300)
            ),
        ),
        (
            "acl",
            "user skipped\ntopic #\nuser ann\ntopic a\npattern read p/#\n",
        ),
    ]);
    let plan = files
        .try_plan(|choices| choices.skip = BTreeSet::from(["skipped".to_owned()]))
        .unwrap();
    let names: Vec<_> = plan
        .import
        .users
        .iter()
        .map(|user| user.name.as_str())
        .collect();
    assert_eq!(names, ["a+b", "ann"]);
    // Mosquitto gives such a name no pattern at all.
    assert!(plan.import.users[0].roles.is_empty() && plan.import.users[1].roles == ["mosquitto"]);
    let unmapped = texts(&plan, Kind::Unmapped);
    for expected in [
        "\"bob\" is left out",
        "2000000 iterations",
        "\"plain\" is left out",
        "\"empty\"",
        "255 bytes",
        "pw:3",
    ] {
        assert!(unmapped.contains(expected), "{expected}\n---\n{unmapped}");
    }
    assert!(
        !rules(&plan).iter().any(|rule| rule.contains("skipped")),
        "{:?}",
        rules(&plan)
    );
    assert!(
        !format!("{:?}", plan.findings).contains("Z6KItf3c"),
        "no hash"
    );
    assert_eq!(replayed(&plan).wider, 0);
}

#[test]
fn percent_signs_of_topics_are_no_variables_and_those_of_patterns_are() {
    let files = Files::new(&[
        (
            "mosquitto.conf",
            "listener 1883\npassword_file DIR/pw\nacl_file DIR/acl\nallow_anonymous true\n",
        ),
        ("pw", &format!("ann:{HASH}\n")),
        (
            "acl",
            "user ann\ntopic read literal/%u/%x\npattern write p/%u/%c/50%\npattern deny q/%u\npattern write $SYS/%c\n",
        ),
    ]);
    let plan = files.plan();
    assert_eq!(
        rules(&plan),
        [
            "allow subscribe literal/%%u/%%x for user:local:ann",
            "allow publish p/%u/%c/50%% for role:mosquitto",
            "deny publish q/%u for role:mosquitto",
            "deny subscribe q/%u for role:mosquitto",
        ]
    );
    assert!(texts(&plan, Kind::Unmapped).contains("$SYS/%c"));
    let replay = replayed(&plan);
    assert_eq!((replay.wider, replay.narrower), (0, 0), "{replay:?}");
}

// P1
#[test]
fn a_deny_by_name_holds_for_a_name_with_a_slash_as_well() {
    let files = Files::new(&[
        (
            "mosquitto.conf",
            "listener 1883\npassword_file DIR/pw\nacl_file DIR/acl\n",
        ),
        ("pw", &format!("a/b:{HASH}\n")),
        ("acl", "pattern readwrite #\npattern deny 5%/%u/y\n"),
    ]);
    let plan = files.plan();
    let deny = "deny publish 5%%/a/b/y for user:local:a/b".to_owned();
    assert!(rules(&plan).contains(&deny), "{:?}", rules(&plan));
    assert_eq!(replayed(&plan).wider, 0);
}

#[test]
fn a_rule_that_is_here_already_counts_in_the_replay() {
    let files = Files::new(&[
        (
            "mosquitto.conf",
            "listener 1883\npassword_file DIR/pw\nacl_file DIR/acl\n",
        ),
        ("pw", &format!("ann:{HASH}\n")),
        ("acl", "user ann\ntopic read a/b\n"),
    ]);
    let plan = files.plan();
    assert_eq!(replayed(&plan).wider, 0);
    let open = crate::admin::RuleLine {
        id: 7,
        effect: Effect::Allow,
        action: crate::acl::Action::Publish,
        filter: "a/#".to_owned(),
        who: "everyone".to_owned(),
    };
    let replay = replay(&plan, &[open]);
    assert!(replay.wider > 0);
    let first = replay
        .differences
        .iter()
        .find(|difference| difference.class == Class::Wider)
        .unwrap();
    assert!(first.reason.contains("by rule 7"), "{first:?}");
}

fn dynsec(json: &str) -> Files {
    Files::new(&[
        (
            "mosquitto.conf",
            "listener 1883\nplugin /usr/lib/mosquitto_dynamic_security.so\nplugin_opt_config_file DIR/ds.json\nallow_anonymous true\n",
        ),
        ("ds.json", json),
    ])
}

#[test]
fn what_the_plugin_knows_and_rules_cannot_say_is_reported() {
    let json = format!(
        r#"{{"clients":[{{"username":"ann","encoded_password":"{HASH}","clientid":"only-this","roles":[{{"rolename":"a b"}},
        {{"rolename":"a-b"}}]}},{{"username":"none"}}],
        "roles":[{{"rolename":"a b","allowwildcardsubs":false,"acls":[
        {{"acltype":"publishClientSend","topic":"$CONTROL/x","allow":true}},
        {{"acltype":"subscribePattern","topic":"u/%u/#","allow":true}},
        {{"acltype":"subscribeLiteral","topic":"l/%u/#","allow":true}}]}},{{"rolename":"a-b","acls":[]}}],
        "groups":[{{"groupname":"g","roles":[{{"rolename":"a-b"}}],"clients":[]}}],"anonymousGroup":"g",
        "defaultACLAccess":{{"publishClientSend":true,"publishClientReceive":true,"subscribe":false,"unsubscribe":true}}}}"#
    );
    let plan = dynsec(&json).plan();
    let wider = texts(&plan, Kind::Wider);
    assert!(
        wider.contains("only-this") && wider.contains("forbids wildcards"),
        "{wider}"
    );
    let unmapped = texts(&plan, Kind::Unmapped);
    assert!(
        unmapped.contains("\"none\" has no password") && unmapped.contains("$CONTROL"),
        "{unmapped}"
    );
    assert_eq!(
        rules(&plan),
        [
            "allow subscribe l/%%u/# for role:mosquitto.a-b",
            "allow subscribe u/%u/# for role:mosquitto.a-b",
            "allow publish # for role:mosquitto",
            "allow publish # for role:anonymous",
        ]
    );
    assert_eq!(
        plan.import.users[0].roles,
        ["mosquitto.a-b", "mosquitto.a-b-2", "mosquitto"]
    );
    let broken = dynsec("{\"clients\": [").error();
    assert!(
        broken.contains("ds.json") && broken.contains("line 1"),
        "{broken}"
    );
}

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "+", "ann", "%u"])
}

fn filter() -> impl Strategy<Value = String> {
    let levels = prop::collection::vec(level(), 1..4);
    (levels, any::<bool>()).prop_map(|(levels, all)| levels.join("/") + if all { "/#" } else { "" })
}

fn acl_line() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec!["topic", "pattern"]);
    let access = prop::sample::select(vec!["read", "write", "readwrite", "deny"]);
    let line = (word, access, filter())
        .prop_map(|(word, access, filter)| format!("{word} {access} {filter}"));
    let user = prop::sample::select(vec!["user ann", "user bob"]).prop_map(str::to_owned);
    prop_oneof![5 => line, 1 => user]
}

fn acl_json() -> impl Strategy<Value = String> {
    // A deny of a literal filter with wildcards is left out, and reported.
    let kinds = vec![
        "publishClientSend",
        "publishClientReceive",
        "subscribePattern",
    ];
    (prop::sample::select(kinds), filter(), any::<bool>(), -2..3).prop_map(
        |(kind, filter, allow, priority)| {
            format!(
                r#"{{"acltype":"{kind}","topic":"{filter}","allow":{allow},"priority":{priority}}}"#
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    // P1, P2
    #[test]
    fn no_acl_file_is_imported_as_rules_that_allow_more(
        lines in prop::collection::vec(acl_line(), 0..12),
        anonymous in any::<bool>(),
    ) {
        let files = Files::new(&[
            ("mosquitto.conf", &format!("listener 1883\npassword_file DIR/pw\nacl_file DIR/acl\nallow_anonymous {anonymous}\n")),
            ("pw", &format!("ann:{HASH}\nbob:{HASH}\na/b:{HASH}\na#:{HASH}\n")),
            ("acl", &lines.join("\n")),
        ]);
        let replay = replayed(&files.plan());
        prop_assert_eq!(replay.wider, 0, "{:?}", replay.differences);
    }

    // P1, P2
    #[test]
    fn no_dynamic_security_file_is_imported_as_rules_that_allow_more(
        one in prop::collection::vec(acl_json(), 0..6),
        other in prop::collection::vec(acl_json(), 0..6),
        priorities in (-2..3, -2..3),
        defaults in any::<(bool, bool, bool)>(),
        with_variables in any::<bool>(),
    ) {
        let hash = match with_variables {
            true => format!(r#""encoded_password":"{HASH}""#),
            false => r#""password":"Z6KItf3cl4FwwRrOO6/1k2KUz+iJ9lj29st8IxQ1Np0i1ZGRkna7J8iPci1DPOnlQZguOusggwmKmXZ3jDQXtA==","salt":"NbvgUjim0o9izJSa","iterations":1"#.to_owned(),
        };
        let json = format!(
            r#"{{"clients":[{{"username":"ann",{hash},"roles":[{{"rolename":"one","priority":{}}},{{"rolename":"other","priority":{}}}]}},
            {{"username":"bob",{hash},"roles":[]}}],
            "groups":[{{"groupname":"g","roles":[{{"rolename":"one"}}],"clients":[{{"username":"bob"}}]}}],"anonymousGroup":"g",
            "roles":[{{"rolename":"one","acls":[{}]}},{{"rolename":"other","acls":[{}]}}],
            "defaultACLAccess":{{"publishClientSend":{},"publishClientReceive":{},"subscribe":{}}}}}"#,
            priorities.0, priorities.1, one.join(","), other.join(","), defaults.0, defaults.1, defaults.2
        );
        let plan = dynsec(&json).plan();
        prop_assert_eq!(plan.import.users.len(), 2, "{:?}", plan.findings);
        let replay = replayed(&plan);
        prop_assert_eq!(replay.wider, 0, "{:?}", replay.differences);
    }

    #[test]
    fn no_text_makes_a_reader_panic(conf in ".{0,200}", acl in ".{0,200}", passwords in ".{0,200}", json in ".{0,200}") {
        let files = Files::new(&[
            ("mosquitto.conf", "listener 1883\npassword_file DIR/pw\nacl_file DIR/acl\n"),
            ("acl", &acl),
            ("pw", &passwords),
        ]);
        if let Ok(plan) = files.try_plan(|_| {}) {
            replayed(&plan);
        }
        files.write("mosquitto.conf", &conf);
        let _ = files.try_plan(|_| {});
        let _ = dynsec(&json).try_plan(|_| {});
    }
}
