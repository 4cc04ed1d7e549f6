//! N2: the PROXY protocol, from trusted addresses only, on every kind of listener.

use postern_tests::scope::own_address;

use super::*;

const PROXIES: &str = "127.99.0.0/16";

async fn behind(limits: &str) -> Gateway {
    let listener = |name: &str, rest: &str| {
        format!(
            "[listeners.{name}]\nbind = [\"127.0.0.1:0\"]\nproxy_protocol = true\ntrusted_proxies = [\"{PROXIES}\"]\n{rest}\n"
        )
    };
    let plain = listener("plain", "protocol = \"mqtt\"\ntls = false");
    let secure = listener("secure", "protocol = \"mqtt\"");
    let web = listener("web", "tls = false\nprotocol = \"websocket\"");
    gateway(&format!(
        "[limits]\ntls_timeout = \"2s\"\nconnect_timeout = \"2s\"\n{limits}\n{plain}{secure}{web}"
    ))
    .await
}

/// An address that is trusted.
fn proxy() -> IpAddr {
    let IpAddr::V4(own) = own_address() else {
        unreachable!("it is IPv4")
    };
    let [.., c, d] = own.octets();
    IpAddr::from([127, 99, c, d])
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.80 40000 8883\r\n").into_bytes()
}

fn v2(command: u8, client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    // Addresses and ports, and a TLV that claims another name (PP2_TYPE_AUTHORITY).
    let rest = [
        &client[..],
        &[192, 0, 2, 80, 0x9c, 0x40, 0x22, 0xb3],
        b"\x02\x00\x05admin",
    ]
    .concat();
    header.extend([0x20 | command, 0x11, 0, rest.len() as u8]);
    [header, rest].concat()
}

async fn login_behind(gateway: &Gateway, header: &[u8], id: &str) -> Option<u8> {
    let stream = say(gateway.listener("plain"), proxy(), header).await;
    let (code, _) = login_on(stream, &good(gateway, id)).await?;
    Some(code)
}

// N2
#[tokio::test]
async fn the_address_in_the_header_is_the_clients_on_every_kind_of_listener() {
    let gateway = behind("").await;
    assert_eq!(
        login_behind(&gateway, &v1("203.0.113.1"), "a").await,
        Some(0)
    );
    logged(&gateway, "peer=203.0.113.1:40000").await;

    let stream = say(
        gateway.listener("secure"),
        proxy(),
        &v2(1, [203, 0, 113, 2]),
    )
    .await;
    let stream = tls_over(&gateway, stream).await.expect("a handshake");
    let (code, _) = login_on(stream, &good(&gateway, "b"))
        .await
        .expect("CONNACK");
    assert_eq!(code, 0);
    logged(&gateway, "peer=203.0.113.2:40000").await;

    let mut stream = say(gateway.listener("web"), proxy(), &v1("203.0.113.3")).await;
    let upgrade = "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.expect("read");
    let mut status = [0; 12];
    within("a status", stream.read_exact(&mut status))
        .await
        .expect("it is there");
    assert_eq!(&status, b"HTTP/1.1 101");
}

// N2
#[tokio::test]
async fn who_is_not_trusted_and_who_sends_no_header_is_refused() {
    let gateway = behind("").await;
    let secure = gateway.listener("secure");
    // The right header from the wrong address, and no header from the right one.
    let stranger = say(secure, own_address(), &v1("203.0.113.1")).await;
    assert!(is_closed(stranger).await);
    let hello = client_hello(&gateway);
    assert!(is_closed(say(secure, proxy(), &hello).await).await);
    let start = std::time::Instant::now();
    assert!(is_closed(say(secure, proxy(), b"PROXY TCP4 203.0.113.1 ").await).await);
    assert!(
        start.elapsed() >= Duration::from_millis(1_500),
        "in its own time"
    );
    assert!(is_closed(say(secure, proxy(), &v1("203.0.113.256")).await).await);
    let mut watcher = watcher(&gateway).await;
    metric(&mut watcher, "proxy_refused", |n| n == 4).await;
}

// N2
#[tokio::test]
async fn elsewhere_the_header_is_never_looked_at() {
    let gateway = behind("").await;
    let header = v1("203.0.113.1");
    let stream = say(gateway.addresses.mqtt, proxy(), &header).await;
    assert!(login_on(stream, &good(&gateway, "a")).await.is_none());
    let stream = say(gateway.addresses.mqtts, proxy(), &header).await;
    assert!(tls_over(&gateway, stream).await.is_err());
}

// N1, N2
#[tokio::test]
async fn bans_rates_and_limits_count_the_address_in_the_header() {
    let gateway =
        behind("max_connections_per_address = 2\n[bans]\nname_failures = 3\naddress_failures = 4")
            .await;
    let plain = gateway.listener("plain");
    let [bad, good_one] = ["203.0.113.66", "203.0.113.1"].map(v1);
    for n in 0..4 {
        let stream = say(plain, proxy(), &bad).await;
        let guess = wrong(&format!("guess-{n}"));
        let (code, _) = login_on(stream, &guess).await.expect("CONNACK");
        assert_eq!(code, 0x86);
    }
    assert_eq!(login_behind(&gateway, &bad, "a").await, None, "banned");
    // The same proxy with another client, and twice with the limit of two.
    let mut clients = Vec::new();
    for n in 0..3 {
        let stream = say(plain, proxy(), &good_one).await;
        clients.push(login_on(stream, &good(&gateway, &format!("c{n}"))).await);
    }
    let let_in: Vec<_> = clients.iter().map(Option::is_some).collect();
    assert_eq!(let_in, [true, true, false]);
    let list = gateway.cli(&["ban", "list"], "").await.expect_success();
    assert!(list.stdout.contains("203.0.113.66"), "{list}");
}

// N2
#[tokio::test]
async fn a_health_check_of_the_proxy_is_its_own_connection_and_no_failure() {
    let gateway = behind("[bans]\nname_failures = 2\naddress_failures = 3").await;
    let plain = gateway.listener("plain");
    let proxy = proxy();
    for _ in 0..10 {
        drop(say(plain, proxy, b"").await);
        let mut stream = say(plain, proxy, &v2(0, [0, 0, 0, 0])).await;
        stream.shutdown().await.expect("an end");
        assert!(is_closed(stream).await);
    }
    for header in [v2(0, [203, 0, 113, 1]), b"PROXY UNKNOWN\r\n".to_vec()] {
        let stream = say(plain, proxy, &header).await;
        let (code, _) = login_on(stream, &good(&gateway, "own"))
            .await
            .expect("CONNACK");
        assert_eq!(code, 0);
    }
    assert_eq!(lines(&gateway, "peer=203.0.113.1"), 0);
}
