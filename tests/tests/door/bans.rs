//! N1: failures close the door to those who fail.

use postern_tests::client::tcp;
use postern_tests::scope::own_address;
use postern_tests::wait::until_some;
use postern_tests::{Connect, Gateway};

use super::*;

const STRICT: &str =
    "[limits]\nconnect_timeout = \"1s\"\n[bans]\nname_failures = 3\naddress_failures = 8\n";
const BAD: u8 = 0x86;
const RATE: u8 = 0x9F;

/// Fails with ever other names until the gateway closes the connection at once; how often it answered.
async fn guess_until_banned(gateway: &Gateway, address: IpAddr) -> usize {
    for n in 0..50 {
        match login(gateway, address, &wrong(&format!("guess-{n}"))).await {
            Some(code) => assert_eq!(code, BAD),
            None => return n,
        }
    }
    panic!("not banned after 50 wrong guesses");
}

/// What failed may be counted a moment after its end was seen.
async fn until_banned(gateway: &Gateway, address: IpAddr) {
    until_some("a ban", async || {
        let list = gateway.cli(&["ban", "list"], "").await.expect_success();
        list.stdout.contains(&address.to_string()).then_some(())
    })
    .await;
}

// N1
#[tokio::test]
async fn a_name_with_a_wrong_password_is_refused_and_its_neighbours_are_not() {
    let gateway = gateway(STRICT).await;
    let (here, elsewhere) = (own_address(), own_address());
    for _ in 0..3 {
        assert_eq!(login(&gateway, here, &wrong("admin")).await, Some(BAD));
    }
    // Even with the right password: the answer must not tell a guesser that it is right.
    let right = good(&gateway, "right");
    assert_eq!(login(&gateway, here, &right).await, Some(RATE));
    let v3 = gateway.login(&Connect::v311("v3"));
    assert_eq!(login(&gateway, here, &v3).await, Some(3), "unavailable");
    assert_eq!(login(&gateway, elsewhere, &right).await, Some(0));
    let neighbour = gateway.add_user("neighbour", &[]).await;
    let neighbour = Connect::v5("n").user(&neighbour.name, &neighbour.password);
    assert_eq!(login(&gateway, here, &neighbour).await, Some(0));
    let list = gateway.cli(&["ban", "list"], "").await.expect_success();
    let line = list.stdout.lines().nth(1).expect("one ban").to_owned();
    let cells: Vec<_> = line.split_whitespace().collect();
    assert_eq!(cells[..2], [here.to_string().as_str(), "\"admin\""]);
    let mut watcher = watcher(&gateway).await;
    metric(&mut watcher, "names_barred", |n| n == 1).await;
    metric(&mut watcher, "logins_barred", |n| n == 2).await;
}

// N1
#[tokio::test]
async fn an_address_that_only_fails_is_banned_without_a_reset_until_the_operator_lifts_it() {
    let gateway = gateway(STRICT).await;
    let (bad, other) = (own_address(), own_address());
    let before = guess_until_banned(&gateway, bad).await;
    assert_eq!(before, 8);
    // Before TLS, and whatever the client says meanwhile.
    let hello = client_hello(&gateway);
    assert!(is_closed(say(gateway.addresses.mqtts, bad, &hello).await).await);
    assert!(is_closed(tcp(Some(bad), gateway.addresses.wss).await).await);
    assert_eq!(login(&gateway, other, &good(&gateway, "a")).await, Some(0));
    let mut watcher = watcher(&gateway).await;
    metric(&mut watcher, "bans", |n| n == 1).await;
    metric(&mut watcher, "bans_made", |n| n == 1).await;
    metric(&mut watcher, "connections_banned", |n| n == 3).await;
    logged(&gateway, "banned: too many failures").await;

    let list = gateway.cli(&["ban", "list", "--json"], "").await;
    let line: serde_json::Value =
        serde_json::from_str(&list.expect_success().only_line()).expect("JSON");
    assert_eq!(line["network"], bad.to_string());
    assert!(
        line["seconds"]
            .as_u64()
            .is_some_and(|n| (800..=900).contains(&n))
    );
    let lift = ["ban", "lift", &bad.to_string()];
    let lifted = gateway.cli(&lift, "").await.expect_success();
    assert!(lifted.stdout.starts_with("1 ban lifted"), "{lifted}");
    assert_eq!(login(&gateway, bad, &good(&gateway, "b")).await, Some(0));
    metric(&mut watcher, "bans", |n| n == 0).await;
}

// N1
#[tokio::test]
async fn an_address_where_somebody_logged_in_is_throttled_and_not_banned() {
    let gateway = gateway(&format!("{STRICT}throttle = \"1s\"\n")).await;
    let household = own_address();
    let device = good(&gateway, "device");
    assert_eq!(login(&gateway, household, &device).await, Some(0));
    for n in 0..8 {
        let guess = wrong(&format!("guess-{n}"));
        assert_eq!(login(&gateway, household, &guess).await, Some(BAD));
    }
    // From now on guesses wait for each other; the device does not wait for them.
    let guesses = (0..20).map(|n| {
        let gateway = &gateway;
        async move { login(gateway, household, &wrong(&format!("more-{n}"))).await }
    });
    let start = std::time::Instant::now();
    let (codes, device) = tokio::join!(futures(guesses.collect()), async {
        let code = login(&gateway, household, &device).await;
        (code, start.elapsed())
    });
    assert_eq!(device.0, Some(0));
    let slowest = start.elapsed();
    assert!(device.1 < slowest / 2, "{:?} of {slowest:?}", device.1);
    assert!(
        slowest >= Duration::from_secs(5),
        "guesses took {slowest:?}"
    );
    let refused = codes.iter().filter(|code| **code == Some(RATE)).count();
    assert!(refused >= 5, "at most ten wait: {codes:02x?}");
    assert!(
        codes
            .iter()
            .all(|code| [Some(RATE), Some(BAD)].contains(code))
    );
    let mut watcher = watcher(&gateway).await;
    metric(&mut watcher, "bans_made", |n| n == 0).await;
    metric(&mut watcher, "logins_throttled", |n| n >= 5).await;
}

/// Polls all of them at once; their outputs in order.
async fn futures<F: Future>(all: Vec<F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.into_iter().map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in &mut all {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *output = Some(ready);
            }
        }
        match all.iter().all(|(_, output)| output.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    all.into_iter().filter_map(|(_, output)| output).collect()
}

// N1
#[tokio::test]
async fn failed_handshakes_and_first_packets_count_and_looking_whether_somebody_is_there_does_not()
{
    let gateway = gateway(STRICT).await;
    let (tls, mqtt, monitor) = (own_address(), own_address(), own_address());
    for _ in 0..30 {
        drop(tcp(Some(monitor), gateway.addresses.mqtts).await);
        let over_tls = tcp(Some(monitor), gateway.addresses.mqtts).await;
        let mut stream = tls_over(&gateway, over_tls).await.expect("a handshake");
        stream.shutdown().await.expect("an end");
    }
    for (address, port, bytes) in [
        (tls, gateway.addresses.mqtts, &b"GET / HTTP/1.0\r\n\r\n"[..]),
        (mqtt, gateway.addresses.mqtt, &b"\x30\x02\0\0"[..]),
    ] {
        for _ in 0..8 {
            let mut stream = say(port, address, bytes).await;
            let mut answer = Vec::new();
            let _ = within("an end", stream.read_to_end(&mut answer)).await;
        }
        until_banned(&gateway, address).await;
        assert_eq!(login(&gateway, address, &good(&gateway, "x")).await, None);
    }
    assert_eq!(
        login(&gateway, monitor, &good(&gateway, "m")).await,
        Some(0)
    );
}

#[tokio::test]
async fn the_operator_bans_networks_and_the_configuration_allows_and_denies_them() {
    let gateway = gateway(STRICT).await;
    let address = own_address();
    let network = format!("{address}/31");
    let cli = async |arguments: &[&str]| gateway.cli(arguments, "").await;
    let add = ["ban", "add", &network, "--for", "1h"];
    // 127.1.0.1/31 is written 127.1.0.0/31: what is meant is clear.
    cli(&add).await.expect_success();
    assert_eq!(login(&gateway, address, &good(&gateway, "a")).await, None);
    let list = cli(&["ban", "list"]).await.expect_success();
    assert!(list.stdout.contains("/31") && list.stdout.contains("operator"));
    cli(&["ban", "lift", "127.0.0.0/8"]).await.expect_success();
    assert_eq!(
        login(&gateway, address, &good(&gateway, "b")).await,
        Some(0)
    );
    let error = cli(&["ban", "add", "example.org"])
        .await
        .expect_one_line_failure();
    assert!(
        error.contains("example.org") && error.contains("192.0.2.1"),
        "{error}"
    );

    gateway.write_config(&format!("{STRICT}deny = [\"{address}\"]\n"));
    gateway.reload("reloaded").await;
    assert_eq!(login(&gateway, address, &good(&gateway, "c")).await, None);
    gateway.write_config(&format!("{STRICT}allow = [\"{address}\"]\n"));
    gateway.reload("reloaded").await;
    for n in 0..20 {
        let guess = wrong(&format!("guess-{n}"));
        assert_eq!(login(&gateway, address, &guess).await, Some(BAD));
    }
}

#[tokio::test]
async fn bans_of_a_gateway_that_does_not_run_are_an_error_with_a_remedy() {
    let gateway = gateway("").await;
    let config = gateway.config.clone();
    let _dir = gateway.stop().await;
    let finished = postern_tests::gateway::gateway_tool()
        .args(["ban", "list", "--config"])
        .arg(config)
        .run()
        .await;
    let error = finished.expect_one_line_failure();
    assert!(
        error.contains("no gateway runs") && error.contains("start it"),
        "{error}"
    );
}
