//! Re-authentication (MQTT 5 section 4.12.1): a client whose CONNECT named an authentication method may prove anew who it is,
//! without disconnecting. What is presented is verified by others; here is only the order of the packets.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::connection::{Connection, Ending};
use crate::mqtt::{Auth, Connect, ReasonCode, Reply};

/// Between two proofs of one connection: each may change what its client may, of which everybody else pays a part. A client
/// whose token is fresh has no use for another one so soon.
const PACE: Duration = Duration::from_secs(1);

/// The exchange of one connection.
pub(super) struct Enhanced {
    method: ByteString,
    step: Step,
    /// When the last proof was looked at, or will be.
    last: Option<Instant>,
}

enum Step {
    /// Nothing goes on.
    Idle,
    /// The client was asked for its data.
    Asked,
    /// Its data is there, and nobody has taken it yet.
    Presented(Bytes),
    /// It is being verified.
    Taken,
}

impl Enhanced {
    pub fn of(connect: &Connect) -> Option<Box<Enhanced>> {
        let method = connect.authentication_method.as_deref()?;
        Some(Box::new(Enhanced {
            // A copy: it is a slice of the buffer that held CONNECT.
            method: method.into(),
            step: Step::Idle,
            last: None,
        }))
    }

    fn reply(&self, reason: ReasonCode) -> Reply {
        Reply::Auth(Auth {
            reason,
            method: Some(self.method.clone()),
            data: None,
            reason_string: None,
            user_properties: Vec::new(),
        })
    }
}

impl Connection {
    pub(super) fn auth(&mut self, auth: &Auth, out: &mut BytesMut) -> Result<(), Ending> {
        let fault = |why: &'static str| Err(Ending::fault(ReasonCode::ProtocolError, why));
        let Some(enhanced) = &mut self.enhanced else {
            return fault("AUTH without an authentication method in CONNECT");
        };
        if auth.method.as_ref() != Some(&enhanced.method) {
            return fault("AUTH with another authentication method than CONNECT (MQTT-4.12.1-1)");
        }
        let data = auth.data.as_ref().filter(|data| !data.is_empty());
        enhanced.step = match (auth.reason, &enhanced.step, data) {
            (ReasonCode::ReAuthenticate, Step::Idle, None) => Step::Asked,
            (ReasonCode::ReAuthenticate, Step::Idle, Some(data))
            | (ReasonCode::ContinueAuthentication, Step::Asked, Some(data)) => {
                Step::Presented(Bytes::copy_from_slice(data))
            }
            (ReasonCode::ReAuthenticate, ..) => {
                return fault("AUTH begins a re-authentication while another one goes on");
            }
            _ => return fault("AUTH continues what did not begin, or has no data"),
        };
        if let Step::Asked = enhanced.step {
            let ask = enhanced.reply(ReasonCode::ContinueAuthentication);
            return self.reply(&ask, out);
        }
        Ok(())
    }

    /// What the client presents to prove anew who it is; each once, and how long it has to wait for its turn.
    pub fn take_presented(&mut self, now: Instant) -> Option<(Bytes, Duration)> {
        let enhanced = self.enhanced.as_mut()?;
        match std::mem::replace(&mut enhanced.step, Step::Taken) {
            Step::Presented(data) => {
                let turn = enhanced.last.map_or(now, |last| now.max(last + PACE));
                enhanced.last = Some(turn);
                Some((data, turn - now))
            }
            other => {
                enhanced.step = other;
                None
            }
        }
    }

    /// What the client presented was good: it is told so.
    pub fn authenticated_anew(&mut self, out: &mut BytesMut) -> Result<(), Ending> {
        let Some(enhanced) = &mut self.enhanced else {
            return Ok(());
        };
        enhanced.step = Step::Idle;
        let done = enhanced.reply(ReasonCode::Success);
        self.reply(&done, out)
    }
}
