use super::*;

// MQTT-6.0.0-2
#[tokio::test]
async fn packets_may_span_frames_and_a_frame_may_carry_several() {
    let (mut server, mut client) = connected(256).await;
    let frame = |payload: &'static [u8], opcode, last| {
        Message::Frame(Frame::message(payload, OpCode::Data(opcode), last))
    };
    let sending = async {
        client
            .send(Message::binary(&b"\xc0\x00\xc0\x00\x30"[..]))
            .await
            .unwrap();
        client
            .send(frame(b"\x05\x00", Data::Binary, false))
            .await
            .unwrap();
        client
            .send(Message::Ping(b"between"[..].into()))
            .await
            .unwrap();
        client
            .send(frame(b"", Data::Continue, false))
            .await
            .unwrap();
        client
            .send(frame(b"\x01a", Data::Continue, true))
            .await
            .unwrap();
        client
            .send(Message::binary(&b"xy\xc0\x00"[..]))
            .await
            .unwrap();
    };
    let mut got = [0; 13];
    let (read, ()) = tokio::join!(server.read_exact(&mut got), sending);
    read.unwrap();
    assert_eq!(&got, b"\xc0\x00\xc0\x00\x30\x05\x00\x01axy\xc0\x00");
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::Pong(b"between"[..].into())
    );
}

#[tokio::test]
async fn each_write_is_one_binary_frame_of_16_kib_at_most() {
    let (mut server, mut client) = connected(128 * 1024).await;
    for size in [1, 125, 126, 16_380, 65_535] {
        let payload: Vec<u8> = (0..size).map(|number| number as u8).collect();
        server.write_all(&payload).await.unwrap();
        server.flush().await.unwrap();
        for expected in payload.chunks(16_380) {
            let message = client.next().await.unwrap().unwrap();
            assert!(message == Message::binary(expected.to_vec()), "{size}");
        }
    }
}

#[tokio::test]
async fn a_ping_is_answered_while_nobody_writes() {
    let (mut server, mut client) = connected(256).await;
    let reader = tokio::spawn(async move {
        let mut buffer = [0; 16];
        server.read(&mut buffer).await
    });
    client.send(Message::Ping(b"hi"[..].into())).await.unwrap();
    let pong = timeout(DEADLINE, client.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(pong, Message::Pong(b"hi"[..].into()));
    client.close(None).await.unwrap();
    assert_eq!(reader.await.unwrap().unwrap(), 0);
}

// MQTT-6.0.0-1
#[tokio::test]
async fn a_text_frame_is_an_error_and_closes_with_1003_behind_the_data_before_it() {
    let (mut server, mut far) = raw(1024);
    far.write_all(&[masked(0x82, b"data"), masked(0x81, b"text")].concat())
        .await
        .unwrap();
    let mut got = [0; 32];
    assert_eq!(server.read(&mut got).await.unwrap(), 4);
    assert_eq!(
        violation(&server.read(&mut got).await.unwrap_err()),
        CloseCode::Unsupported
    );
    assert_eq!(
        violation(&server.read(&mut got).await.unwrap_err()),
        CloseCode::Unsupported
    );
    assert!(server.write(b"more").await.is_err());
    server.shutdown().await.unwrap();
    let mut sent = Vec::new();
    far.read_to_end(&mut sent).await.unwrap();
    assert_eq!(&sent[..1], &[0x88]);
    assert_eq!(
        usize::from(sent[1]),
        sent.len() - 2,
        "one Close and no more"
    );
    assert_eq!(sent[2..4], 1003u16.to_be_bytes());
}

#[tokio::test]
async fn what_a_client_must_not_send_is_answered_with_its_close_code() {
    let big = MAX_MESSAGE as u64 + 1;
    let announced = [&[0x82, 0xff][..], &big.to_be_bytes(), &[0; 4]].concat();
    let half = vec![0; MAX_MESSAGE / 2 + 1];
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a message announced over the limit", announced, 1009),
        (
            "fragments that grow over the limit",
            [masked(0x02, &half), masked(0x80, &half)].concat(),
            1009,
        ),
        ("an unmasked frame", vec![0x82, 0x01, 0x00], 1002),
        ("reserved bits", masked(0xc2, b"x"), 1002),
        ("a reserved data opcode", masked(0x83, b"x"), 1002),
        ("a reserved control opcode", masked(0x8b, b"x"), 1002),
        ("a continuation of nothing", masked(0x80, b"x"), 1002),
        (
            "a message inside a message",
            [masked(0x02, b"x"), masked(0x82, b"y")].concat(),
            1002,
        ),
        ("a fragmented ping", masked(0x09, b"x"), 1002),
        ("a ping over 125 bytes", masked(0x89, &[0; 126]), 1002),
        (
            "a length in 16 bits that fits in 7",
            vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0],
            1002,
        ),
        (
            "a length in 64 bits that fits in 16",
            vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
            1002,
        ),
        (
            "a length over 63 bits",
            vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            1002,
        ),
        ("a close with one byte", masked(0x88, b"x"), 1002),
        (
            "a close with 1005",
            masked(0x88, &1005u16.to_be_bytes()),
            1002,
        ),
        (
            "a close with 999",
            masked(0x88, &999u16.to_be_bytes()),
            1002,
        ),
        (
            "a close whose reason is not UTF-8",
            masked(0x88, b"\x03\xe8\xff"),
            1007,
        ),
    ];
    for (name, octets, code) in cases {
        let (mut server, mut far) = raw(256 * 1024);
        far.write_all(&octets).await.unwrap();
        let mut buffer = vec![0; 512 * 1024];
        let error = loop {
            match timeout(DEADLINE, server.read(&mut buffer))
                .await
                .expect(name)
            {
                Ok(0) => panic!("{name}: end of file"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(violation(&error).as_u16(), code, "{name}");
        let mut sent = [0; 4];
        far.read_exact(&mut sent).await.unwrap();
        assert_eq!(
            (sent[0], &sent[2..]),
            (0x88, &code.to_be_bytes()[..]),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_close_of_the_client_is_answered_in_kind_and_reads_as_end_of_file() {
    for (payload, answer) in [
        (&b""[..], &b"\x88\x00"[..]),
        (b"\x03\xe9bye", b"\x88\x02\x03\xe9"),
    ] {
        let (mut server, mut far) = raw(256);
        far.write_all(
            &[
                masked(0x82, b"x"),
                masked(0x88, payload),
                masked(0x82, b"late"),
            ]
            .concat(),
        )
        .await
        .unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"x");
        assert_eq!(
            server.write(b"y").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        server.shutdown().await.unwrap();
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.unwrap();
        assert_eq!(sent, answer, "exactly one Close");
    }
}

#[tokio::test]
async fn our_shutdown_closes_with_the_code_that_was_set_behind_all_data() {
    for (code, number) in [
        (CloseCode::Normal, 1000),
        (CloseCode::GoingAway, 1001),
        (CloseCode::TooBig, 1009),
    ] {
        let (mut server, mut client) = connected(256).await;
        if code != CloseCode::Normal {
            server.set_close(code);
        }
        let serving = async {
            server.write_all(&[9; 1000]).await.unwrap();
            server.shutdown().await.unwrap();
            // Lingers for the Close of the client.
            assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        };
        let reading = async {
            assert_eq!(
                client.next().await.unwrap().unwrap().into_data().len(),
                1000
            );
            let Message::Close(Some(CloseFrame { code, .. })) =
                client.next().await.unwrap().unwrap()
            else {
                panic!("no close")
            };
            let _ = client.flush().await;
            code
        };
        let ((), code) = timeout(DEADLINE, async { tokio::join!(serving, reading) })
            .await
            .unwrap();
        assert_eq!(u16::from(code), number);
    }
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_message_is_an_error_and_between_messages_is_an_end() {
    let whole = [masked(0x02, b"ab"), masked(0x80, b"cd")].concat();
    for length in 0..=whole.len() {
        let (mut server, mut far) = raw(256);
        far.write_all(&whole[..length]).await.unwrap();
        drop(far);
        let ended = server.read_to_end(&mut Vec::new()).await;
        assert_eq!(
            ended.is_ok(),
            length == 0 || length == whole.len(),
            "{length}"
        );
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_one_frame_and_no_more() {
    let (mut server, _far) = raw(64);
    let mut accepted = 0;
    let mut peak = 0;
    loop {
        let polled =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut server).poll_write(cx, &[1; 100_000]))).await;
        peak = peak.max(server.buffered());
        match polled {
            Poll::Ready(written) => accepted += written.unwrap(),
            Poll::Pending => break,
        }
    }
    assert!(
        accepted <= 16 * 1024 + 64 && peak <= 16 * 1024,
        "accepted {accepted}, buffered {peak}"
    );
}

#[tokio::test]
async fn pings_of_a_client_that_does_not_read_cost_one_pong() {
    let (mut server, mut far) = raw(64);
    let flood = tokio::spawn(async move {
        for _ in 0..1000 {
            far.write_all(&masked(0x89, &[5; 125])).await.unwrap();
        }
        far.write_all(&masked(0x82, b"!")).await.unwrap();
        far
    });
    let mut got = [0; 1];
    timeout(DEADLINE, server.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert!(server.buffered() <= 2 * 127, "{}", server.buffered());
    drop(flood.await.unwrap());
}

// N4: the stream itself keeps no buffers while nothing is under way.
#[tokio::test]
async fn an_idle_websocket_costs_under_300_bytes() {
    let (mut server, mut client) = connected(1 << 20).await;
    client
        .send(Message::binary(vec![1; MAX_MESSAGE]))
        .await
        .unwrap();
    client.send(Message::Ping(b"x"[..].into())).await.unwrap();
    server.read_exact(&mut vec![0; MAX_MESSAGE]).await.unwrap();
    server.write_all(&vec![2; MAX_MESSAGE]).await.unwrap();
    server.flush().await.unwrap();
    let own = size_of::<WsStream<DuplexStream>>() - size_of::<DuplexStream>();
    let held = own + server.held_on_heap();
    assert!(held < 300, "{held} bytes");
}

#[tokio::test]
async fn a_reader_in_another_task_does_not_take_the_writer_s_wake_up() {
    let (server, mut far) = raw(64);
    let (mut reading, mut writing) = tokio::io::split(server);
    let writer = tokio::spawn(async move {
        writing.write_all(&[3; 50_000]).await.unwrap();
        writing.flush().await.unwrap();
        writing
    });
    let reader = tokio::spawn(async move {
        let mut got = [0; 4];
        reading.read_exact(&mut got).await.unwrap();
        (got, reading)
    });
    for _ in 0..20 {
        far.write_all(&masked(0x89, b"ping")).await.unwrap();
        tokio::task::yield_now().await;
    }
    far.write_all(&masked(0x82, b"done")).await.unwrap();
    assert_eq!(
        &timeout(DEADLINE, reader).await.unwrap().unwrap().0,
        b"done"
    );

    let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let (mut data, mut pongs) = (0, 0);
    while data < 50_000 || pongs == 0 {
        match timeout(DEADLINE, client.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            Message::Binary(part) => data += part.len(),
            Message::Pong(_) => pongs += 1,
            other => panic!("{other:?}"),
        }
    }
    timeout(DEADLINE, writer).await.unwrap().unwrap();
}

/// Takes one byte per write, and none every other time, and has no vectored writes.
struct Trickle(DuplexStream, bool);

impl AsyncRead for Trickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1 = !self.1;
        if self.1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = buf.len().min(1);
        Pin::new(&mut self.0).poll_write(cx, &buf[..length])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn frames_stay_whole_on_a_stream_that_takes_single_bytes() {
    let (near, far) = duplex(64);
    let mut server = WsStream::new(
        Trickle(near, false),
        Subprotocol::Mqtt,
        Vec::new(),
        MAX_MESSAGE,
    );
    let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let serving = async {
        for size in [1, 200, 3000] {
            server.write_all(&vec![4; size]).await.unwrap();
        }
        server.shutdown().await.unwrap();
    };
    let reading = async {
        let mut sizes = Vec::new();
        while let Some(Ok(Message::Binary(part))) = client.next().await {
            assert!(part.iter().all(|octet| *octet == 4));
            sizes.push(part.len());
        }
        sizes
    };
    let ((), sizes) = timeout(DEADLINE, async { tokio::join!(serving, reading) })
        .await
        .unwrap();
    assert_eq!(sizes, [1, 200, 3000]);
}

#[tokio::test]
async fn mqtt_over_websocket_over_tls_passes_both_ways() {
    use std::sync::Arc;

    use rustls::{ClientConfig, RootCertStore};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, ServerName};
    use tokio_rustls::TlsConnector;

    use crate::tls::{
        Certificates, PrivateCa, ServerConfigs, ServerTlsSettings, TlsAcceptor, server_names,
    };

    let directory = tempfile::tempdir().unwrap();
    let ca = PrivateCa::open(directory.path(), server_names(&[]).unwrap()).unwrap();
    let certificates = Certificates::load(&ca.source()).unwrap();
    let configs = ServerConfigs::new(certificates, &ServerTlsSettings::default()).unwrap();
    let acceptor = TlsAcceptor::new(Arc::new(configs));
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca.ca_certificate()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];

    let (near, far) = duplex(4096);
    let data: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
    let serving = async {
        let tls = acceptor.accept(near).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let (mut reading, mut writing) = tokio::io::split(accept(tls, &settings()).await.unwrap());
        tokio::io::copy(&mut reading, &mut writing).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let asking = async {
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config))
            .connect(name, far)
            .await
            .unwrap();
        let mut hello = "wss://localhost/mqtt".into_client_request().unwrap();
        hello
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
        let (client, _) = tokio_tungstenite::client_async(hello, tls).await.unwrap();
        let (mut sending, mut receiving) = client.split();
        let send = async {
            for part in data.chunks(50_000) {
                sending.send(Message::binary(part.to_vec())).await.unwrap();
            }
        };
        let receive = async {
            let mut got = Vec::new();
            while got.len() < data.len() {
                got.extend_from_slice(&receiving.next().await.unwrap().unwrap().into_data());
            }
            got
        };
        let ((), got) = tokio::join!(send, receive);
        assert!(got == data);
        sending.close().await.unwrap();
        while let Some(Ok(_)) = receiving.next().await {}
    };
    timeout(DEADLINE, async { tokio::join!(serving, asking) })
        .await
        .unwrap();
}
