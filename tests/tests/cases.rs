//! Does the live gateway do with each case of the codec's table what the table says? The same bytes that its decoder
//! is tested with, sent to a port.

use gateway::mqtt::cases::{Case, Expect, MAXIMUM_PACKET_SIZE, Stage, all, plain_connect};
use gateway::mqtt::{Packet as Decoded, Version as TableVersion};
use postern_tests::packet::{PINGREQ, Packet, Version};
use postern_tests::{Client, Gateway, Setup};

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

async fn at_first(gateway: &Gateway, case: &Case) -> Verdict {
    let mut client = gateway.open().await;
    client.version = version(case);
    let sent = client.try_send(&case.bytes).await;
    match &case.expect {
        Expect::Incomplete => {
            sent.map_err(|e| e.to_string())?;
            client.vanish();
            Ok(())
        }
        // No CONNACK is that small [MQTT-3.1.2-24].
        Expect::Packet(Decoded::Connect(connect))
            if connect.maximum_packet_size.is_some_and(|n| n < 5) =>
        {
            let answer = client.frame().await;
            answer.map_or(Ok(()), |more| {
                Err(format!("{more:02x?} is larger than allowed"))
            })
        }
        // Let in, or refused for what the decoder does not judge: credentials, methods, client identifiers.
        Expect::Packet(_) => match client.frame().await {
            Some((0x20, _)) => Ok(()),
            other => Err(format!("{other:02x?} instead of CONNACK")),
        },
        Expect::Refused(reason) => match client.frame().await {
            None => Ok(()),
            Some((0x20, body)) => {
                // A refused version is answered in the form of either.
                let v3_codes = 1..=5;
                if body[1] != *reason as u8 && !v3_codes.contains(&body[1]) {
                    return Err(format!(
                        "CONNACK {:#04x} instead of {:#04x}",
                        body[1], *reason as u8
                    ));
                }
                client
                    .frame()
                    .await
                    .map_or(Ok(()), |more| Err(format!("{more:02x?} after the refusal")))
            }
            other => Err(format!("{other:02x?}")),
        },
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
    match &case.expect {
        Expect::Incomplete => Ok(()),
        Expect::Packet(packet) => alive(&mut client, packet).await,
        Expect::Refused(reason) => {
            let code = last_code(&mut client).await;
            let wanted = (client.version == Version::V5).then_some(*reason as u8);
            if code == wanted {
                Ok(())
            } else {
                Err(format!("{code:02x?} instead of {wanted:02x?}"))
            }
        }
    }
}

/// A valid packet leaves the connection alive, unless it ends it or the session has a reason of its own.
async fn alive(client: &mut Client, packet: &Decoded) -> Verdict {
    let allowed: &[Option<u8>] = match packet {
        Decoded::Disconnect(_) => &[None, Some(0x82)],
        // No authentication method was agreed on.
        Decoded::Auth(_) => &[Some(0x82)],
        // The table uses every alias there is; the gateway offers sixteen, and none is known yet.
        Decoded::Publish(publish) if publish.topic_alias.is_some() => &[Some(0x94), Some(0x82)],
        _ => &[],
    };
    let _ = client.try_send(&PINGREQ).await;
    loop {
        let code = match client.next().await {
            Some(Packet::PingResp) => return Ok(()),
            Some(Packet::Disconnect(reason)) => Some(reason.code),
            Some(_) => continue,
            None => None,
        };
        return if allowed.contains(&code) {
            Ok(())
        } else {
            Err(format!("the connection ended with {code:02x?}"))
        };
    }
}

/// The reason code of DISCONNECT, if the connection ends with one.
async fn last_code(client: &mut Client) -> Option<u8> {
    let _ = client.try_send(&PINGREQ).await;
    let mut code = None;
    while let Some(packet) = client.next().await {
        match packet {
            Packet::Disconnect(reason) => code = Some(reason.code),
            Packet::PingResp => return None,
            _ => {}
        }
    }
    code
}

#[tokio::test]
async fn the_live_gateway_does_with_every_case_what_the_table_says() {
    let gateway = open_gateway().await;
    let mut wrong = Vec::new();
    for case in all() {
        let verdict = match case.stage {
            Stage::First => at_first(&gateway, &case).await,
            Stage::Connected => connected(&gateway, &case).await,
        };
        if let Err(what) = verdict {
            wrong.push(format!("{:?} {}: {what}", case.version, case.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        all().len(),
        wrong.join("\n")
    );
}
