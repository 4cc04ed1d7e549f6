//! The dynamic security plugin, with a file that its own tools made.

use postern_tests::Setup;
use postern_tests::peer::Tool;

use super::mosquitto::{Mosquitto, dynsec_plugin};
use super::{Broker, Login, Report, own_hash, same_messages, same_publishes};

const DEVICE: Login = Login::new("device", "device-password");
const APP: Login = Login::new("app", "app-password");
const BOSS: Login = Login::new("boss", "boss-password");

const COMMANDS: &[&str] = &[
    "createRole sensor",
    "addRoleACL sensor publishClientSend sensors/# allow 0",
    "addRoleACL sensor publishClientSend sensors/admin/# deny 10",
    "addRoleACL sensor publishClientSend sensors/admin/hello allow 20",
    "addRoleACL sensor subscribePattern cmd/# allow",
    "createRole reader",
    "addRoleACL reader subscribePattern sensors/# allow",
    "addRoleACL reader publishClientReceive sensors/secret/# deny 5",
    "addRoleACL reader subscribePattern sensors/closed/# deny 5",
    "addRoleACL reader subscribeLiteral exact/one allow",
    "createRole all",
    "addRoleACL all subscribePattern end/# allow",
    "createRole boss",
    "addRoleACL boss publishClientSend # allow",
    "addRoleACL boss subscribePattern # allow",
    "createGroup readers",
    "addGroupRole readers reader",
    "createClient device -p device-password",
    "addClientRole device sensor",
    "addClientRole device all",
    "createClient app -p app-password",
    "addGroupClient readers app",
    "addClientRole app all",
    "createClient boss -p boss-password",
    "addClientRole boss boss",
    "createClient gone -p gone-password",
    "disableClient gone",
];

const TOPICS: &[&str] = &[
    "sensors",
    "sensors/temp",
    "sensors/admin/x",
    "sensors/admin/hello",
    "sensors/secret/x",
    "sensors/closed/probe",
    "cmd/device/on",
    "exact/one",
    "exact/two",
    "other",
];

const FILTERS: &[&str] = &[
    "#",
    "sensors/#",
    "sensors/+",
    "sensors/temp",
    "sensors/secret/#",
    "sensors/secret/x",
    "sensors/closed/probe",
    "cmd/#",
    "cmd/+/on",
    "exact/one",
    "exact/+",
    "other",
];

// I3
#[tokio::test]
async fn an_imported_dynamic_security_file_answers_as_the_plugin_did_and_differs_where_the_report_says()
 {
    let dir = Mosquitto::folder();
    let file = dir.path().join("dynamic-security.json");
    let init = Tool::new("mosquitto_ctrl")
        .args(["dynsec", "init"])
        .arg(&file);
    init.args(["admin", "admin-password"])
        .run()
        .await
        .expect_success();
    let settings = format!(
        "allow_anonymous false\nplugin {}\nplugin_opt_config_file {}\n",
        dynsec_plugin().display(),
        file.display()
    );
    let mosquitto = Mosquitto::start(dir, &settings).await;
    for words in COMMANDS {
        mosquitto.control("admin", "admin-password", words).await;
    }

    let gateway = Setup::new().start().await;
    let conf = mosquitto.conf.display().to_string();
    let line = ["import", "mosquitto", &conf, "--json"];
    let refused = gateway.cli(&line, "").await;
    assert!(
        refused.expect_one_line_failure().contains("(admin)"),
        "the first account has that name: {refused}"
    );
    let done = gateway
        .cli(&[&line[..], &["--skip", "admin"]].concat(), "")
        .await
        .expect_success();
    let report = Report(serde_json::from_str(&done.stdout).expect("JSON"));
    assert_eq!(report.count("wider"), 0, "{done}");
    assert!(
        report.says("narrower", DEVICE, "publish", "sensors/admin/hello"),
        "{done}"
    );
    let roles = &report.0["users"];
    assert_eq!(roles[0]["name"], "app");
    assert_eq!(
        roles[0]["roles"],
        serde_json::json!(["mosquitto.all", "mosquitto.reader"])
    );

    let old = Broker {
        address: mosquitto.address,
        boss: BOSS,
    };
    let new = Broker {
        address: gateway.addresses.mqtt,
        boss: Login::first_account(&gateway),
    };
    let logins = [DEVICE, APP, BOSS];
    same_publishes(old, new, &report, &logins, TOPICS).await;
    same_messages(old, new, &report, &logins, FILTERS, TOPICS).await;
    let gone = Login::new("gone", "gone-password");
    assert_ne!(old.try_connect(gone).await.connack.code, 0);
    assert_ne!(new.try_connect(gone).await.connack.code, 0);
    own_hash(&gateway, "device").await;
}
