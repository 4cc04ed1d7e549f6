//! PINGREQ, DISCONNECT, AUTH, fixed headers, and packets that a client must not send.

use bytes::Bytes;

use super::{
    Case, Expect, MalformedPacket, PacketTooLarge, ProtocolError, Stage, V5, V31, V311, bad, good,
    packet, plain_connect,
};
use crate::mqtt::{Auth, Disconnect, Packet, ReasonCode, Version};

pub(super) fn cases() -> Vec<Case> {
    [
        pings(),
        disconnects(),
        refused_disconnects(),
        auths(),
        headers(),
        not_for_clients(),
        first_packets(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn pings() -> Vec<Case> {
    vec![
        good("PINGREQ 3.1", V31, packet(0xc0, b""), Packet::PingReq),
        good("PINGREQ 3.1.1", V311, packet(0xc0, b""), Packet::PingReq),
        good("PINGREQ 5", V5, packet(0xc0, b""), Packet::PingReq),
        bad(
            "PINGREQ 3.1.1 with a body",
            V311,
            packet(0xc0, b"\x00"),
            MalformedPacket,
        ),
        bad(
            "PINGREQ 5 with a body, header only",
            V5,
            b"\xc0\x05".to_vec(),
            MalformedPacket,
        ),
        bad(
            "PINGREQ 3.1.1 with flags, first byte only",
            V311,
            b"\xc1".to_vec(),
            MalformedPacket,
        ),
    ]
}

fn disconnects() -> Vec<Case> {
    let row = |name, version, body: &[u8], disconnect: Disconnect| {
        good(
            name,
            version,
            packet(0xe0, body),
            Packet::Disconnect(Box::new(disconnect)),
        )
    };
    let normal = || Disconnect::new(ReasonCode::Success);
    let with_will = ReasonCode::DisconnectWithWillMessage;
    vec![
        row("DISCONNECT 3.1.1", V311, b"", normal()),
        row("DISCONNECT 3.1", V31, b"", normal()),
        row("DISCONNECT 5", V5, b"", normal()),
        row("DISCONNECT 5 with reason Normal", V5, b"\x00", normal()),
        row(
            "DISCONNECT 5 with reason and no properties",
            V5,
            b"\x00\x00",
            normal(),
        ),
        row(
            "DISCONNECT 5 with will message",
            V5,
            b"\x04",
            Disconnect::new(with_will),
        ),
        row(
            "DISCONNECT 5 with every property",
            V5,
            b"\x04\x14\x11\x00\x00\x00\x05\x1f\x00\x01r\x26\x00\x01k\x00\x01v\x1c\x00\x01s",
            Disconnect {
                session_expiry: Some(5),
                reason_string: Some("r".into()),
                user_properties: vec![("k".into(), "v".into())],
                server_reference: Some("s".into()),
                ..Disconnect::new(with_will)
            },
        ),
        row(
            "DISCONNECT 5 that ends its session",
            V5,
            b"\x00\x05\x11\x00\x00\x00\x00",
            Disconnect {
                session_expiry: Some(0),
                ..normal()
            },
        ),
        row(
            "DISCONNECT 5 because of a packet too large",
            V5,
            b"\x95",
            Disconnect::new(ReasonCode::PacketTooLarge),
        ),
    ]
}

fn refused_disconnects() -> Vec<Case> {
    vec![
        bad(
            "DISCONNECT 3.1.1 with a body",
            V311,
            packet(0xe0, b"\x00"),
            MalformedPacket,
        ),
        bad(
            "DISCONNECT 3.1 with a body",
            V31,
            packet(0xe0, b"\x00"),
            MalformedPacket,
        ),
        bad(
            "DISCONNECT 3.1.1 with flags",
            V311,
            packet(0xe2, b""),
            MalformedPacket,
        ),
        bad(
            "DISCONNECT 5 with flags",
            V5,
            packet(0xe1, b""),
            MalformedPacket,
        ),
        bad(
            "DISCONNECT 5 with the unknown reason 0x7F",
            V5,
            packet(0xe0, b"\x7f"),
            ProtocolError,
        ),
        bad(
            "DISCONNECT 5 with reason Session taken over",
            V5,
            packet(0xe0, b"\x8e"),
            ProtocolError,
        ),
        bad(
            "DISCONNECT 5 with bytes behind it",
            V5,
            packet(0xe0, b"\x00\x00\x00"),
            MalformedPacket,
        ),
        bad(
            "DISCONNECT 5 with properties past its end",
            V5,
            packet(0xe0, b"\x00\x05"),
            MalformedPacket,
        ),
        bad(
            "DISCONNECT 5 with two session expiries",
            V5,
            packet(0xe0, b"\x00\x0a\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01"),
            ProtocolError,
        ),
        bad(
            "DISCONNECT 5 with a receive maximum",
            V5,
            packet(0xe0, b"\x00\x03\x21\x00\x01"),
            MalformedPacket,
        ),
        bad(
            "DISCONNECT 5 with U+0000 in its reason string",
            V5,
            packet(0xe0, b"\x00\x04\x1f\x00\x01\x00"),
            MalformedPacket,
        ),
    ]
}

fn auths() -> Vec<Case> {
    let auth = |reason| Auth {
        reason,
        method: Some("SCRAM".into()),
        data: Some(Bytes::from_static(b"\x00\xff")),
        reason_string: None,
        user_properties: Vec::new(),
    };
    let row =
        |name, body: &[u8], auth| good(name, V5, packet(0xf0, body), Packet::Auth(Box::new(auth)));
    vec![
        row(
            "AUTH that continues",
            b"\x18\x0d\x15\x00\x05SCRAM\x16\x00\x02\x00\xff",
            auth(ReasonCode::ContinueAuthentication),
        ),
        row(
            "AUTH that re-authenticates with every property",
            b"\x19\x18\x15\x00\x05SCRAM\x16\x00\x02\x00\xff\x1f\x00\x01r\x26\x00\x01k\x00\x01v",
            Auth {
                reason_string: Some("r".into()),
                user_properties: vec![("k".into(), "v".into())],
                ..auth(ReasonCode::ReAuthenticate)
            },
        ),
        bad("AUTH without a body", V5, packet(0xf0, b""), ProtocolError),
        bad(
            "AUTH with reason Success",
            V5,
            packet(0xf0, b"\x00\x08\x15\x00\x05SCRAM"),
            ProtocolError,
        ),
        bad(
            "AUTH with the unknown reason 0x1A",
            V5,
            packet(0xf0, b"\x1a\x08\x15\x00\x05SCRAM"),
            ProtocolError,
        ),
        bad(
            "AUTH without properties",
            V5,
            packet(0xf0, b"\x18"),
            ProtocolError,
        ),
        bad(
            "AUTH without a method",
            V5,
            packet(0xf0, b"\x18\x04\x16\x00\x01d"),
            ProtocolError,
        ),
        bad(
            "AUTH with two methods",
            V5,
            packet(0xf0, b"\x18\x08\x15\x00\x01a\x15\x00\x01a"),
            ProtocolError,
        ),
        bad(
            "AUTH with a session expiry",
            V5,
            packet(0xf0, b"\x18\x05\x11\x00\x00\x00\x01"),
            MalformedPacket,
        ),
        bad(
            "AUTH with bytes behind it",
            V5,
            packet(0xf0, b"\x18\x04\x15\x00\x01a\x00"),
            MalformedPacket,
        ),
        bad(
            "AUTH with flags",
            V5,
            packet(0xf1, b"\x18\x04\x15\x00\x01a"),
            MalformedPacket,
        ),
        bad("AUTH in 3.1.1", V311, packet(0xf0, b""), MalformedPacket),
    ]
}

fn headers() -> Vec<Case> {
    let incomplete = |name, version, bytes: &[u8]| Case {
        name,
        version,
        stage: Stage::Connected,
        bytes: bytes.to_vec(),
        expect: Expect::Incomplete,
    };
    vec![
        Case {
            stage: Stage::First,
            ..incomplete(
                "a CONNECT without its last byte",
                V5,
                b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01",
            )
        },
        incomplete("nothing", V5, b""),
        incomplete("a first byte", V5, b"\x30"),
        incomplete("a remaining length that goes on", V5, b"\x30\x80\x80"),
        incomplete("a fixed header", V311, b"\x30\x07"),
        incomplete(
            "a PUBLISH without its last byte",
            V311,
            b"\x30\x07\x00\x03a/bh",
        ),
        bad(
            "a remaining length of five bytes",
            V311,
            b"\x30\x80\x80\x80\x80".to_vec(),
            MalformedPacket,
        ),
        bad(
            "a remaining length of five bytes in MQTT 5",
            V5,
            b"\x30\xff\xff\xff\xff\x01".to_vec(),
            MalformedPacket,
        ),
        bad(
            "PINGREQ 5 with a remaining length in needless bytes",
            V5,
            b"\xc0\x80\x00".to_vec(),
            MalformedPacket,
        ),
        bad(
            "PUBACK 5 with a remaining length in needless bytes",
            V5,
            b"\x40\x82\x00\x01\x02".to_vec(),
            MalformedPacket,
        ),
        good(
            "PINGREQ 3.1.1 with a remaining length in needless bytes",
            V311,
            b"\xc0\x80\x00".to_vec(),
            Packet::PingReq,
        ),
    ]
}

fn not_for_clients() -> Vec<Case> {
    let mut cases = vec![
        bad(
            "a second CONNECT in 3.1",
            V31,
            plain_connect(V31).to_vec(),
            ProtocolError,
        ),
        bad(
            "a second CONNECT in 3.1.1",
            V311,
            plain_connect(V311).to_vec(),
            ProtocolError,
        ),
        bad(
            "a second CONNECT in 5",
            V5,
            plain_connect(V5).to_vec(),
            ProtocolError,
        ),
        bad(
            "reserved packet type 0 in 3.1.1",
            V311,
            packet(0x00, b""),
            MalformedPacket,
        ),
        bad(
            "reserved packet type 0 in 5",
            V5,
            packet(0x00, b""),
            MalformedPacket,
        ),
        bad(
            "reserved packet type 15 in 3.1",
            V31,
            packet(0xf0, b""),
            MalformedPacket,
        ),
    ];
    let server_packets: [(&'static str, Version, &[u8]); 8] = [
        ("CONNACK 3.1.1 from a client", V311, b"\x20\x02\x00\x00"),
        ("CONNACK 5 from a client", V5, b"\x20\x03\x00\x00\x00"),
        ("SUBACK 3.1.1 from a client", V311, b"\x90\x03\x00\x0a\x00"),
        ("SUBACK 5 from a client", V5, b"\x90\x04\x00\x0a\x00\x00"),
        ("UNSUBACK 3.1.1 from a client", V311, b"\xb0\x02\x00\x0a"),
        ("UNSUBACK 5 from a client", V5, b"\xb0\x04\x00\x0a\x00\x00"),
        ("PINGRESP 3.1.1 from a client", V311, b"\xd0\x00"),
        ("PINGRESP 5 from a client", V5, b"\xd0\x00"),
    ];
    cases.extend(
        server_packets
            .map(|(name, version, bytes)| bad(name, version, bytes.to_vec(), ProtocolError)),
    );
    cases
}

fn first_packets() -> Vec<Case> {
    let first = |name, version, bytes: &[u8], reason| Case {
        name,
        version,
        stage: Stage::First,
        bytes: bytes.to_vec(),
        expect: Expect::Refused(reason),
    };
    vec![
        first(
            "PUBLISH before CONNECT",
            V311,
            b"\x30\x07\x00\x03a/bhi",
            ProtocolError,
        ),
        first(
            "SUBSCRIBE before CONNECT",
            V5,
            b"\x82\x07\x00\x0a\x00\x00\x01a\x00",
            ProtocolError,
        ),
        first("PINGREQ before CONNECT", V311, b"\xc0\x00", ProtocolError),
        first(
            "DISCONNECT before CONNECT",
            V311,
            b"\xe0\x00",
            ProtocolError,
        ),
        first("AUTH before CONNECT", V5, b"\xf0\x00", ProtocolError),
        first(
            "an HTTP request before CONNECT",
            V311,
            b"GET / HTTP/1.1\r\n\r\n",
            ProtocolError,
        ),
        first(
            "a TLS ClientHello before CONNECT",
            V311,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
            MalformedPacket,
        ),
        first(
            "CONNECT with flags, first byte only",
            V311,
            b"\x11",
            MalformedPacket,
        ),
        first(
            "CONNECT with the largest remaining length, header only",
            V311,
            b"\x10\xff\xff\xff\x7f",
            PacketTooLarge,
        ),
        first(
            "CONNECT with a remaining length of five bytes",
            V311,
            b"\x10\xff\xff\xff\xff",
            MalformedPacket,
        ),
    ]
}
