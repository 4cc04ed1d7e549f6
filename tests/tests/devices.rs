//! Is what `postern device` prints all that a device needs, and does what it takes back stay taken back? Rules I2, P1,
//! P3, S5, with Mosquitto's clients as the devices.

use std::collections::HashMap;
use std::path::Path;

use postern_tests::gateway::gateway_tool;
use postern_tests::packet::{Version, Will};
use postern_tests::peer::{Finished, Tool};
use postern_tests::property::Property;
use postern_tests::scope::own_address;
use postern_tests::wait::until_some;
use postern_tests::{Connect, Gateway, Publish, Scope, Setup, Shared};
use tempfile::TempDir;

/// One listener more, that looks at client certificates.
const LISTENER: &str = r#"
[listeners.things]
protocol = "mqtt"
bind = "127.0.0.1:0"
client_certificates = "optional"
[sys]
interval = "1s"
"#;

const NOT_AUTHORIZED: u8 = 0x87;

async fn gateway() -> Shared {
    Shared::start(Setup::new().toml(LISTENER)).await
}

async fn device(gateway: &Gateway, arguments: &[&str]) -> Finished {
    let arguments = [&["device"], arguments].concat();
    gateway.cli(&arguments, "").await
}

/// The rows of the text: what is printed for people.
fn rows(text: &str) -> HashMap<String, String> {
    let row = |line: &str| {
        let (label, value) = (line.get(..18)?, line.get(20..)?);
        Some((label.trim().to_owned(), value.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

/// Adds a device and gives its rows.
async fn add(gateway: &Gateway, id: &str, more: &[&str]) -> HashMap<String, String> {
    let arguments = [&["add", id, "--host", "localhost"], more].concat();
    rows(&device(gateway, &arguments).await.expect_success().stdout)
}

/// A Mosquitto client with nothing but what was printed.
fn mosquitto(program: &str, rows: &HashMap<String, String>) -> Tool {
    let port = rows["port"].split(' ').next().expect("a number");
    Tool::new("stdbuf")
        .args(["-oL", program, "-A", &own_address().to_string()])
        .args(["-h", &rows["broker"], "-p", port])
        .args(["--cafile", &rows["CA certificate"]])
        .args(["-i", &rows["client id"], "-u", &rows["user name"]])
        .args(["-P", &rows["password"]])
}

fn login(rows: &HashMap<String, String>) -> Connect {
    Connect::v5(&rows["client id"]).user(&rows["user name"], &rows["password"])
}

/// The device of this name in `postern device list --json`.
async fn listed(gateway: &Gateway, id: &str) -> Option<serde_json::Value> {
    let finished = device(gateway, &["list", "--json"]).await.expect_success();
    let lines = finished.stdout.lines();
    let mut devices = lines.map(|line| serde_json::from_str(line).expect("JSON"));
    devices.find(|device: &serde_json::Value| device["name"] == id)
}

// P1
#[tokio::test]
async fn the_printed_text_is_enough_for_a_device_and_confines_it_to_its_topics() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (lamp, other) = (scope.id("lamp"), scope.id("other"));
    let (rows, _) = (
        add(&gateway, &lamp, &[]).await,
        add(&gateway, &other, &[]).await,
    );
    assert_eq!(
        rows["subscribes to"],
        format!("devices/{lamp}/#, mqtt_rx_{lamp}")
    );
    let mut subscriber = mosquitto("mosquitto_sub", &rows)
        .args(["-d", "-q", "1", "-F", "GOT %t %p", "-t"])
        .args([
            &format!("devices/{lamp}/#"),
            "-t",
            &format!("mqtt_rx_{lamp}"),
        ])
        .start()
        .await;
    subscriber.line_with("Subscribed (mid").await;
    // Its other client: within the limit on the sessions of one principal.
    let publish = mosquitto("mosquitto_pub", &rows)
        .args(["-i", &scope.id("second"), "-q", "1", "-m", "on"])
        .args(["-t", &format!("devices/{lamp}/state")]);
    publish.run().await.expect_success();
    assert_eq!(
        subscriber.line_with("GOT").await,
        format!("GOT devices/{lamp}/state on")
    );
    let mut admin = gateway.v5(&scope.id("admin")).await;
    admin
        .publish(Publish::new(&format!("mqtt_rx_{lamp}"), "classic").qos(1))
        .await;
    assert_eq!(
        subscriber.line_with("GOT").await,
        format!("GOT mqtt_rx_{lamp} classic")
    );
    drop(subscriber);

    let mut client = gateway.connect(login(&rows)).await;
    for (topic, expected) in [
        (format!("devices/{lamp}/x"), 0x10),
        (format!("mqtt_tx_{lamp}"), 0x10),
        (format!("devices/{other}/x"), NOT_AUTHORIZED),
        (format!("mqtt_tx_{other}"), NOT_AUTHORIZED),
        (format!("mqtt_rx_{lamp}"), NOT_AUTHORIZED),
    ] {
        // 0x10: allowed, and nobody is there.
        let code = client.publish(Publish::new(&topic, "x").qos(1)).await;
        assert_eq!(code & 0x80, expected & 0x80, "{topic}");
        assert!(code < 0x80 || code == expected, "{topic}: {code:#x}");
    }
    for (filter, expected) in [
        (format!("devices/{lamp}/#"), 1),
        (format!("devices/{other}/#"), NOT_AUTHORIZED),
        ("devices/+/state".to_owned(), NOT_AUTHORIZED),
        ("#".to_owned(), NOT_AUTHORIZED),
    ] {
        assert_eq!(client.subscribe(&filter, 1).await, expected, "{filter}");
    }
}

/// The values of a settings line, as a device reads them.
fn settings(line: &str) -> HashMap<String, String> {
    let rest = line.strip_prefix("postern:1;").expect("a settings line");
    let decode = |value: &str| {
        let mut octets = Vec::new();
        let mut rest = value.as_bytes();
        while let [first, tail @ ..] = rest {
            (rest, octets) = match (first, tail) {
                (b'%', [a, b, tail @ ..]) => {
                    let digits = String::from_utf8(vec![*a, *b]).expect("digits");
                    octets.push(u8::from_str_radix(&digits, 16).expect("hexadecimal"));
                    (tail, octets)
                }
                _ => {
                    octets.push(*first);
                    (tail, octets)
                }
            };
        }
        String::from_utf8(octets).expect("UTF-8")
    };
    rest.split(';')
        .map(|pair| pair.split_once('=').expect("KEY=VALUE"))
        .map(|(key, value)| (key.to_owned(), decode(value)))
        .collect()
}

/// What a camera sees of a code made of half blocks.
fn read_code(text: &str) -> String {
    const SCALE: usize = 4;
    let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
    let (width, height) = (lines[0].len() * SCALE, lines.len() * 2 * SCALE);
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
        let (column, row) = (x / SCALE, y / SCALE);
        let light = if row % 2 == 0 { "█▀" } else { "█▄" };
        match light.contains(lines[row / 2][column]) {
            true => 255,
            false => 0,
        }
    });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one code is in\n{text}");
    grids[0].decode().expect("it can be read").1
}

#[tokio::test]
async fn the_settings_line_and_its_qr_code_hold_all_that_a_device_needs() {
    let gateway = gateway().await;
    let id = Scope::new().id("Küche; 50%=a");
    let rows = add(&gateway, &id, &[]).await;
    let line = settings(&rows["settings"]);
    assert_eq!(line["h"], "localhost");
    assert!(rows["port"].starts_with(&line["p"]));
    assert_eq!((&line["i"], &line["s"]), (&id, &rows["password"]));
    let pin = "openssl x509 -in server.pem -noout -pubkey | openssl pkey -pubin -outform DER \
               | openssl dgst -sha256 -binary | base64 | tr +/ -_ | tr -d =";
    let pin = Tool::new("sh").args(["-c", pin]);
    let pin = pin.current_dir(&gateway.data.join("tls")).run().await;
    assert_eq!(line["pin"], pin.expect_success().only_line());

    let format = |format| ["rotate", &id, "--host", "localhost", "--format", format];
    let alone = device(&gateway, &format("settings")).await.expect_success();
    let second = settings(&alone.only_line());
    let code = device(&gateway, &format("qr")).await.expect_success();
    assert!(!code.stderr.contains("pst_"), "{}", code.stderr);
    let third = settings(&read_code(&code.stdout));
    assert_eq!((&third["i"], &third["pin"]), (&id, &line["pin"]));
    let connect = |secret: &str| Connect::v5(&id).user(&id, secret);
    for old in [&line["s"], &second["s"]] {
        assert_eq!(gateway.try_connect(&connect(old)).await.connack.code, 0x86);
    }
    gateway.connect(connect(&third["s"])).await;

    let json = device(&gateway, &format("json")).await.expect_success();
    let json: serde_json::Value = serde_json::from_str(&json.only_line()).expect("JSON");
    gateway
        .connect(connect(json["secret"].as_str().expect("text")))
        .await;
    let log = gateway.process.log().text();
    assert!(!log.contains("pst_"), "no secret is logged");
}

#[tokio::test]
async fn a_rotated_secret_ends_the_live_connection_and_the_session_stays() {
    let gateway = gateway().await;
    let id = Scope::new().id("lamp");
    let first = add(&gateway, &id, &[]).await;
    let mut live = gateway.connect(login(&first).persistent(600)).await;
    let rotated = device(&gateway, &["rotate", &id, "--host", "localhost"]).await;
    let second = rows(&rotated.expect_success().stdout);
    assert_eq!(live.end_code().await, NOT_AUTHORIZED);
    assert_eq!(gateway.try_connect(&login(&first)).await.connack.code, 0x86);
    let back = gateway.connect(login(&second).persistent(600)).await;
    assert!(back.connack.session_present);
    let device = listed(&gateway, &id).await.expect("it is there");
    assert!(device["rotated-at"].is_i64(), "{device}");
}

// P3
#[tokio::test]
async fn a_revoked_device_is_cut_off_with_its_will_and_loses_its_sessions() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let id = scope.id("lamp");
    let rows = add(&gateway, &id, &[]).await;
    let topic = format!("devices/{id}/will");
    let mut watcher = gateway.v5(&scope.id("watcher")).await;
    watcher.subscribe(&topic, 1).await;
    let mut live = gateway
        .connect(login(&rows).persistent(600).will(Will::new(&topic, "live")))
        .await;
    let away = Connect::v5(&scope.id("away")).user(&id, &rows["password"]);
    let away = away.persistent(600);
    let delayed = |name, seconds| Will::new(&topic, name).with(Property::WillDelay(seconds));
    let mut left = gateway.connect(away.clone().will(delayed("away", 1))).await;
    left.subscribe(&topic, 1).await;
    left.leave_will().await;
    let finished = device(&gateway, &["revoke", &id]).await.expect_success();
    assert!(finished.stdout.contains("revoked"), "{finished}");
    assert_eq!(live.end_code().await, NOT_AUTHORIZED);
    // A later will of somebody else is the first that comes.
    let other = Connect::v5(&scope.id("other")).persistent(600);
    let other = gateway.connect(other.will(delayed("other", 2))).await;
    other.leave_will().await;
    assert_eq!(watcher.receive().await.text(), "other");
    assert_eq!(gateway.try_connect(&login(&rows)).await.connack.code, 0x86);
    assert!(listed(&gateway, &id).await.is_none());

    // Another device of the same name finds no session of it.
    let again = add(&gateway, &id, &[]).await;
    let away = away.user(&id, &again["password"]);
    assert!(!gateway.connect(away).await.connack.session_present);
    watcher.nothing_came().await;
}

#[tokio::test]
async fn a_certificate_lets_the_device_in_without_its_secret_until_it_is_revoked() {
    let gateway = gateway().await;
    let id = Scope::new().id("lamp");
    let folder = TempDir::with_prefix("postern-device-").expect("a folder");
    let out = folder.path().to_str().expect("UTF-8");
    let bundle = folder.path().join("lamp.p12");
    let pkcs12 = bundle.to_str().expect("UTF-8");
    let more = ["--certificate", "--out", out, "--pkcs12", pkcs12];
    let rows = add(&gateway, &id, &more).await;
    let port = rows["port"].split(' ').next().expect("a number");
    let publish = || {
        let file = |ending: &str| folder.path().join(format!("{id}.{ending}"));
        let tool = Tool::new("mosquitto_pub").args(["-h", "localhost", "-p", port]);
        let tool = tool.args(["-i", &id, "-A", &own_address().to_string()]);
        let tool = tool.arg("--cafile").arg(folder.path().join("ca.pem"));
        let tool = tool.arg("--cert").arg(file("pem"));
        let tool = tool.arg("--key").arg(file("key"));
        tool.args(["-q", "1", "-m", "x", "-t", &format!("devices/{id}/x")])
    };
    publish().run().await.expect_success();
    let opened = Tool::new("openssl")
        .args(["pkcs12", "-in", pkcs12, "-noout", "-passin"])
        .arg(format!("pass:{}", rows["PKCS #12 password"]));
    opened.run().await.expect_success();
    // The same principal, whatever it shows.
    let device_line = listed(&gateway, &id).await.expect("it is there");
    assert!(device_line["seen-at"].is_i64(), "{device_line}");

    device(&gateway, &["revoke", &id]).await.expect_success();
    let refused = publish().run().await;
    assert!(!refused.status.success(), "{refused}");
}

// S5
#[tokio::test]
async fn the_identifier_of_a_device_is_refused_to_everybody_else() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (id, late) = (scope.id("lamp"), scope.id("late"));
    let rows = add(&gateway, &id, &[]).await;
    for (version, code) in [(Version::V5, 0x85), (Version::V311, 0x02)] {
        let thief = gateway.try_connect(&Connect::new(version, &id)).await;
        assert_eq!(thief.connack.code, code);
    }
    let audit = gateway
        .cli(&["audit", "--kind", "takeover", "-n", "500"], "")
        .await;
    assert!(audit.expect_success().stdout.contains(&id));
    let mut admin = gateway.v5(&scope.id("admin")).await;
    let metric = "$SYS/postern/client_identifiers_reserved";
    admin.subscribe(metric, 0).await;
    while admin.message().await.text() != "2" {}
    gateway.connect(login(&rows)).await;

    // A session from before the device was there makes way for it, and does not come back.
    let early = Connect::v5(&late).persistent(600);
    let mut squatter = gateway.connect(early.clone()).await;
    let rows = add(&gateway, &late, &[]).await;
    let owner = gateway.connect(login(&rows)).await;
    assert!(!owner.connack.session_present);
    assert_eq!(squatter.end_code().await, 0x8E);
    assert_eq!(gateway.try_connect(&early).await.connack.code, 0x85);
}

#[tokio::test]
async fn the_list_shows_when_from_where_and_with_which_firmware_and_survives_a_restart() {
    let gateway = Setup::new().start().await;
    let (fan, lamp) = (
        add(&gateway, "fan", &[]).await,
        add(&gateway, "lamp", &[]).await,
    );
    let version = Property::user("firmware-version", "1.4.2");
    let client = gateway.connect(login(&fan).with(version)).await;
    let of = async |name: &str| listed(&gateway, name).await.expect("it is there");
    let shown = of("fan").await;
    assert_eq!(shown["connected"], true, "{shown}");
    assert_eq!(shown["firmware"], "1.4.2");
    let address = shown["address"].as_str().expect("an address").to_owned();
    assert!(address.starts_with("127."), "{address}");
    client.disconnect().await;
    until_some("the device to be away", async || {
        (of("fan").await["connected"] == false).then_some(())
    })
    .await;
    // The other one says it in its own words.
    let mut client = gateway.connect(login(&lamp)).await;
    assert!(of("lamp").await["firmware"].is_null());
    let message = Publish::new("devices/lamp/firmware", "0.9").retain();
    client.publish(message.qos(1)).await;
    assert_eq!(of("lamp").await["firmware"], "0.9");
    client.vanish();
    let gone = add(&gateway, "gone", &[]).await;
    gateway.connect(login(&gone).persistent(600)).await.vanish();

    let data = gateway.data.clone();
    let dir = gateway.stop().await;
    // Without a gateway, from what was written down.
    let written = offline(&data, &["list"]).await;
    assert!(
        written.contains(&address) && written.contains("1.4.2"),
        "{written}"
    );
    offline(&data, &["revoke", "gone"]).await;
    let gateway = Setup::new().start_in(dir).await;
    // P3: what was revoked meanwhile has no session any more.
    let gone = add(&gateway, "gone", &[]).await;
    let client = gateway.connect(login(&gone).persistent(600)).await;
    assert!(!client.connack.session_present);
    let shown = listed(&gateway, "fan").await.expect("it is there");
    assert_eq!(shown["address"], address.as_str());
    assert_eq!(
        (&shown["firmware"], &shown["connected"]),
        (&"1.4.2".into(), &false.into())
    );
    let shown = listed(&gateway, "lamp").await.expect("it is there");
    assert_eq!(shown["firmware"], "0.9", "it is retained");
    gateway.connect(login(&fan)).await;

    // A backup has the devices with their secrets.
    let folder = TempDir::with_prefix("postern-device-").expect("a folder");
    let archive = folder.path().join("backup.tar");
    let path = archive.to_str().expect("UTF-8");
    gateway.cli(&["backup", path], "").await.expect_success();
    let copy = folder.path().join("data");
    let restore = gateway_tool().args(["restore", path, "--data-dir"]);
    restore.arg(&copy).run().await.expect_success();
    let restored = offline(&copy, &["list"]).await;
    assert!(
        restored.contains("fan") && restored.contains("1.4.2"),
        "{restored}"
    );
}

/// `postern device` without a gateway.
async fn offline(data: &Path, arguments: &[&str]) -> String {
    let tool = gateway_tool().arg("device").args(arguments);
    let tool = tool.arg("--data-dir").arg(data);
    tool.run().await.expect_success().stdout
}
