//! SUBSCRIBE and UNSUBSCRIBE.

use std::num::NonZeroU32;

use super::{Case, MalformedPacket, ProtocolError, V5, V31, V311, bad, good, id, packet};
use crate::mqtt::{Packet, Qos, RetainHandling, Subscribe, SubscribeFilter, Unsubscribe, Version};

pub(super) fn cases() -> Vec<Case> {
    [
        subscribes(),
        unsubscribes(),
        refused_subscribes(),
        refused_unsubscribes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn filter(filter: &str, qos: Qos) -> SubscribeFilter {
    SubscribeFilter {
        filter: filter.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

fn subscribe(
    name: &'static str,
    version: Version,
    first: u8,
    body: &[u8],
    filters: Vec<SubscribeFilter>,
) -> Case {
    let subscribe = Subscribe {
        packet_id: id(10),
        subscription_id: None,
        filters,
        user_properties: Vec::new(),
    };
    good(
        name,
        version,
        packet(first, body),
        Packet::Subscribe(Box::new(subscribe)),
    )
}

fn subscribes() -> Vec<Case> {
    let long = "x".repeat(65535);
    let with_long = [b"\x00\x0a\x00\xff\xff".as_slice(), long.as_bytes(), b"\x01"].concat();
    let many: Vec<SubscribeFilter> = (0..10_000)
        .map(|_| filter("a/+", Qos::AtMostOnce))
        .collect();
    let with_many = [b"\x00\x0a".as_slice(), &b"\x00\x03a/+\x00".repeat(10_000)].concat();
    vec![
        subscribe("SUBSCRIBE 3.1.1", V311, 0x82, b"\x00\x0a\x00\x03a/b\x01", vec![filter("a/b", Qos::AtLeastOnce)]),
        subscribe(
            "SUBSCRIBE 3.1 sent again with DUP, unused option bits set",
            V31,
            0x8a,
            b"\x00\x0a\x00\x03a/b\xfd",
            vec![filter("a/b", Qos::AtLeastOnce)],
        ),
        subscribe(
            "SUBSCRIBE 3.1.1 with three filters, one of them no valid filter",
            V311,
            0x82,
            b"\x00\x0a\x00\x01#\x02\x00\x03+/a\x00\x00\x03#/a\x01",
            vec![filter("#", Qos::ExactlyOnce), filter("+/a", Qos::AtMostOnce), filter("#/a", Qos::AtLeastOnce)],
        ),
        subscribe(
            "SUBSCRIBE 5 with each option and retain handling",
            V5,
            0x82,
            b"\x00\x0a\x00\x00\x01a\x00\x00\x01b\x1e\x00\x01c\x21",
            vec![
                filter("a", Qos::AtMostOnce),
                SubscribeFilter {
                    no_local: true,
                    retain_as_published: true,
                    retain_handling: RetainHandling::SendIfNew,
                    ..filter("b", Qos::ExactlyOnce)
                },
                SubscribeFilter { retain_handling: RetainHandling::DoNotSend, ..filter("c", Qos::AtLeastOnce) },
            ],
        ),
        subscribe(
            "SUBSCRIBE 5 to a shared subscription",
            V5,
            0x82,
            b"\x00\x0a\x00\x00\x0a$share/g/#\x01",
            vec![filter("$share/g/#", Qos::AtLeastOnce)],
        ),
        subscribe("SUBSCRIBE 5 with a filter of 65,535 bytes", V5, 0x82, &with_long, vec![filter(&long, Qos::AtLeastOnce)]),
        subscribe("SUBSCRIBE 3.1.1 with 10,000 filters", V311, 0x82, &with_many, many),
        good(
            "SUBSCRIBE 5 with the highest subscription identifier and user properties",
            V5,
            packet(0x82, b"\x00\x0a\x13\x26\x00\x01k\x00\x01v\x0b\xff\xff\xff\x7f\x26\x00\x01k\x00\x01w\x00\x03a/b\x00"),
            Packet::Subscribe(Box::new(Subscribe {
                packet_id: id(10),
                subscription_id: NonZeroU32::new(268_435_455),
                filters: vec![filter("a/b", Qos::AtMostOnce)],
                user_properties: vec![("k".into(), "v".into()), ("k".into(), "w".into())],
            })),
        ),
    ]
}

fn unsubscribes() -> Vec<Case> {
    let unsubscribe = |filters: &[&str]| Unsubscribe {
        packet_id: id(10),
        filters: filters.iter().map(|filter| (*filter).into()).collect(),
        user_properties: Vec::new(),
    };
    let row = |name, version, first, body: &[u8], unsubscribe: Unsubscribe| {
        good(
            name,
            version,
            packet(first, body),
            Packet::Unsubscribe(Box::new(unsubscribe)),
        )
    };
    vec![
        row(
            "UNSUBSCRIBE 3.1.1",
            V311,
            0xa2,
            b"\x00\x0a\x00\x03a/b\x00\x01#",
            unsubscribe(&["a/b", "#"]),
        ),
        row(
            "UNSUBSCRIBE 3.1 sent again with DUP",
            V31,
            0xaa,
            b"\x00\x0a\x00\x03a/b",
            unsubscribe(&["a/b"]),
        ),
        row(
            "UNSUBSCRIBE 5",
            V5,
            0xa2,
            b"\x00\x0a\x00\x00\x0a$share/g/#",
            unsubscribe(&["$share/g/#"]),
        ),
        row(
            "UNSUBSCRIBE 5 with a user property",
            V5,
            0xa2,
            b"\x00\x0a\x07\x26\x00\x01k\x00\x01v\x00\x03a/b",
            Unsubscribe {
                user_properties: vec![("k".into(), "v".into())],
                ..unsubscribe(&["a/b"])
            },
        ),
    ]
}

fn refused_subscribes() -> Vec<Case> {
    vec![
        bad(
            "SUBSCRIBE 3.1.1 without its flags",
            V311,
            packet(0x80, b"\x00\x0a\x00\x01a\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 3.1.1 with DUP",
            V311,
            packet(0x8a, b"\x00\x0a\x00\x01a\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 with flags 0b0011",
            V5,
            packet(0x83, b"\x00\x0a\x00\x00\x01a\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 3.1.1 with packet identifier 0",
            V311,
            packet(0x82, b"\x00\x00\x00\x01a\x00"),
            ProtocolError,
        ),
        bad(
            "SUBSCRIBE 5 with packet identifier 0",
            V5,
            packet(0x82, b"\x00\x00\x00\x00\x01a\x00"),
            ProtocolError,
        ),
        bad(
            "SUBSCRIBE 3.1.1 without a filter",
            V311,
            packet(0x82, b"\x00\x0a"),
            ProtocolError,
        ),
        bad(
            "SUBSCRIBE 5 without a filter",
            V5,
            packet(0x82, b"\x00\x0a\x00"),
            ProtocolError,
        ),
        bad(
            "SUBSCRIBE 3.1.1 without a body",
            V311,
            packet(0x82, b""),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 without a property length",
            V5,
            packet(0x82, b"\x00\x0a"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 3.1.1 with an empty filter",
            V311,
            packet(0x82, b"\x00\x0a\x00\x00\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 with an empty filter",
            V5,
            packet(0x82, b"\x00\x0a\x00\x00\x00\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 3.1.1 with a filter and no options",
            V311,
            packet(0x82, b"\x00\x0a\x00\x01a"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 3.1.1 with QoS 3",
            V311,
            packet(0x82, b"\x00\x0a\x00\x01a\x03"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 3.1 with QoS 3",
            V31,
            packet(0x82, b"\x00\x0a\x00\x01a\x03"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 with QoS 3",
            V5,
            packet(0x82, b"\x00\x0a\x00\x00\x01a\x03"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 3.1.1 with reserved bits in its QoS",
            V311,
            packet(0x82, b"\x00\x0a\x00\x01a\x05"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 with reserved bit 6",
            V5,
            packet(0x82, b"\x00\x0a\x00\x00\x01a\x40"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 with reserved bit 7",
            V5,
            packet(0x82, b"\x00\x0a\x00\x00\x01a\x80"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 with retain handling 3",
            V5,
            packet(0x82, b"\x00\x0a\x00\x00\x01a\x30"),
            ProtocolError,
        ),
        bad(
            "SUBSCRIBE 5 with no local on a shared subscription",
            V5,
            packet(0x82, b"\x00\x0a\x00\x00\x0a$share/g/#\x05"),
            ProtocolError,
        ),
        bad(
            "SUBSCRIBE 5 with subscription identifier 0",
            V5,
            packet(0x82, b"\x00\x0a\x02\x0b\x00\x00\x01a\x00"),
            ProtocolError,
        ),
        bad(
            "SUBSCRIBE 5 with two subscription identifiers",
            V5,
            packet(0x82, b"\x00\x0a\x04\x0b\x01\x0b\x02\x00\x01a\x00"),
            ProtocolError,
        ),
        bad(
            "SUBSCRIBE 5 with a subscription identifier in needless bytes",
            V5,
            packet(0x82, b"\x00\x0a\x03\x0b\x81\x00\x00\x01a\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 with a subscription identifier of five bytes",
            V5,
            packet(0x82, b"\x00\x0a\x06\x0b\x80\x80\x80\x80\x01\x00\x01a\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 with a message expiry",
            V5,
            packet(0x82, b"\x00\x0a\x05\x02\x00\x00\x00\x01\x00\x01a\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 3.1.1 with U+0000 in a filter",
            V311,
            packet(0x82, b"\x00\x0a\x00\x03a\x00b\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 5 with a surrogate in a filter",
            V5,
            packet(0x82, b"\x00\x0a\x00\x00\x03\xed\xa0\x80\x00"),
            MalformedPacket,
        ),
        bad(
            "SUBSCRIBE 3.1.1 that ends inside its second filter",
            V311,
            packet(0x82, b"\x00\x0a\x00\x01a\x00\x00\x09b"),
            MalformedPacket,
        ),
    ]
}

fn refused_unsubscribes() -> Vec<Case> {
    vec![
        bad(
            "UNSUBSCRIBE 3.1.1 without its flags",
            V311,
            packet(0xa0, b"\x00\x0a\x00\x01a"),
            MalformedPacket,
        ),
        bad(
            "UNSUBSCRIBE 5 with flags 0b0110",
            V5,
            packet(0xa6, b"\x00\x0a\x00\x00\x01a"),
            MalformedPacket,
        ),
        bad(
            "UNSUBSCRIBE 3.1.1 with packet identifier 0",
            V311,
            packet(0xa2, b"\x00\x00\x00\x01a"),
            ProtocolError,
        ),
        bad(
            "UNSUBSCRIBE 3.1.1 without a filter",
            V311,
            packet(0xa2, b"\x00\x0a"),
            ProtocolError,
        ),
        bad(
            "UNSUBSCRIBE 5 without a filter",
            V5,
            packet(0xa2, b"\x00\x0a\x00"),
            ProtocolError,
        ),
        bad(
            "UNSUBSCRIBE 3.1.1 with an empty filter",
            V311,
            packet(0xa2, b"\x00\x0a\x00\x00"),
            MalformedPacket,
        ),
        bad(
            "UNSUBSCRIBE 5 with an empty filter",
            V5,
            packet(0xa2, b"\x00\x0a\x00\x00\x00"),
            MalformedPacket,
        ),
        bad(
            "UNSUBSCRIBE 5 with a subscription identifier",
            V5,
            packet(0xa2, b"\x00\x0a\x02\x0b\x01\x00\x01a"),
            MalformedPacket,
        ),
        bad(
            "UNSUBSCRIBE 5 with U+0000 in a filter",
            V5,
            packet(0xa2, b"\x00\x0a\x00\x00\x01\x00"),
            MalformedPacket,
        ),
        bad(
            "UNSUBSCRIBE 3.1.1 with a filter that is not UTF-8",
            V311,
            packet(0xa2, b"\x00\x0a\x00\x01\xff"),
            MalformedPacket,
        ),
    ]
}
