//! Which message is this? Every message carries its publisher, its number and a body that only these two determine, so
//! that a receiver can tell whether it is whole, new, and in order.

use postern_tests::Publish;

/// Topics of each publisher: two for plain messages, and one that it publishes retained.
pub const TOPICS: usize = 3;
pub const RETAINED: usize = 2;

/// A message of publisher `publisher`. Numbers are given in the order of publishing, over all its topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub publisher: usize,
    pub topic: usize,
    pub number: u32,
}

/// The topic name of a publisher's topic.
pub fn topic_name(publisher: usize, topic: usize) -> String {
    if topic == RETAINED {
        format!("crash/retained/{publisher}")
    } else {
        format!("crash/data/{publisher}/{topic}")
    }
}

impl Message {
    pub fn publish(&self, qos: u8, id: u16, dup: bool) -> Publish {
        let text = format!("{} {} {}", self.publisher, self.topic, self.number);
        let mut payload = text.into_bytes();
        payload.push(b' ');
        payload.extend(self.padding());
        Publish {
            dup,
            qos,
            retain: self.topic == RETAINED,
            topic: topic_name(self.publisher, self.topic),
            id,
            properties: Vec::new(),
            payload,
        }
    }

    /// The message that `publish` carries, if it is whole and on its topic.
    pub fn read(publish: &Publish) -> Option<Self> {
        let mut parts = publish.payload.splitn(4, |byte| *byte == b' ');
        let mut field = || std::str::from_utf8(parts.next()?).ok();
        let message = Self {
            publisher: field()?.parse().ok()?,
            topic: field()?.parse().ok()?,
            number: field()?.parse().ok()?,
        };
        let whole = message.topic < TOPICS
            && publish.topic == topic_name(message.publisher, message.topic)
            && parts.next()? == message.padding();
        whole.then_some(message)
    }

    /// Mostly short, sometimes as long as a body that the gateway stores once for all its receivers, sometimes longer
    /// than a page.
    fn padding(&self) -> Vec<u8> {
        let length = match self.number % 16 {
            3 | 11 => 700,
            7 => 5000,
            n => n as usize,
        };
        let start = self.publisher + self.number as usize;
        (start..start + length)
            .map(|n| b'a' + (n % 26) as u8)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_back_and_a_damaged_one_is_not() {
        for number in 0..20 {
            let message = Message {
                publisher: 4,
                topic: 1,
                number,
            };
            let mut publish = message.publish(1, 7, false);
            assert_eq!(Message::read(&publish), Some(message));
            publish.payload.push(b'x');
            assert_eq!(Message::read(&publish), None);
            publish.payload.truncate(publish.payload.len() - 2);
            assert_eq!(Message::read(&publish), None);
            let mut publish = message.publish(1, 7, false);
            publish.topic = topic_name(4, 0);
            assert_eq!(Message::read(&publish), None);
        }
    }
}
