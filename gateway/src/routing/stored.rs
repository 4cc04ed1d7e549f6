//! The form of messages and subscriptions on disk. The store keeps these bytes and does not look into them.
//!
//! A body is what a publisher said and is the same for all its receivers; a head is what one receiver is told about it.
//! Numbers are little endian. A form is never changed, only given a new first byte: files outlive versions.

use std::time::Instant;

use bytes::{Buf, BufMut, Bytes};
use smallvec::SmallVec;

use super::{
    control::{Options, Subscription},
    endpoint::{Delivery, Extra, ShareKey},
    message::{Message, Record},
};
use crate::{
    mqtt::{Qos, RetainHandling, SubscriptionFilter},
    store::messages::{Receiver, RetainedRow, Timestamp},
};

const FORM: u8 = 1;
const RETAIN: u8 = 0b0000_0100;
const SHARE: u8 = 0b0000_1000;

/// Body: form, QoS and RETAIN of the publisher, topic, properties, payload.
pub fn body(message: &Message, out: &mut Vec<u8>) {
    let (topic, properties) = (message.topic(), message.properties());
    out.reserve(16 + topic.len() + properties.len() + message.payload().len());
    out.put_u8(FORM);
    out.put_u8(flags(message.qos(), message.retain()));
    out.put_u16_le(topic.len() as u16);
    out.put_u32_le(properties.len() as u32);
    out.put_slice(topic.as_bytes());
    out.put_slice(properties);
    out.put_slice(message.payload());
}

/// Head: effective QoS and RETAIN, subscription identifiers, shared group.
pub fn head(delivery: &Delivery) -> Vec<u8> {
    let ids = delivery.subscription_ids();
    let mut out = Vec::with_capacity(3 + ids.len() * 4);
    let share = if delivery.share().is_some() { SHARE } else { 0 };
    out.put_u8(flags(delivery.qos, delivery.retain) | share);
    out.put_u16_le(ids.len() as u16);
    for id in ids {
        out.put_u32_le(*id);
    }
    if let Some(share) = delivery.share() {
        out.put_u16_le(share.group.len() as u16);
        out.put_slice(share.group.as_bytes());
        out.put_slice(share.filter.as_bytes());
    }
    out
}

/// The copy of a session, for the store.
pub fn receiver(session: u64, delivery: &Delivery) -> Receiver {
    Receiver {
        session,
        serial: delivery.serial,
        head: head(delivery),
    }
}

/// A message that comes back from disk. `None` if the bytes are not one.
pub fn delivery(
    serial: u64,
    head: &[u8],
    body: &Bytes,
    expires: Option<Timestamp>,
    now: Timestamp,
) -> Option<Delivery> {
    let mut rest = head;
    let first = rest.try_get_u8().ok()?;
    let (qos, retain) = unflag(first)?;
    let count = rest.try_get_u16_le().ok()?;
    let mut subscription_ids = SmallVec::new();
    for _ in 0..count {
        subscription_ids.push(rest.try_get_u32_le().ok()?);
    }
    let share = match first & SHARE {
        0 => None,
        _ => {
            let group = usize::from(rest.try_get_u16_le().ok()?);
            let (group, filter) = rest.split_at_checked(group)?;
            Some(ShareKey {
                group: text(group)?.into(),
                filter: text(filter)?.into(),
            })
        }
    };
    let extra = Extra {
        subscription_ids,
        share,
    };
    Some(Delivery {
        message: message(body, expires, now)?,
        qos,
        retain,
        extra: (extra != Extra::default()).then(|| extra.into()),
        serial,
    })
}

/// A message that comes back from disk. One that expired meanwhile has expired at once.
pub fn message(body: &Bytes, expires: Option<Timestamp>, now: Timestamp) -> Option<Message> {
    let mut rest = &body[..];
    if rest.try_get_u8().ok()? != FORM {
        return None;
    }
    let (qos, retain) = unflag(rest.try_get_u8().ok()?)?;
    let topic = u32::from(rest.try_get_u16_le().ok()?);
    let properties = rest.try_get_u32_le().ok()?;
    let start = (body.len() - rest.len()) as u32;
    let payload = start.checked_add(topic)?.checked_add(properties)?;
    let length = u32::try_from(body.len()).ok()?.checked_sub(payload)?;
    text(body.get(start as usize..(start + topic) as usize)?)?;
    let record = Record {
        qos,
        retain,
        expiry: expires.map(|at| u32::try_from(at.saturating_sub(now).max(0)).unwrap_or(u32::MAX)),
        topic: (start, topic),
        properties: (start + topic, properties),
        payload: (payload, length),
    };
    Some(Message::single(body.clone(), record, Instant::now()))
}

/// The retained message of a topic, for the store.
pub fn retained(message: &Message, now: Timestamp) -> RetainedRow {
    let mut out = Vec::new();
    body(message, &mut out);
    RetainedRow {
        expires: message.expires_at(now),
        message: out.into(),
    }
}

/// The options of a subscription; its filter is kept as text beside them.
pub fn options(options: &Options) -> Vec<u8> {
    let mut out = Vec::with_capacity(6);
    out.put_u8(FORM);
    out.put_u8(
        options.qos as u8
            | u8::from(options.no_local) << 2
            | u8::from(options.retain_as_published) << 3
            | match options.retain_handling {
                RetainHandling::Send => 0,
                RetainHandling::SendIfNew => 1 << 4,
                RetainHandling::DoNotSend => 2 << 4,
            },
    );
    out.put_u32_le(options.id.unwrap_or(0));
    out
}

/// A subscription that comes back from disk. Its filter was valid when it was made, whatever the limits are now.
pub fn subscription(filter: &str, mut bytes: &[u8]) -> Option<Subscription> {
    if bytes.try_get_u8().ok()? != FORM {
        return None;
    }
    let flags = bytes.try_get_u8().ok()?;
    let id = bytes.try_get_u32_le().ok()?;
    Some(Subscription {
        filter: SubscriptionFilter::parse(filter.to_owned(), usize::MAX).ok()?,
        options: Options {
            qos: qos(flags)?,
            no_local: flags & 1 << 2 != 0,
            retain_as_published: flags & 1 << 3 != 0,
            retain_handling: match flags >> 4 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return None,
            },
            id: (id > 0).then_some(id),
        },
        number: 0,
    })
}

fn flags(qos: Qos, retain: bool) -> u8 {
    qos as u8 | if retain { RETAIN } else { 0 }
}

fn unflag(flags: u8) -> Option<(Qos, bool)> {
    Some((qos(flags)?, flags & RETAIN != 0))
}

fn qos(flags: u8) -> Option<Qos> {
    [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]
        .get(usize::from(flags & 0b11))
        .copied()
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::{
        envelope::{self, Outgoing},
        message::Expiry,
    };

    proptest! {
        #[test]
        fn what_is_stored_comes_back(
            topic in "[a-zä/]{1,40}", payload in proptest::collection::vec(any::<u8>(), 0..3_000),
            properties in proptest::collection::vec(any::<u8>(), 0..50), effective in 0u8..3, retain: bool, sent_retain: bool,
            ids in proptest::collection::vec(1u32..1000, 0..4), share: Option<bool>, expiry in proptest::option::of(1u32..100_000),
        ) {
            let outgoing = Outgoing {
                topic: &topic, payload: &payload, properties: &properties, qos: Qos::ExactlyOnce, retain, expiry,
                packet_id: None,
            };
            let message = envelope::message(outgoing, Instant::now()).unwrap();
            let extra = Extra {
                subscription_ids: ids.into(),
                share: share.map(|_| ShareKey { group: "g/ü".into(), filter: "a/+".into() }),
            };
            let was = Delivery {
                message, qos: qos(effective).unwrap(), retain: sent_retain,
                extra: (extra != Extra::default()).then(|| extra.into()), serial: 7,
            };
            let mut bytes = Vec::new();
            body(&was.message, &mut bytes);
            let expires = was.message.expires_at(1_000);
            let is = delivery(7, &head(&was), &bytes.into(), expires, 1_000).unwrap();
            prop_assert_eq!(is.message.topic(), &topic);
            prop_assert_eq!(is.message.payload(), &payload[..]);
            prop_assert_eq!(is.message.properties(), &properties[..]);
            prop_assert_eq!((is.message.qos(), is.message.retain()), (Qos::ExactlyOnce, retain));
            prop_assert_eq!((is.qos, is.retain, &is.extra, is.serial), (was.qos, was.retain, &was.extra, 7));
            let left = is.message.expiry_left(Instant::now());
            prop_assert_eq!(left, expiry.map_or(Expiry::Never, Expiry::Left));
        }

        #[test]
        fn arbitrary_bytes_are_no_message_or_a_sound_one(
            head in proptest::collection::vec(any::<u8>(), 0..40), body in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            if let Some(delivery) = delivery(1, &head, &body.into(), Some(5), 9) {
                prop_assert!(delivery.message.is_expired(Instant::now()));
                let _ = (delivery.message.topic(), delivery.message.payload());
            }
        }

        #[test]
        fn options_come_back(level in 0u8..3, no_local: bool, retain_as_published: bool, handling in 0u8..3, id in proptest::option::of(1u32..268_435_456)) {
            let handling = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend][usize::from(handling)];
            let was = Options { qos: qos(level).unwrap(), no_local, retain_as_published, retain_handling: handling, id };
            let is = subscription("$share/g/a/#", &options(&was)).unwrap();
            prop_assert_eq!(is.options, was);
            prop_assert_eq!(is.filter.as_str(), "$share/g/a/#");
        }
    }
}
