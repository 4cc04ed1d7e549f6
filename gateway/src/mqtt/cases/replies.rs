//! What the server writes.

use std::num::NonZeroU16;

use super::{V5, V31, V311, id};
use crate::mqtt::{
    Ack, Auth, ConnAck, Disconnect, PeerLimits, PublishFrame, Qos, ReasonCode, Reply, Version,
};

/// A reply and its bytes.
#[derive(Debug)]
pub struct ReplyCase {
    /// Names the rule or the boundary; unique.
    pub name: &'static str,
    pub version: Version,
    pub limits: PeerLimits,
    pub reply: Reply,
    /// Empty if this version has no such packet.
    pub bytes: &'static [u8],
}

/// A PUBLISH from the server and its bytes.
#[derive(Debug)]
pub struct FrameCase {
    /// Names the rule or the boundary; unique.
    pub name: &'static str,
    pub frame: PublishFrame<'static>,
    pub bytes: &'static [u8],
}

/// Replies of each kind in each version.
pub fn replies() -> Vec<ReplyCase> {
    [connacks(), acks(), subacks(), others(), limited()]
        .into_iter()
        .flatten()
        .collect()
}

fn row(name: &'static str, version: Version, reply: Reply, bytes: &'static [u8]) -> ReplyCase {
    ReplyCase {
        name,
        version,
        limits: PeerLimits::default(),
        reply,
        bytes,
    }
}

fn connack(connack: ConnAck) -> Reply {
    Reply::ConnAck(Box::new(connack))
}

fn connacks() -> Vec<ReplyCase> {
    let refusal = |reason| {
        connack(ConnAck {
            session_present: true,
            ..ConnAck::new(reason)
        })
    };
    let present = || {
        connack(ConnAck {
            session_present: true,
            ..ConnAck::default()
        })
    };
    vec![
        row("CONNACK 3.1.1 with session present", V311, present(), b"\x20\x02\x01\x00"),
        row("CONNACK 3.1 has no session present", V31, present(), b"\x20\x02\x00\x00"),
        row("CONNACK 5 with session present", V5, present(), b"\x20\x03\x01\x00\x00"),
        row("CONNACK 5 that refuses has no session present", V5, refusal(ReasonCode::NotAuthorized), b"\x20\x03\x00\x87\x00"),
        row("CONNACK 3.1.1 return code 1", V311, refusal(ReasonCode::UnsupportedProtocolVersion), b"\x20\x02\x00\x01"),
        row("CONNACK 3.1.1 return code 2", V311, refusal(ReasonCode::ClientIdentifierNotValid), b"\x20\x02\x00\x02"),
        row("CONNACK 3.1.1 return code 3, unavailable", V311, refusal(ReasonCode::ServerUnavailable), b"\x20\x02\x00\x03"),
        row("CONNACK 3.1.1 return code 3, busy", V311, refusal(ReasonCode::ServerBusy), b"\x20\x02\x00\x03"),
        row("CONNACK 3.1.1 return code 3, quota", V311, refusal(ReasonCode::QuotaExceeded), b"\x20\x02\x00\x03"),
        row("CONNACK 3.1.1 return code 4", V311, refusal(ReasonCode::BadUserNameOrPassword), b"\x20\x02\x00\x04"),
        row("CONNACK 3.1.1 return code 5", V311, refusal(ReasonCode::NotAuthorized), b"\x20\x02\x00\x05"),
        row("CONNACK 3.1 return code 5 for what MQTT 3 has no name for", V31, refusal(ReasonCode::Banned), b"\x20\x02\x00\x05"),
        row(
            "CONNACK 5 with every property",
            V5,
            connack(ConnAck {
                session_present: true,
                reason: ReasonCode::Success,
                session_expiry: Some(60),
                receive_maximum: Some(20),
                maximum_qos: Qos::AtLeastOnce,
                retain_available: false,
                maximum_packet_size: Some(4096),
                assigned_client_id: Some("id".into()),
                topic_alias_maximum: 8,
                reason_string: Some("r".into()),
                wildcard_subscription_available: false,
                subscription_identifiers_available: false,
                shared_subscription_available: false,
                server_keep_alive: Some(30),
                response_information: Some("ri".into()),
                server_reference: Some("sr".into()),
                authentication_method: Some("am".into()),
                authentication_data: Some(bytes::Bytes::from_static(b"ad")),
                user_properties: vec![("k".into(), "v".into())],
            }),
            b"\x20\x44\x01\x00\x41\x11\x00\x00\x00\x3c\x21\x00\x14\x24\x01\x27\x00\x00\x10\x00\x22\x00\x08\x13\x00\x1e\
              \x25\x00\x28\x00\x29\x00\x2a\x00\x12\x00\x02id\x1a\x00\x02ri\x1c\x00\x02sr\x15\x00\x02am\x16\x00\x02ad\
              \x1f\x00\x01r\x26\x00\x01k\x00\x01v",
        ),
    ]
}

fn acks() -> Vec<ReplyCase> {
    let ok = || Ack::new(id(0x0102), ReasonCode::Success);
    let denied = || Ack::new(id(0x0102), ReasonCode::NotAuthorized);
    let explained = || Ack {
        reason_string: Some("no".into()),
        ..denied()
    };
    vec![
        row(
            "PUBACK 3.1.1",
            V311,
            Reply::PubAck(explained()),
            b"\x40\x02\x01\x02",
        ),
        row(
            "PUBREC 3.1",
            V31,
            Reply::PubRec(denied()),
            b"\x50\x02\x01\x02",
        ),
        row(
            "PUBREL 3.1.1",
            V311,
            Reply::PubRel(ok()),
            b"\x62\x02\x01\x02",
        ),
        row(
            "PUBCOMP 3.1.1",
            V311,
            Reply::PubComp(ok()),
            b"\x70\x02\x01\x02",
        ),
        row("PUBACK 5", V5, Reply::PubAck(ok()), b"\x40\x02\x01\x02"),
        row("PUBREC 5", V5, Reply::PubRec(ok()), b"\x50\x02\x01\x02"),
        row("PUBREL 5", V5, Reply::PubRel(ok()), b"\x62\x02\x01\x02"),
        row("PUBCOMP 5", V5, Reply::PubComp(ok()), b"\x70\x02\x01\x02"),
        row(
            "PUBACK 5 with a reason",
            V5,
            Reply::PubAck(denied()),
            b"\x40\x04\x01\x02\x87\x00",
        ),
        row(
            "PUBREC 5 with a reason string",
            V5,
            Reply::PubRec(explained()),
            b"\x50\x09\x01\x02\x87\x05\x1f\x00\x02no",
        ),
        row(
            "PUBREL 5 with reason Packet identifier not found",
            V5,
            Reply::PubRel(Ack::new(id(0x0102), ReasonCode::PacketIdentifierNotFound)),
            b"\x62\x04\x01\x02\x92\x00",
        ),
        row(
            "PUBCOMP 5 with a user property",
            V5,
            Reply::PubComp(Ack {
                user_properties: vec![("k".into(), "v".into())],
                ..ok()
            }),
            b"\x70\x0b\x01\x02\x00\x07\x26\x00\x01k\x00\x01v",
        ),
    ]
}

fn suback(reasons: &[ReasonCode], reason_string: Option<&str>) -> Reply {
    Reply::SubAck {
        packet_id: id(10),
        reasons: reasons.to_vec(),
        reason_string: reason_string.map(Into::into),
        user_properties: Vec::new(),
    }
}

fn subacks() -> Vec<ReplyCase> {
    let mixed = [
        ReasonCode::Success,
        ReasonCode::GrantedQos1,
        ReasonCode::GrantedQos2,
        ReasonCode::NotAuthorized,
        ReasonCode::TopicFilterInvalid,
    ];
    let unsuback = || Reply::UnsubAck {
        packet_id: id(10),
        reasons: vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted],
        reason_string: None,
        user_properties: vec![("k".into(), "v".into())],
    };
    vec![
        row(
            "SUBACK 3.1.1 says 0x80 for every refusal",
            V311,
            suback(&mixed, Some("r")),
            b"\x90\x07\x00\x0a\x00\x01\x02\x80\x80",
        ),
        row(
            "SUBACK 3.1",
            V31,
            suback(&mixed[..3], None),
            b"\x90\x05\x00\x0a\x00\x01\x02",
        ),
        row(
            "SUBACK 5",
            V5,
            suback(&mixed, None),
            b"\x90\x08\x00\x0a\x00\x00\x01\x02\x87\x8f",
        ),
        row(
            "SUBACK 5 with a reason string",
            V5,
            suback(&mixed[3..4], Some("r")),
            b"\x90\x08\x00\x0a\x04\x1f\x00\x01r\x87",
        ),
        row("UNSUBACK 3.1.1", V311, unsuback(), b"\xb0\x02\x00\x0a"),
        row("UNSUBACK 3.1", V31, unsuback(), b"\xb0\x02\x00\x0a"),
        row(
            "UNSUBACK 5",
            V5,
            unsuback(),
            b"\xb0\x0c\x00\x0a\x07\x26\x00\x01k\x00\x01v\x00\x11",
        ),
    ]
}

fn others() -> Vec<ReplyCase> {
    let disconnect = || Disconnect {
        reason_string: Some("r".into()),
        server_reference: Some("s".into()),
        ..Disconnect::new(ReasonCode::SessionTakenOver)
    };
    let auth = || Auth {
        reason: ReasonCode::ContinueAuthentication,
        method: Some("m".into()),
        data: Some(bytes::Bytes::from_static(b"d")),
        reason_string: None,
        user_properties: Vec::new(),
    };
    vec![
        row("PINGRESP 3.1.1", V311, Reply::PingResp, b"\xd0\x00"),
        row("PINGRESP 5", V5, Reply::PingResp, b"\xd0\x00"),
        row(
            "DISCONNECT 3.1.1 is not for servers",
            V311,
            Reply::Disconnect(disconnect()),
            b"",
        ),
        row(
            "DISCONNECT 3.1 is not for servers",
            V31,
            Reply::Disconnect(disconnect()),
            b"",
        ),
        row(
            "DISCONNECT 5",
            V5,
            Reply::Disconnect(disconnect()),
            b"\xe0\x0a\x8e\x08\x1c\x00\x01s\x1f\x00\x01r",
        ),
        row("AUTH 3.1.1 does not exist", V311, Reply::Auth(auth()), b""),
        row(
            "AUTH 5",
            V5,
            Reply::Auth(auth()),
            b"\xf0\x0a\x18\x08\x15\x00\x01m\x16\x00\x01d",
        ),
    ]
}

/// What a client's maximum packet size and request problem information leave of a reply.
fn limited() -> Vec<ReplyCase> {
    let told = |name, maximum, informed, reply, bytes| ReplyCase {
        name,
        version: V5,
        limits: PeerLimits {
            maximum_packet_size: maximum,
            problem_information: informed,
        },
        reply,
        bytes,
    };
    let puback = || {
        Reply::PubAck(Ack {
            reason_string: Some("no".into()),
            user_properties: vec![("k".into(), "v".into())],
            ..Ack::new(id(1), ReasonCode::NotAuthorized)
        })
    };
    let properties = || vec![("k".into(), "v".into())];
    let connack = || {
        connack(ConnAck {
            user_properties: properties(),
            ..ConnAck::new(ReasonCode::NotAuthorized)
        })
    };
    let disconnect = || {
        Reply::Disconnect(Disconnect {
            reason_string: Some("r".into()),
            ..Disconnect::new(ReasonCode::ServerBusy)
        })
    };
    vec![
        told(
            "PUBACK 5 that just fits",
            Some(18),
            true,
            puback(),
            b"\x40\x10\x00\x01\x87\x0c\x1f\x00\x02no\x26\x00\x01k\x00\x01v",
        ),
        told(
            "PUBACK 5 loses user properties first",
            Some(17),
            true,
            puback(),
            b"\x40\x09\x00\x01\x87\x05\x1f\x00\x02no",
        ),
        told(
            "PUBACK 5 loses its reason string next",
            Some(10),
            true,
            puback(),
            b"\x40\x04\x00\x01\x87\x00",
        ),
        told(
            "PUBACK 5 without problem information",
            None,
            false,
            puback(),
            b"\x40\x04\x00\x01\x87\x00",
        ),
        told(
            "SUBACK 5 without problem information",
            None,
            false,
            suback(&[ReasonCode::NotAuthorized], Some("r")),
            b"\x90\x04\x00\x0a\x00\x87",
        ),
        told(
            "CONNACK 5 keeps its user properties without problem information",
            None,
            false,
            connack(),
            b"\x20\x0a\x00\x87\x07\x26\x00\x01k\x00\x01v",
        ),
        told(
            "CONNACK 5 loses them to a maximum packet size",
            Some(11),
            true,
            connack(),
            b"\x20\x03\x00\x87\x00",
        ),
        told(
            "DISCONNECT 5 keeps its reason string without problem information",
            None,
            false,
            disconnect(),
            b"\xe0\x06\x89\x04\x1f\x00\x01r",
        ),
    ]
}

/// PUBLISH packets from the server.
pub fn frames() -> Vec<FrameCase> {
    let plain = |version| PublishFrame {
        version,
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: "a/b",
        packet_id: None,
        properties: b"",
        message_expiry: None,
        subscription_ids: &[],
        topic_alias: None,
        payload: b"hi",
    };
    let full = PublishFrame {
        dup: true,
        qos: Qos::ExactlyOnce,
        retain: true,
        packet_id: Some(id(0x0102)),
        properties: b"\x01\x01\x26\x00\x01k\x00\x01v",
        message_expiry: Some(60),
        subscription_ids: &[1, 128, 268_435_455],
        topic_alias: NonZeroU16::new(7),
        ..plain(V5)
    };
    let v311 = PublishFrame {
        version: V311,
        ..full
    };
    vec![
        FrameCase { name: "PUBLISH 3.1.1 at QoS 0", frame: plain(V311), bytes: b"\x30\x07\x00\x03a/bhi" },
        FrameCase { name: "PUBLISH 3.1 at QoS 0", frame: plain(V31), bytes: b"\x30\x07\x00\x03a/bhi" },
        FrameCase { name: "PUBLISH 5 at QoS 0", frame: plain(V5), bytes: b"\x30\x08\x00\x03a/b\x00hi" },
        FrameCase { name: "PUBLISH 3.1.1 drops properties", frame: v311, bytes: b"\x3d\x09\x00\x03a/b\x01\x02hi" },
        FrameCase {
            name: "PUBLISH 5 with everything",
            frame: full,
            bytes: b"\x3d\x25\x00\x03a/b\x01\x02\x1b\x23\x00\x07\x02\x00\x00\x00\x3c\x0b\x01\x0b\x80\x01\x0b\xff\xff\xff\x7f\
                     \x01\x01\x26\x00\x01k\x00\x01vhi",
        },
        FrameCase {
            name: "PUBLISH 5 with an alias for its topic",
            frame: PublishFrame { topic: "", topic_alias: NonZeroU16::new(1), ..plain(V5) },
            bytes: b"\x30\x08\x00\x00\x03\x23\x00\x01hi",
        },
        FrameCase {
            name: "PUBLISH 5 at QoS 0 has neither DUP nor packet identifier",
            frame: PublishFrame { dup: true, packet_id: Some(id(1)), ..plain(V5) },
            bytes: b"\x30\x08\x00\x03a/b\x00hi",
        },
        FrameCase {
            name: "PUBLISH 3.1.1 that deletes a retained message",
            frame: PublishFrame { retain: true, payload: b"", ..plain(V311) },
            bytes: b"\x31\x05\x00\x03a/b",
        },
    ]
}
