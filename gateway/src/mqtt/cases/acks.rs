//! PUBACK, PUBREC, PUBREL and PUBCOMP from a client.

use super::{Case, MalformedPacket, ProtocolError, V5, V31, V311, bad, good, id, packet};
use crate::mqtt::{Ack, Packet, ReasonCode};

pub(super) fn cases() -> Vec<Case> {
    [accepted(), refused()].into_iter().flatten().collect()
}

fn accepted() -> Vec<Case> {
    let ok = || Ack::new(id(0x0102), ReasonCode::Success);
    let with_properties = |reason| Ack {
        reason_string: Some("r".into()),
        user_properties: vec![("k".into(), "v".into())],
        ..Ack::new(id(0x0102), reason)
    };
    let bare = b"\x01\x02";
    let not_found = ReasonCode::PacketIdentifierNotFound;
    vec![
        good(
            "PUBACK 3.1.1",
            V311,
            packet(0x40, bare),
            Packet::PubAck(ok()),
        ),
        good(
            "PUBREC 3.1.1",
            V311,
            packet(0x50, bare),
            Packet::PubRec(ok()),
        ),
        good(
            "PUBREL 3.1.1",
            V311,
            packet(0x62, bare),
            Packet::PubRel(ok()),
        ),
        good(
            "PUBCOMP 3.1.1",
            V311,
            packet(0x70, bare),
            Packet::PubComp(ok()),
        ),
        good(
            "PUBREL 3.1 sent again with DUP",
            V31,
            packet(0x6a, bare),
            Packet::PubRel(ok()),
        ),
        good("PUBACK 5", V5, packet(0x40, bare), Packet::PubAck(ok())),
        good("PUBREC 5", V5, packet(0x50, bare), Packet::PubRec(ok())),
        good("PUBREL 5", V5, packet(0x62, bare), Packet::PubRel(ok())),
        good("PUBCOMP 5", V5, packet(0x70, bare), Packet::PubComp(ok())),
        good(
            "PUBACK 5 with reason Success",
            V5,
            packet(0x40, b"\x01\x02\x00"),
            Packet::PubAck(ok()),
        ),
        good(
            "PUBACK 5 with reason and no properties",
            V5,
            packet(0x40, b"\x01\x02\x00\x00"),
            Packet::PubAck(ok()),
        ),
        good(
            "PUBACK 5 with reason Not authorized",
            V5,
            packet(0x40, b"\x01\x02\x87"),
            Packet::PubAck(Ack::new(id(0x0102), ReasonCode::NotAuthorized)),
        ),
        good(
            "PUBREC 5 with reason Payload format invalid and properties",
            V5,
            packet(0x50, b"\x01\x02\x99\x0b\x1f\x00\x01r\x26\x00\x01k\x00\x01v"),
            Packet::PubRec(with_properties(ReasonCode::PayloadFormatInvalid)),
        ),
        good(
            "PUBREL 5 with reason Packet identifier not found",
            V5,
            packet(0x62, b"\x01\x02\x92"),
            Packet::PubRel(Ack::new(id(0x0102), not_found)),
        ),
        good(
            "PUBCOMP 5 with reason Packet identifier not found and properties",
            V5,
            packet(0x70, b"\x01\x02\x92\x0b\x1f\x00\x01r\x26\x00\x01k\x00\x01v"),
            Packet::PubComp(with_properties(not_found)),
        ),
    ]
}

fn refused() -> Vec<Case> {
    vec![
        bad(
            "PUBACK 3.1.1 with packet identifier 0",
            V311,
            packet(0x40, b"\x00\x00"),
            ProtocolError,
        ),
        bad(
            "PUBREL 5 with packet identifier 0",
            V5,
            packet(0x62, b"\x00\x00"),
            ProtocolError,
        ),
        bad(
            "PUBCOMP 5 with packet identifier 0 and a reason",
            V5,
            packet(0x70, b"\x00\x00\x92"),
            ProtocolError,
        ),
        bad(
            "PUBACK 3.1.1 with a reason code",
            V311,
            packet(0x40, b"\x01\x02\x00"),
            MalformedPacket,
        ),
        bad(
            "PUBREL 3.1 with a reason code",
            V31,
            packet(0x62, b"\x01\x02\x00"),
            MalformedPacket,
        ),
        bad(
            "PUBACK 3.1.1 without a body, header only",
            V311,
            packet(0x40, b""),
            MalformedPacket,
        ),
        bad(
            "PUBREC 5 without a body",
            V5,
            packet(0x50, b""),
            MalformedPacket,
        ),
        bad(
            "PUBREC 5 with half a packet identifier",
            V5,
            packet(0x50, b"\x01"),
            MalformedPacket,
        ),
        bad(
            "PUBACK 3.1.1 with flags",
            V311,
            packet(0x42, b"\x01\x02"),
            MalformedPacket,
        ),
        bad(
            "PUBREC 5 with flags",
            V5,
            packet(0x51, b"\x01\x02"),
            MalformedPacket,
        ),
        bad(
            "PUBREL 3.1.1 without its flags",
            V311,
            packet(0x60, b"\x01\x02"),
            MalformedPacket,
        ),
        bad(
            "PUBREL 3.1.1 with DUP",
            V311,
            packet(0x6a, b"\x01\x02"),
            MalformedPacket,
        ),
        bad(
            "PUBREL 3.1 without its flags",
            V31,
            packet(0x60, b"\x01\x02"),
            MalformedPacket,
        ),
        bad(
            "PUBREL 5 with flags 0b0011",
            V5,
            packet(0x63, b"\x01\x02"),
            MalformedPacket,
        ),
        bad(
            "PUBCOMP 5 with flags",
            V5,
            packet(0x72, b"\x01\x02"),
            MalformedPacket,
        ),
        bad(
            "PUBACK 5 with reason Packet identifier not found",
            V5,
            packet(0x40, b"\x01\x02\x92"),
            ProtocolError,
        ),
        bad(
            "PUBACK 5 with the unknown reason 0x03",
            V5,
            packet(0x40, b"\x01\x02\x03"),
            ProtocolError,
        ),
        bad(
            "PUBREL 5 with reason Not authorized",
            V5,
            packet(0x62, b"\x01\x02\x87"),
            ProtocolError,
        ),
        bad(
            "PUBCOMP 5 with reason Quota exceeded",
            V5,
            packet(0x70, b"\x01\x02\x97"),
            ProtocolError,
        ),
        bad(
            "PUBACK 5 with bytes behind its properties",
            V5,
            packet(0x40, b"\x01\x02\x00\x00\x00"),
            MalformedPacket,
        ),
        bad(
            "PUBACK 5 with properties past its end",
            V5,
            packet(0x40, b"\x01\x02\x00\x01"),
            MalformedPacket,
        ),
        bad(
            "PUBACK 5 with two reason strings",
            V5,
            packet(0x40, b"\x01\x02\x00\x08\x1f\x00\x01r\x1f\x00\x01r"),
            ProtocolError,
        ),
        bad(
            "PUBACK 5 with a topic alias",
            V5,
            packet(0x40, b"\x01\x02\x00\x03\x23\x00\x01"),
            MalformedPacket,
        ),
        bad(
            "PUBACK 5 with U+0000 in its reason string",
            V5,
            packet(0x40, b"\x01\x02\x00\x04\x1f\x00\x01\x00"),
            MalformedPacket,
        ),
    ]
}
