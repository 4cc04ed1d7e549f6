use super::*;

/// The status line and body of the answer to `request`, and what `accept` returned.
async fn refused(request: &[u8]) -> (String, WsError) {
    let (near, mut far) = duplex(64 * 1024);
    far.write_all(request).await.unwrap();
    let error = timeout(DEADLINE, accept(near, &settings()))
        .await
        .unwrap()
        .unwrap_err();
    let mut answer = String::new();
    far.read_to_string(&mut answer).await.unwrap();
    (answer, error)
}

#[tokio::test]
async fn a_handshake_with_the_mqtt_subprotocol_is_accepted() {
    let (server, _client) = connected(1024).await;
    assert_eq!(server.subprotocol(), Subprotocol::Mqtt);
}

#[tokio::test]
async fn the_subprotocol_is_chosen_by_our_preference_from_all_offers() {
    let cases = [
        ("Sec-WebSocket-Protocol: mqtt\r\n", Some("mqtt")),
        ("Sec-WebSocket-Protocol: mqttv3.1\r\n", Some("mqttv3.1")),
        ("Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", Some("mqtt")),
        (
            "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: mqtt\r\n",
            Some("mqtt"),
        ),
        ("Sec-WebSocket-Protocol: MQTT\r\n", None),
        ("Sec-WebSocket-Protocol: mqttx\r\n", None),
        ("", None),
    ];
    for (lines, chosen) in cases {
        let (near, mut far) = duplex(4096);
        far.write_all(request(lines).as_bytes()).await.unwrap();
        let accepted = timeout(DEADLINE, accept(near, &settings())).await.unwrap();
        assert_eq!(
            accepted
                .as_ref()
                .ok()
                .map(|stream| stream.subprotocol().as_str()),
            chosen,
            "{lines:?}"
        );
        drop(accepted);
        let mut answer = String::new();
        far.read_to_string(&mut answer).await.unwrap();
        let echoed = answer
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(echoed, chosen, "{answer}");
        assert_eq!(
            answer.starts_with("HTTP/1.1 101 "),
            chosen.is_some(),
            "{answer}"
        );
        assert_eq!(
            answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            chosen.is_some(),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn what_is_not_a_websocket_for_mqtt_gets_its_http_status_and_one_line() {
    let good = request("Sec-WebSocket-Protocol: mqtt\r\n");
    let cases = [
        (request(""), 400, Refusal::Subprotocol),
        (
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            404,
            Refusal::NotFound,
        ),
        (good.replace("/mqtt ", "/mqtt/ "), 404, Refusal::NotFound),
        (
            "GET /mqtt HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            426,
            Refusal::NotAnUpgrade,
        ),
        (
            good.replace("Upgrade: websocket", "Upgrade: h2c"),
            426,
            Refusal::NotAnUpgrade,
        ),
        (
            good.replace("Version: 13", "Version: 8"),
            426,
            Refusal::WebSocketVersion,
        ),
        (good.replace("jZQ==", "jZQ="), 400, Refusal::Key),
        (good.replace("Host: h\r\n", ""), 400, Refusal::NoHost),
        (good.replace("GET", "POST"), 405, Refusal::Method),
        (
            good.replace("HTTP/1.1", "HTTP/1.0"),
            505,
            Refusal::HttpVersion,
        ),
        (
            "\x16\x03\x01 garbage\r\n\r\n".to_owned(),
            400,
            Refusal::Malformed,
        ),
        (
            good.replace(
                "Host: h",
                &format!("Host: h\r\nCookie: {}", "x".repeat(9000)),
            ),
            431,
            Refusal::HeadTooLarge,
        ),
    ];
    for (request, status, expected) in cases {
        let (answer, error) = refused(request.as_bytes()).await;
        assert!(
            matches!(error, WsError::Refused { refusal } if refusal == expected),
            "{error} for {request}"
        );
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())) && body.ends_with('\n'),
            "{answer}"
        );
        assert_eq!(
            head.contains("Upgrade: websocket"),
            status == 426,
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_its_request_is_no_refusal() {
    let (near, mut far) = duplex(1024);
    far.write_all(b"GET /mqtt HTT").await.unwrap();
    drop(far);
    assert!(matches!(
        accept(near, &settings()).await,
        Err(WsError::Left)
    ));
}

#[tokio::test]
async fn a_query_does_not_change_the_path() {
    let (near, mut far) = duplex(1024);
    let hello = request("Sec-WebSocket-Protocol: mqtt\r\n").replace("/mqtt ", "/mqtt?token=x ");
    far.write_all(hello.as_bytes()).await.unwrap();
    accept(near, &settings()).await.unwrap();
}

#[tokio::test]
async fn a_request_sent_byte_by_byte_with_frames_behind_it_loses_nothing() {
    let (near, mut far) = duplex(1);
    let mut octets = request("Sec-WebSocket-Protocol: mqtt\r\n").into_bytes();
    octets.extend(masked(0x82, b"first"));
    octets.extend(masked(0x82, b"second"));
    let (mut answers, mut requests) = {
        let (read, write) = tokio::io::split(&mut far);
        (read, write)
    };
    let settings = settings();
    let server = async {
        let mut stream = accept(near, &settings).await.unwrap();
        let mut got = [0; 11];
        stream.read_exact(&mut got).await.unwrap();
        got
    };
    let client = async { requests.write_all(&octets).await };
    let drain = async {
        let mut sink = Vec::new();
        let _ = answers.read_to_end(&mut sink).await;
    };
    let got = timeout(DEADLINE, async {
        tokio::select! {
            (got, _) = async { tokio::join!(server, client) } => got,
            () = drain => unreachable!("the server does not close"),
        }
    });
    assert_eq!(&got.await.unwrap(), b"firstsecond");
}

#[tokio::test]
async fn a_request_whose_first_bytes_were_read_before_is_understood() {
    let octets = request("Sec-WebSocket-Protocol: mqtt\r\n").into_bytes();
    for already_read in [0, 1, 4, octets.len() - 1, octets.len()] {
        let (near, mut far) = duplex(1024);
        let (first, rest) = octets.split_at(already_read);
        far.write_all(rest).await.unwrap();
        accept_after(first.to_vec(), near, &settings())
            .await
            .unwrap();
    }
}
