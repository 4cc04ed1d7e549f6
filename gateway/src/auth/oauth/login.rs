//! A login by token, for as long as a session goes by it: when does it end, and when is its issuer to be asked again?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use super::token::Token;

/// What is left of the token in a [`crate::auth::Principal`].
#[derive(Debug)]
pub struct TokenLogin {
    /// The name of the issuer in the configuration.
    issuer: Arc<str>,
    /// What it stood for when it vouched.
    terms: [u8; 32],
    /// `None`: its signature was verified, and nobody is asked.
    asked: Option<Asked>,
}

/// A token that its issuer vouched for.
#[derive(Debug)]
struct Asked {
    token: Token,
    at: Instant,
    every: Duration,
    /// The last time it was to be asked, we had too much to ask.
    is_put_off: AtomicBool,
}

/// What is to be done about a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is over.
    Expired,
    /// Its issuer is to be asked now.
    Ask,
    /// Nothing before this time has passed.
    Wait(Duration),
}

impl TokenLogin {
    /// By a token whose signature was good; also one of before a start, of which nobody has the token any more.
    pub fn signed(issuer: Arc<str>, terms: [u8; 32]) -> TokenLogin {
        TokenLogin {
            issuer,
            terms,
            asked: None,
        }
    }

    /// By a token that its issuer vouched for.
    pub(super) fn asked(self, token: Token, at: Instant, every: Duration) -> TokenLogin {
        TokenLogin {
            asked: Some(Asked {
                token,
                at,
                every,
                is_put_off: AtomicBool::new(false),
            }),
            ..self
        }
    }

    pub fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    /// A digest of what the issuer stood for: another one of the same name is not the one that vouched.
    pub fn terms(&self) -> &[u8; 32] {
        &self.terms
    }

    pub(super) fn token(&self) -> Option<&Token> {
        self.asked.as_ref().map(|asked| &asked.token)
    }

    /// The earliest moment at which an answer is new enough to count as asked again now.
    pub(super) fn fresh_since(&self) -> Option<Instant> {
        let every = self.asked.as_ref()?.every;
        Instant::now().checked_sub(every / 4)
    }

    /// What is due for a login that ends at `expires_at`. It is asked again between half and three quarters of the interval,
    /// spread by `spread`, so that a revocation is seen within the interval and not everybody is asked about at once. A token
    /// without an end counts only as long as its issuer stands by it (I4): for one interval, or two if it was not asked because
    /// of [`Self::put_off`].
    pub fn next(&self, expires_at: Option<SystemTime>, spread: u64) -> Next {
        let left = expires_at.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        if left == Some(Duration::ZERO) {
            return Next::Expired;
        }
        let Some(asked) = &self.asked else {
            return Next::Wait(left.unwrap_or(Duration::MAX));
        };
        let age = asked.at.elapsed();
        let intervals = 1 + u32::from(asked.is_put_off.load(Relaxed));
        if left.is_none() && age >= asked.every * intervals {
            return Next::Expired;
        }
        // The high bits of a product with an odd number spread well.
        let share = (spread.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u32;
        let ask_at = asked.every / 2 + asked.every / 4 * share / 256;
        match ask_at.checked_sub(age) {
            Some(wait) if !wait.is_zero() => Next::Wait(left.map_or(wait, |left| left.min(wait))),
            _ => Next::Ask,
        }
    }

    /// Notes whether its issuer could not be asked because there was too much to ask: that is no silence of the issuer.
    pub fn put_off(&self, is_put_off: bool) {
        if let Some(asked) = &self.asked {
            asked.is_put_off.store(is_put_off, Relaxed);
        }
    }

    /// How long to wait after its issuer did not answer.
    pub fn retry(&self, expires_at: Option<SystemTime>) -> Duration {
        let every = self
            .asked
            .as_ref()
            .map_or(Duration::from_secs(60), |asked| asked.every);
        let pause = (every / 16).clamp(Duration::from_millis(50), Duration::from_secs(10));
        let left = expires_at.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        left.map_or(pause, |left| left.min(pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(ago: Duration, every: Duration) -> TokenLogin {
        let token = Token::new(b"opaque").unwrap();
        let at = Instant::now().checked_sub(ago).unwrap();
        TokenLogin::signed("home".into(), [0; 32]).asked(token, at, every)
    }

    // I4
    #[test]
    fn a_token_is_asked_about_again_well_within_the_interval() {
        let (second, every) = (Duration::from_secs(1), Duration::from_secs(100));
        let end = Some(SystemTime::now() + 1_000 * second);
        for spread in 0..1_000 {
            let Next::Wait(wait) = asked(Duration::ZERO, every).next(end, spread) else {
                panic!("it was asked about just now");
            };
            assert!((49 * second..=75 * second).contains(&wait), "{wait:?}");
            assert_eq!(asked(76 * second, every).next(end, spread), Next::Ask);
        }
        assert_eq!(
            asked(150 * second, every).next(end, 1),
            Next::Ask,
            "until its end"
        );
        assert_eq!(asked(99 * second, every).next(None, 1), Next::Ask);
        assert_eq!(
            asked(100 * second, every).next(None, 1),
            Next::Expired,
            "without an end"
        );
        let late = asked(150 * second, every);
        late.put_off(true);
        assert_eq!(late.next(None, 1), Next::Ask, "nobody asked");
        late.put_off(false);
        assert_eq!(late.next(None, 1), Next::Expired, "no answer");
        let late = asked(200 * second, every);
        late.put_off(true);
        assert_eq!(late.next(None, 1), Next::Expired, "for ever is too long");
    }

    #[test]
    fn a_login_ends_with_its_token() {
        let now = SystemTime::now();
        let (second, every) = (Duration::from_secs(1), Duration::from_secs(100));
        for login in [
            TokenLogin::signed("home".into(), [0; 32]),
            asked(Duration::ZERO, every),
        ] {
            assert_eq!(login.next(Some(now - second), 1), Next::Expired);
            let Next::Wait(wait) = login.next(Some(now + 10 * second), 1) else {
                panic!("there is time left");
            };
            assert!(wait > 9 * second && wait <= 10 * second);
            assert!(login.retry(Some(now + second)) <= second);
        }
    }
}
