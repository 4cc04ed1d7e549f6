//! Does the live gateway do with each case of the codec's table what the table says? The same bytes that its decoder
//! is tested with, sent to a port.

use std::time::Duration;

use gateway::mqtt::cases::{Case, Expect, MAXIMUM_PACKET_SIZE, Stage, all, plain_connect};
use gateway::mqtt::{Connect, Packet as Decoded, ReasonCode, Version as TableVersion};
use postern_tests::packet::{PINGREQ, Packet, Version};
use postern_tests::{Client, Gateway, Setup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The cases know no password, so that everybody is let in here.
async fn open_gateway() -> Gateway {
    let limits = format!(
        "[auth]\nallow_anonymous = true\nanonymous_role = \"anonymous\"\n\
         [limits]\nmax_packet_size = {MAXIMUM_PACKET_SIZE}\nfirst_packet_max = {MAXIMUM_PACKET_SIZE}\n"
    );
    let gateway = Setup::new().toml(&limits).start().await;
    for action in ["publish", "subscribe"] {
        gateway
            .acl(&format!("allow {action} # --role anonymous"))
            .await;
    }
    gateway
}

fn version(case: &Case) -> Version {
    match case.version {
        TableVersion::V31 => Version::V31,
        TableVersion::V311 => Version::V311,
        TableVersion::V5 => Version::V5,
    }
}

/// What came back, in words, if it is not what the table says.
type Verdict = Result<(), String>;

/// `Ok` if they are equal.
fn same<T: PartialEq + std::fmt::Debug>(came: T, wanted: T) -> Verdict {
    if came == wanted {
        Ok(())
    } else {
        Err(format!("{came:02x?} instead of {wanted:02x?}"))
    }
}

async fn at_first(gateway: &Gateway, case: &Case) -> Verdict {
    let mut client = gateway.open().await;
    client.version = version(case);
    let _ = client.try_send(&case.bytes).await;
    match &case.expect {
        Expect::Packet(Decoded::Connect(connect)) => welcome(&mut client, connect).await,
        Expect::Refused(reason) => refused(&mut client, case, *reason).await,
        other => Err(format!("no CONNECT can be {other:?}")),
    }
}

/// A valid CONNECT is accepted, unless it presents credentials: here everybody is anonymous.
async fn welcome(client: &mut Client, connect: &Connect) -> Verdict {
    let answer = client.frame().await;
    if connect.maximum_packet_size.is_some_and(|n| n < 5) {
        // No CONNACK is that small [MQTT-3.1.2-24].
        return same(answer, None);
    }
    let v5 = client.version == Version::V5;
    let wanted = if connect.authentication_method.is_some() {
        0x8C
    } else if connect.username.is_some() || connect.password.is_some() {
        if v5 { 0x86 } else { 4 }
    } else {
        0
    };
    match answer {
        Some((0x20, body)) => same(body[1], wanted)?,
        other => return Err(format!("{other:02x?} instead of CONNACK {wanted:#04x}")),
    }
    if wanted != 0 {
        return same(client.frame().await, None);
    }
    let _ = client.try_send(&PINGREQ).await;
    same(client.frame().await, Some((0xD0, vec![])))
}

/// A refused CONNECT gets the CONNACK that its version has for the reason, or none, and the end.
async fn refused(client: &mut Client, case: &Case, reason: ReasonCode) -> Verdict {
    let wanted = refusal(case, reason).map(|body| (0x20, body));
    let answer = client.frame().await;
    let answered = answer.is_some();
    same(answer, wanted)?;
    if answered {
        same(client.frame().await, None)?;
    }
    Ok(())
}

/// The body of that CONNACK.
fn refusal(case: &Case, reason: ReasonCode) -> Option<Vec<u8>> {
    let first = *case.bytes.first()?;
    // One length byte: no refused CONNECT of the table whose body matters has more, but the ones with needless bytes.
    let length = 1 + case
        .bytes
        .iter()
        .skip(1)
        .position(|byte| byte & 0x80 == 0)?;
    let body = case.bytes.get(length + 1..)?;
    let says = |name: &[u8]| first == 0x10 && body.starts_with(name);
    let v5 = says(b"\x00\x04MQTT\x05");
    match reason {
        ReasonCode::UnsupportedProtocolVersion => {
            let named = says(b"\x00\x04MQTT") || says(b"\x00\x06MQIsdp");
            named.then(|| match case.version {
                TableVersion::V5 => vec![0, 0x84, 0],
                _ => vec![0, 1],
            })
        }
        ReasonCode::ClientIdentifierNotValid => Some(vec![0, 2]),
        // Refused by its size alone, before it said its version.
        ReasonCode::PacketTooLarge => None,
        other => v5.then(|| vec![0, other as u8, 0]),
    }
}

async fn connected(gateway: &Gateway, case: &Case) -> Verdict {
    let mut client = gateway.open().await;
    client.version = version(case);
    client.send(plain_connect(case.version)).await;
    let Packet::ConnAck(connack) = client.packet().await else {
        return Err("no CONNACK".into());
    };
    assert_eq!(connack.code, 0, "anonymous clients are let in here");
    let _ = client.try_send(&case.bytes).await;
    let _ = client.try_send(&PINGREQ).await;
    let end = end(&mut client).await;
    let wanted = match &case.expect {
        Expect::Packet(packet) => end_of(packet),
        Expect::Refused(reason) if client.version == Version::V5 => End::Told(*reason as u8),
        Expect::Refused(_) => End::Closed,
        Expect::Incomplete => return Err("an incomplete case has a test of its own".into()),
    };
    same(end, wanted)
}

/// What became of a connection.
#[derive(Debug, PartialEq)]
enum End {
    /// It goes on: PINGREQ was answered.
    Alive,
    /// Closed without a word.
    Closed,
    /// Closed after DISCONNECT with this reason code.
    Told(u8),
}

async fn end(client: &mut Client) -> End {
    let mut end = End::Closed;
    while let Some(packet) = client.next().await {
        match packet {
            Packet::PingResp => return End::Alive,
            Packet::Disconnect(reason) => end = End::Told(reason.code),
            _ => {}
        }
    }
    end
}

/// A valid packet leaves the connection alive, unless it ends it or means nothing in this session.
fn end_of(packet: &Decoded) -> End {
    match packet {
        // The CONNECT before it had no session expiry interval.
        Decoded::Disconnect(disconnect) if disconnect.session_expiry.is_some_and(|n| n > 0) => {
            End::Told(0x82)
        }
        Decoded::Disconnect(_) => End::Closed,
        // No authentication method was agreed on.
        Decoded::Auth(_) => End::Told(0x82),
        // The table uses every alias there is; the gateway offers sixteen, and none is known yet.
        Decoded::Publish(publish) => match publish.topic_alias {
            Some(alias) if alias.get() > 16 => End::Told(0x94),
            Some(_) if publish.topic.is_empty() => End::Told(0x82),
            _ => End::Alive,
        },
        _ => End::Alive,
    }
}

#[tokio::test]
async fn the_live_gateway_does_with_every_case_what_the_table_says() {
    let gateway = open_gateway().await;
    let mut wrong = Vec::new();
    let judged: Vec<_> = all()
        .into_iter()
        .filter(|case| !matches!(case.expect, Expect::Incomplete))
        .collect();
    // One after the other: most of them use the same client identifier.
    for case in &judged {
        let verdict = match case.stage {
            Stage::First => at_first(&gateway, case).await,
            Stage::Connected => connected(&gateway, case).await,
        };
        if let Err(what) = verdict {
            wrong.push(format!("{:?} {}: {what}", case.version, case.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        judged.len(),
        wrong.join("\n")
    );
}

/// How long the gateway is watched for an answer to a part of a packet.
const SILENCE: Duration = Duration::from_millis(400);

#[tokio::test]
async fn a_part_of_a_packet_is_waited_on_without_an_answer() {
    let gateway = open_gateway().await;
    let mut watched = JoinSet::new();
    for case in all() {
        if !matches!(case.expect, Expect::Incomplete) {
            continue;
        }
        let stream = postern_tests::client::tcp(None, gateway.addresses.mqtt).await;
        // Not the identifier of the table: they are all connected at once.
        let id = watched.len() as u8;
        watched.spawn(async move {
            let verdict = incomplete(stream, &case, id).await;
            verdict.map_err(|what| format!("{:?} {}: {what}", case.version, case.name))
        });
    }
    assert!(!watched.is_empty(), "the table has such cases");
    let verdicts = watched.join_all().await;
    let wrong: Vec<_> = verdicts.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn incomplete(mut stream: TcpStream, case: &Case, id: u8) -> Verdict {
    if case.stage == Stage::Connected {
        let mut connect = plain_connect(case.version).to_vec();
        *connect.last_mut().expect("a client identifier") = b'd' + id;
        stream.write_all(&connect).await.expect("CONNECT is read");
        let length = if case.version == TableVersion::V5 {
            let mut head = [0; 2];
            stream.read_exact(&mut head).await.expect("CONNACK");
            head[1].into()
        } else {
            4
        };
        let mut connack = vec![0; length];
        stream.read_exact(&mut connack).await.expect("CONNACK");
    }
    stream.write_all(&case.bytes).await.expect("it is read");
    let mut answer = Vec::new();
    if let Ok(count) = tokio::time::timeout(SILENCE, stream.read_buf(&mut answer)).await {
        return Err(format!("{count:?} instead of silence: {answer:02x?}"));
    }
    // Nor does the end of the stream make a packet of it.
    stream.shutdown().await.expect("it is still connected");
    let rest = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    match rest {
        Ok(_) => same(answer, vec![]),
        Err(_) => Err("not closed after the end of the stream".into()),
    }
}
