//! How the server says it: replies written for the client's version and within the client's limits.

use bytes::{BufMut as _, Bytes, BytesMut};
use bytestring::ByteString;

use super::frame::{check_size, put_variable_byte_integer, variable_byte_integer_len};
use super::properties as property;
use super::{
    Ack, ConnAck, EncodeError, PacketId, PeerLimits, Qos, ReasonCode, Reply, UserProperties,
    Version,
};

/// Appends `reply` to `dst` as the version says it.
///
/// MQTT 3 drops what it cannot say: reason codes and properties, and DISCONNECT and AUTH altogether (nothing is
/// written). If the packet would exceed the client's maximum packet size, first its user properties and then its
/// reason string are left out (MQTT-3.2.2-19, -20 and their like).
///
/// # Errors
/// The packet is too large even so, a field is longer than the protocol allows, or MQTT 3.1 is to refuse a
/// subscription. Nothing is written then.
pub fn encode(
    reply: &Reply,
    version: Version,
    limits: PeerLimits,
    dst: &mut BytesMut,
) -> Result<(), EncodeError> {
    let before = dst.len();
    let result = if version.is_v5() {
        encode_v5(reply, limits, dst)
    } else {
        encode_v3(reply, version, limits, dst)
    };
    if result.is_err() {
        dst.truncate(before);
    }
    result
}

fn encode_v3(
    reply: &Reply,
    version: Version,
    limits: PeerLimits,
    dst: &mut BytesMut,
) -> Result<(), EncodeError> {
    match reply {
        Reply::ConnAck(ack) => {
            let accepted = ack.return_code() == 0;
            // MQTT 3.1 has a reserved byte where 3.1.1 has session present.
            let present = accepted && ack.session_present && version == Version::V311;
            dst.extend_from_slice(&[CONNACK, 2, u8::from(present), ack.return_code()]);
        }
        Reply::PubAck(ack) => put_bare_ack(PUBACK, ack.packet_id, dst),
        Reply::PubRec(ack) => put_bare_ack(PUBREC, ack.packet_id, dst),
        Reply::PubRel(ack) => put_bare_ack(PUBREL, ack.packet_id, dst),
        Reply::PubComp(ack) => put_bare_ack(PUBCOMP, ack.packet_id, dst),
        Reply::UnsubAck { packet_id, .. } => put_bare_ack(UNSUBACK, *packet_id, dst),
        Reply::SubAck {
            packet_id, reasons, ..
        } => {
            if version == Version::V31 && reasons.iter().any(|reason| reason.is_error()) {
                return Err(EncodeError::NoRefusalInMqtt31);
            }
            put_header(SUBACK, 2 + reasons.len(), limits, dst)?;
            dst.put_u16(packet_id.get());
            dst.extend(reasons.iter().map(|reason| {
                if reason.is_error() {
                    0x80
                } else {
                    *reason as u8
                }
            }));
        }
        Reply::PingResp => dst.extend_from_slice(&[PINGRESP, 0]),
        Reply::Disconnect(_) | Reply::Auth(_) => {}
    }
    Ok(())
}

fn encode_v5(reply: &Reply, limits: PeerLimits, dst: &mut BytesMut) -> Result<(), EncodeError> {
    match reply {
        Reply::ConnAck(ack) => {
            let present = ack.session_present && !ack.reason.is_error();
            let required = connack_properties(ack)?;
            let optional = Optional {
                user_properties: &ack.user_properties,
                reason_string: &ack.reason_string,
            };
            Body {
                head: &[u8::from(present), ack.reason as u8],
                required: &required,
                optional,
                tail: &[],
            }
            .put(CONNACK, limits, true, dst)
        }
        Reply::PubAck(ack) => put_ack(PUBACK, ack, limits, dst),
        Reply::PubRec(ack) => put_ack(PUBREC, ack, limits, dst),
        Reply::PubRel(ack) => put_ack(PUBREL, ack, limits, dst),
        Reply::PubComp(ack) => put_ack(PUBCOMP, ack, limits, dst),
        Reply::SubAck {
            packet_id,
            reasons,
            reason_string,
            user_properties,
        } => {
            let optional = Optional {
                user_properties,
                reason_string,
            };
            put_suback(SUBACK, *packet_id, reasons, optional, limits, dst)
        }
        Reply::UnsubAck {
            packet_id,
            reasons,
            reason_string,
            user_properties,
        } => {
            let optional = Optional {
                user_properties,
                reason_string,
            };
            put_suback(UNSUBACK, *packet_id, reasons, optional, limits, dst)
        }
        Reply::PingResp => {
            dst.extend_from_slice(&[PINGRESP, 0]);
            Ok(())
        }
        Reply::Disconnect(disconnect) => {
            let mut required = BytesMut::new();
            put_string(
                property::SERVER_REFERENCE,
                "server reference",
                &disconnect.server_reference,
                &mut required,
            )?;
            let optional = Optional {
                user_properties: &disconnect.user_properties,
                reason_string: &disconnect.reason_string,
            };
            Body {
                head: &[disconnect.reason as u8],
                required: &required,
                optional,
                tail: &[],
            }
            .put(DISCONNECT, limits, true, dst)
        }
        Reply::Auth(auth) => {
            let mut required = BytesMut::new();
            put_string(
                property::AUTHENTICATION_METHOD,
                "authentication method",
                &auth.method,
                &mut required,
            )?;
            put_data(
                property::AUTHENTICATION_DATA,
                "authentication data",
                &auth.data,
                &mut required,
            )?;
            let optional = Optional {
                user_properties: &auth.user_properties,
                reason_string: &auth.reason_string,
            };
            Body {
                head: &[auth.reason as u8],
                required: &required,
                optional,
                tail: &[],
            }
            .put(AUTH, limits, limits.problem_information, dst)
        }
    }
}

const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const SUBACK: u8 = 0x90;
const UNSUBACK: u8 = 0xB0;
const PINGRESP: u8 = 0xD0;
const DISCONNECT: u8 = 0xE0;
const AUTH: u8 = 0xF0;

fn put_bare_ack(first: u8, id: PacketId, dst: &mut BytesMut) {
    let [high, low] = id.get().to_be_bytes();
    dst.extend_from_slice(&[first, 2, high, low]);
}

fn put_ack(
    first: u8,
    ack: &Ack,
    limits: PeerLimits,
    dst: &mut BytesMut,
) -> Result<(), EncodeError> {
    let optional = Optional {
        user_properties: &ack.user_properties,
        reason_string: &ack.reason_string,
    };
    let [high, low] = ack.packet_id.get().to_be_bytes();
    if optional.is_empty() && ack.reason == ReasonCode::Success {
        // Sections 3.4.2.1 and 3.4.2.2.1: reason code and property length may be left out.
        dst.extend_from_slice(&[first, 2, high, low]);
        return Ok(());
    }
    Body {
        head: &[high, low, ack.reason as u8],
        required: &[],
        optional,
        tail: &[],
    }
    .put(first, limits, limits.problem_information, dst)
}

fn put_suback(
    first: u8,
    id: PacketId,
    reasons: &[ReasonCode],
    optional: Optional<'_>,
    limits: PeerLimits,
    dst: &mut BytesMut,
) -> Result<(), EncodeError> {
    Body {
        head: &id.get().to_be_bytes(),
        required: &[],
        optional,
        tail: reasons,
    }
    .put(first, limits, limits.problem_information, dst)
}

fn put_header(
    first: u8,
    remaining: usize,
    limits: PeerLimits,
    dst: &mut BytesMut,
) -> Result<(), EncodeError> {
    let size = 1 + variable_byte_integer_len(remaining) + remaining;
    check_size(remaining, size, limits.maximum_packet_size)?;
    dst.reserve(size);
    dst.put_u8(first);
    put_variable_byte_integer(remaining as u32, dst);
    Ok(())
}

/// The body of an MQTT 5 packet: what stands before the properties, the properties that stay, those that may be left
/// out, and the reason codes behind them.
struct Body<'a> {
    head: &'a [u8],
    required: &'a [u8],
    optional: Optional<'a>,
    tail: &'a [ReasonCode],
}

impl Body<'_> {
    fn put(
        self,
        first: u8,
        limits: PeerLimits,
        informative: bool,
        dst: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        if informative {
            self.optional.check()?;
            for (user_properties, reason_string) in [(true, true), (false, true)] {
                match self.try_put(first, limits, user_properties, reason_string, dst) {
                    Err(EncodeError::TooLarge { .. }) => {}
                    result => return result,
                }
            }
        }
        self.try_put(first, limits, false, false, dst)
    }

    /// Writes the packet if it fits, else nothing.
    fn try_put(
        &self,
        first: u8,
        limits: PeerLimits,
        user_properties: bool,
        reason_string: bool,
        dst: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let optional = self.optional.only(user_properties, reason_string);
        let properties = self.required.len() + optional.len();
        let content =
            self.head.len() + variable_byte_integer_len(properties) + properties + self.tail.len();
        put_header(first, content, limits, dst)?;
        dst.extend_from_slice(self.head);
        put_variable_byte_integer(properties as u32, dst);
        dst.extend_from_slice(self.required);
        optional.put(dst);
        dst.extend(self.tail.iter().map(|reason| *reason as u8));
        Ok(())
    }
}

/// The properties that help people and not programs.
#[derive(Clone, Copy)]
struct Optional<'a> {
    user_properties: &'a UserProperties,
    reason_string: &'a Option<ByteString>,
}

impl<'a> Optional<'a> {
    fn is_empty(self) -> bool {
        self.user_properties.is_empty() && self.reason_string.is_none()
    }

    fn only(self, user_properties: bool, reason_string: bool) -> Optional<'a> {
        static NO_USER_PROPERTIES: UserProperties = Vec::new();
        static NO_REASON_STRING: Option<ByteString> = None;
        Optional {
            user_properties: if user_properties {
                self.user_properties
            } else {
                &NO_USER_PROPERTIES
            },
            reason_string: if reason_string {
                self.reason_string
            } else {
                &NO_REASON_STRING
            },
        }
    }

    fn check(self) -> Result<(), EncodeError> {
        if let Some(reason) = self.reason_string {
            check_field("reason string", reason.len())?;
        }
        for (name, value) in self.user_properties {
            check_field("user property name", name.len())?;
            check_field("user property value", value.len())?;
        }
        Ok(())
    }

    fn len(self) -> usize {
        let reason = self
            .reason_string
            .as_ref()
            .map_or(0, |reason| 3 + reason.len());
        self.user_properties
            .iter()
            .fold(reason, |sum, (name, value)| {
                sum + 5 + name.len() + value.len()
            })
    }

    fn put(self, dst: &mut BytesMut) {
        if let Some(reason) = self.reason_string {
            dst.put_u8(property::REASON_STRING);
            put_bytes(reason.as_bytes(), dst);
        }
        for (name, value) in self.user_properties {
            dst.put_u8(property::USER_PROPERTY);
            put_bytes(name.as_bytes(), dst);
            put_bytes(value.as_bytes(), dst);
        }
    }
}

fn connack_properties(ack: &ConnAck) -> Result<BytesMut, EncodeError> {
    let mut dst = BytesMut::new();
    if let Some(seconds) = ack.session_expiry {
        dst.put_u8(property::SESSION_EXPIRY_INTERVAL);
        dst.put_u32(seconds);
    }
    if let Some(maximum) = ack.receive_maximum {
        dst.put_u8(property::RECEIVE_MAXIMUM);
        dst.put_u16(maximum);
    }
    if ack.maximum_qos < Qos::ExactlyOnce {
        dst.extend_from_slice(&[property::MAXIMUM_QOS, ack.maximum_qos as u8]);
    }
    if let Some(maximum) = ack.maximum_packet_size {
        dst.put_u8(property::MAXIMUM_PACKET_SIZE);
        dst.put_u32(maximum);
    }
    if ack.topic_alias_maximum > 0 {
        dst.put_u8(property::TOPIC_ALIAS_MAXIMUM);
        dst.put_u16(ack.topic_alias_maximum);
    }
    if let Some(seconds) = ack.server_keep_alive {
        dst.put_u8(property::SERVER_KEEP_ALIVE);
        dst.put_u16(seconds);
    }
    for (available, identifier) in [
        (ack.retain_available, property::RETAIN_AVAILABLE),
        (
            ack.wildcard_subscription_available,
            property::WILDCARD_SUBSCRIPTION_AVAILABLE,
        ),
        (
            ack.subscription_identifiers_available,
            property::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
        ),
        (
            ack.shared_subscription_available,
            property::SHARED_SUBSCRIPTION_AVAILABLE,
        ),
    ] {
        if !available {
            dst.extend_from_slice(&[identifier, 0]);
        }
    }
    for (identifier, field, value) in [
        (
            property::ASSIGNED_CLIENT_IDENTIFIER,
            "assigned client identifier",
            &ack.assigned_client_id,
        ),
        (
            property::RESPONSE_INFORMATION,
            "response information",
            &ack.response_information,
        ),
        (
            property::SERVER_REFERENCE,
            "server reference",
            &ack.server_reference,
        ),
        (
            property::AUTHENTICATION_METHOD,
            "authentication method",
            &ack.authentication_method,
        ),
    ] {
        put_string(identifier, field, value, &mut dst)?;
    }
    put_data(
        property::AUTHENTICATION_DATA,
        "authentication data",
        &ack.authentication_data,
        &mut dst,
    )?;
    Ok(dst)
}

fn put_string(
    identifier: u8,
    field: &'static str,
    value: &Option<ByteString>,
    dst: &mut BytesMut,
) -> Result<(), EncodeError> {
    put_field(
        identifier,
        field,
        value.as_ref().map(|value| value.as_bytes().as_ref()),
        dst,
    )
}

fn put_data(
    identifier: u8,
    field: &'static str,
    value: &Option<Bytes>,
    dst: &mut BytesMut,
) -> Result<(), EncodeError> {
    put_field(identifier, field, value.as_deref(), dst)
}

fn put_field(
    identifier: u8,
    field: &'static str,
    value: Option<&[u8]>,
    dst: &mut BytesMut,
) -> Result<(), EncodeError> {
    if let Some(value) = value {
        check_field(field, value.len())?;
        dst.put_u8(identifier);
        put_bytes(value, dst);
    }
    Ok(())
}

fn check_field(field: &'static str, length: usize) -> Result<(), EncodeError> {
    if length > usize::from(u16::MAX) {
        Err(EncodeError::FieldTooLong { field, length })
    } else {
        Ok(())
    }
}

/// Binary data or a string whose length has been checked.
fn put_bytes(bytes: &[u8], dst: &mut BytesMut) {
    dst.put_u16(bytes.len() as u16);
    dst.extend_from_slice(bytes);
}
