//! The codec library, as the only file that calls it: rmqtt-codec builds the values of every packet but PUBLISH, from
//! bytes that have passed our own checks.

use bytes::BytesMut;
use rmqtt_codec::types::QoS;
use rmqtt_codec::{v3, v5};
use tokio_util::codec::Decoder as _;

use super::{
    Ack, Auth, DecodeError, Disconnect, Packet, Qos, ReasonCode, RetainHandling, Subscribe,
    SubscribeFilter, Unsubscribe, Version,
};

/// A copy of the packet to decode from. Its values then pin this packet and no read buffer; and the spare bytes keep
/// the library from reserving a new buffer behind the packet, as it would for a stream.
pub(super) fn copy(packet: &[u8]) -> BytesMut {
    const SPARE: usize = 8;
    let mut copy = BytesMut::with_capacity(packet.len() + SPARE);
    copy.extend_from_slice(packet);
    copy
}

pub(super) fn decode_v3(
    name: &'static str,
    mut packet: BytesMut,
) -> Result<v3::Packet, DecodeError> {
    match v3::Codec::new(0).decode(&mut packet) {
        Ok(Some((packet, _))) => Ok(packet),
        Ok(None) | Err(_) => Err(disagreement(name)),
    }
}

pub(super) fn decode_v5(
    name: &'static str,
    mut packet: BytesMut,
) -> Result<v5::Packet, DecodeError> {
    match v5::Codec::new(0, 0).decode(&mut packet) {
        Ok(Some((packet, _))) => Ok(packet),
        Ok(None) | Err(_) => Err(disagreement(name)),
    }
}

/// Our checks passed a packet that the library refuses. Fails closed; the tests know no such packet.
pub(super) fn disagreement(packet: &'static str) -> DecodeError {
    DecodeError::Malformed {
        packet,
        why: "the codec library refuses it",
    }
}

/// Builds a checked packet other than CONNECT and PUBLISH.
pub(super) fn decode(
    version: Version,
    name: &'static str,
    packet: &[u8],
) -> Result<Packet, DecodeError> {
    let mut copy = copy(packet);
    if version == Version::V31 {
        // DUP, legal in MQTT 3.1 and already checked, is unknown to the library.
        copy[0] &= !0b1000;
    }
    if version.is_v5() {
        from_v5(name, decode_v5(name, copy)?)
    } else {
        from_v3(name, decode_v3(name, copy)?)
    }
}

fn from_v3(name: &'static str, packet: v3::Packet) -> Result<Packet, DecodeError> {
    Ok(match packet {
        v3::Packet::Subscribe {
            packet_id,
            topic_filters,
        } => Packet::Subscribe(Box::new(Subscribe {
            packet_id,
            subscription_id: None,
            filters: topic_filters
                .into_iter()
                .map(|(filter, qos)| SubscribeFilter {
                    filter,
                    qos: Qos::from_library(qos),
                    no_local: false,
                    retain_as_published: false,
                    retain_handling: RetainHandling::Send,
                })
                .collect(),
            user_properties: Vec::new(),
        })),
        v3::Packet::Unsubscribe {
            packet_id,
            topic_filters,
        } => Packet::Unsubscribe(Box::new(Unsubscribe {
            packet_id,
            filters: topic_filters,
            user_properties: Vec::new(),
        })),
        _ => return Err(disagreement(name)),
    })
}

fn from_v5(name: &'static str, packet: v5::Packet) -> Result<Packet, DecodeError> {
    Ok(match packet {
        v5::Packet::Subscribe(packet) => Packet::Subscribe(Box::new(Subscribe {
            packet_id: packet.packet_id,
            subscription_id: packet.id,
            filters: packet
                .topic_filters
                .into_iter()
                .map(subscribe_filter)
                .collect(),
            user_properties: packet.user_properties,
        })),
        v5::Packet::Unsubscribe(packet) => Packet::Unsubscribe(Box::new(Unsubscribe {
            packet_id: packet.packet_id,
            filters: packet.topic_filters,
            user_properties: packet.user_properties,
        })),
        v5::Packet::PublishAck(packet) => Packet::PubAck(received(name, packet)?),
        v5::Packet::PublishReceived(packet) => Packet::PubRec(received(name, packet)?),
        v5::Packet::PublishRelease(packet) => Packet::PubRel(released(name, packet)?),
        v5::Packet::PublishComplete(packet) => Packet::PubComp(released(name, packet)?),
        v5::Packet::Disconnect(packet) => Packet::Disconnect(Box::new(Disconnect {
            reason: reason(name, u8::from(packet.reason_code))?,
            session_expiry: packet.session_expiry_interval_secs,
            reason_string: packet.reason_string,
            user_properties: packet.user_properties,
            server_reference: packet.server_reference,
        })),
        v5::Packet::Auth(packet) => Packet::Auth(Box::new(Auth {
            reason: reason(name, u8::from(packet.reason_code))?,
            method: packet.auth_method,
            data: packet.auth_data,
            reason_string: packet.reason_string,
            user_properties: packet.user_properties,
        })),
        _ => return Err(disagreement(name)),
    })
}

fn subscribe_filter(
    (filter, options): (bytestring::ByteString, v5::SubscriptionOptions),
) -> SubscribeFilter {
    SubscribeFilter {
        filter,
        qos: Qos::from_library(options.qos),
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        retain_handling: match options.retain_handling {
            v5::RetainHandling::AtSubscribe => RetainHandling::Send,
            v5::RetainHandling::AtSubscribeNew => RetainHandling::SendIfNew,
            v5::RetainHandling::NoAtSubscribe => RetainHandling::DoNotSend,
        },
    }
}

fn received(name: &'static str, packet: v5::PublishAck) -> Result<Ack, DecodeError> {
    Ok(Ack {
        packet_id: packet.packet_id,
        reason: reason(name, u8::from(packet.reason_code))?,
        reason_string: packet.reason_string,
        user_properties: packet.properties,
    })
}

fn released(name: &'static str, packet: v5::PublishAck2) -> Result<Ack, DecodeError> {
    Ok(Ack {
        packet_id: packet.packet_id,
        reason: reason(name, u8::from(packet.reason_code))?,
        reason_string: packet.reason_string,
        user_properties: packet.properties,
    })
}

fn reason(name: &'static str, byte: u8) -> Result<ReasonCode, DecodeError> {
    ReasonCode::try_from(byte).map_err(|_| disagreement(name))
}

impl Qos {
    pub(super) fn from_library(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Qos::AtMostOnce,
            QoS::AtLeastOnce => Qos::AtLeastOnce,
            QoS::ExactlyOnce => Qos::ExactlyOnce,
        }
    }
}
