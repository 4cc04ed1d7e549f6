//! Who is this client? What it presents is looked at for as long as it waits, and a wrong guess counts whether it waits or not.
//! Whether a credential is good is `auth`'s question, and whether a name or an address may try at all is the door's.

use std::{future::poll_fn, net::IpAddr, pin::pin, sync::Arc, task::Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    Context,
    bans::Login,
    certificate::Presented,
    greeting::{READ, Rejected},
    noted,
    prefix::Prefix,
};
use crate::{
    auth::{Credentials, Principal, Refusal, TokenProblem, Wrong},
    mqtt::{Connect, ReasonCode},
};

/// A login as it is presented.
pub(super) struct Attempt<'a> {
    pub connect: &'a Connect,
    /// By enhanced authentication.
    pub token: Option<&'a Bytes>,
    pub client: Option<&'a Presented>,
    pub address: IpAddr,
    /// Under which it is counted.
    pub name: &'a str,
    pub wrong: &'a Wrong,
}

/// Why a client is not let in.
#[derive(Debug)]
pub(super) struct Denied {
    pub reason: ReasonCode,
    /// What the client hears.
    pub told: &'static str,
    /// What is wrong with its token: the client may be told less (I2).
    pub problem: Option<TokenProblem>,
}

impl Denied {
    /// The reason in words, for the operator.
    pub fn words(&self) -> &'static str {
        self.problem.map_or(self.told, TokenProblem::words)
    }

    /// How the connection ended, for the log.
    pub fn rejected(&self) -> Rejected {
        self.problem
            .map_or(Rejected::Refused(self.told), Rejected::Token)
    }
}

impl From<(ReasonCode, &'static str)> for Denied {
    fn from((reason, told): (ReasonCode, &'static str)) -> Denied {
        Denied {
            reason,
            told,
            problem: None,
        }
    }
}

/// Finds out who the client is. [`Rejected::Left`] if it did not wait.
pub(super) async fn prove<S: AsyncRead + Unpin>(
    stream: &mut S,
    rest: &mut BytesMut,
    attempt: &Attempt<'_>,
    context: &Context,
) -> Result<Result<Principal, Denied>, Rejected> {
    let login = authenticate(attempt, context);
    match while_present(stream, rest, login, attempt.wrong).await? {
        Answer::Present(principal) => Ok(principal),
        Answer::Left(answer) => {
            if let Err(denied) = answer {
                let Attempt {
                    connect,
                    name,
                    address,
                    ..
                } = *attempt;
                noted::kept_out(context, connect, name, address, &denied);
            }
            Err(Rejected::Left)
        }
    }
}

/// Failures of others at the same address are not this one's. Never a token.
pub(super) fn counted_name(
    connect: &Connect,
    token: Option<&Option<Bytes>>,
    context: &Context,
    client: Option<&Presented>,
) -> Arc<str> {
    if let Some(Some(token)) = token {
        return context.authenticator.name_of_token(token).into();
    }
    let named = client.and_then(|client| client.certificate.name.clone());
    match (&connect.username, named) {
        (None, Some(named)) => named,
        _ => {
            let credentials = credentials(connect, client);
            let name = context.authenticator.counted_name(&credentials);
            Arc::from(&*name)
        }
    }
}

fn credentials<'a>(connect: &'a Connect, client: Option<&'a Presented>) -> Credentials<'a> {
    Credentials {
        username: connect.username.as_deref(),
        password: connect.password.as_deref(),
        certificate: client.map(|client| &client.certificate),
    }
}

async fn authenticate(attempt: &Attempt<'_>, context: &Context) -> Result<Principal, Denied> {
    let Attempt {
        connect,
        token,
        client,
        address,
        name,
        wrong,
    } = *attempt;
    let _waiting = context.metrics.logins_waiting.during();
    let (door, metrics) = (&context.door, &context.metrics);
    match door.login(address, name) {
        Login::Now => {}
        Login::After(wait) => {
            door.await_turn(address, wait).await;
            if door.bars(address, name) {
                return Err(BARRED.into());
            }
        }
        // Neither is a failure: the one was counted, the other was not looked at.
        Login::Refused | Login::Full => return Err(BARRED.into()),
    }
    let credentials = credentials(connect, client);
    let origin = Prefix::from(address).address();
    let mut guess = Guess {
        context,
        connect,
        address,
        name,
        wrong,
        is_counted: false,
    };
    let authenticator = &context.authenticator;
    let authenticated = match token {
        Some(token) => {
            let login =
                authenticator.authenticate_by_token(token, &credentials, Some(origin), wrong);
            login.await
        }
        None => {
            let login = authenticator.authenticate_and_tell(credentials, Some(origin), wrong);
            login.await
        }
    };
    match &authenticated {
        // Others that were looked at meanwhile may have failed: one right guess among many tells nothing then.
        Ok(principal) if door.bars(address, name) => {
            tracing::debug!(%address, %principal, "a good login of a name that is refused by now");
            return Err(BARRED.into());
        }
        // Who needs no credentials proves nothing about its address.
        Ok(principal) if principal.anonymous => {}
        Ok(_) => door.logged_in(address, name),
        Err(Refusal::Busy) => metrics.logins_busy.add(1),
        // No failure of the client.
        Err(Refusal::Unavailable) => {}
        Err(_) => guess.failed(),
    }
    authenticated.map_err(|refusal| {
        let (reason, told, problem) = match (refusal, token) {
            (Refusal::Token(problem), Some(_)) => {
                (ReasonCode::NotAuthorized, refusal.words(), Some(problem))
            }
            // Not more than for a wrong password: it would tell that there is no such user (I2).
            (Refusal::Token(problem), None) => {
                let told = Refusal::BadCredentials.words();
                (refusal.reason_code(), told, Some(problem))
            }
            _ => (refusal.reason_code(), refusal.words(), None),
        };
        Denied {
            reason,
            told,
            problem,
        }
    })
}

/// What is answered while a name is refused from its address.
const BARRED: (ReasonCode, &str) = (
    ReasonCode::ConnectionRateExceeded,
    "too many failed logins from this address, try again later",
);

/// A login under way. Once it is known to be wrong it counts, whether or not its client waits for the answer.
struct Guess<'a> {
    context: &'a Context,
    connect: &'a Connect,
    address: IpAddr,
    name: &'a str,
    wrong: &'a Wrong,
    is_counted: bool,
}

impl Guess<'_> {
    fn failed(&mut self) {
        self.is_counted = true;
        self.context.metrics.logins_failed.add(1);
        self.context.door.login_failed(self.address, self.name);
    }
}

impl Drop for Guess<'_> {
    fn drop(&mut self) {
        if self.wrong.is_known() && !self.is_counted {
            self.failed();
            let refused = Refusal::BadCredentials;
            let denied = Denied::from((refused.reason_code(), refused.words()));
            noted::kept_out(self.context, self.connect, self.name, self.address, &denied);
        }
    }
}

/// What came of a login, and whether its client waited for it.
#[derive(Debug, PartialEq, Eq)]
enum Answer<T> {
    Present(T),
    Left(T),
}

/// Does `work` as long as the client is there: who leaves gives its place in a queue back. What it sends meanwhile is
/// kept, within bounds.
///
/// A question to an issuer cannot be taken back: whoever leaves it behind keeps its place until it is answered, and the answer
/// counts. Otherwise a stranger that never waits would ask as often as it likes (I4, N1).
async fn while_present<S: AsyncRead + Unpin, T>(
    stream: &mut S,
    rest: &mut BytesMut,
    work: impl Future<Output = T>,
    wrong: &Wrong,
) -> Result<Answer<T>, Rejected> {
    let mut work = pin!(work);
    while rest.len() < EARLY_MAX {
        let read = tokio::select! {
            biased;
            done = &mut work => return Ok(Answer::Present(done)),
            read = stream.read_buf(rest) => read,
        };
        if !matches!(read, Ok(0) | Err(_)) {
            continue;
        }
        let answered = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if wrong.is_asked_about() => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
        });
        return match (answered.await, read) {
            (Some(done), _) => Ok(Answer::Left(done)),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(_)) => Err(Rejected::Left),
        };
    }
    Ok(Answer::Present(work.await))
}

/// Bytes behind CONNECT that are read before it is answered.
const EARLY_MAX: usize = 4 * READ;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    // I4, N1
    #[tokio::test]
    async fn who_leaves_a_question_behind_keeps_its_place_until_the_answer_counts() {
        let wrong = Wrong::default();
        let (answer, answered) = oneshot::channel();
        let (mut stream, client) = tokio::io::duplex(64);
        let mut rest = BytesMut::new();
        let work = async {
            let asking = wrong.ask();
            let answer = answered.await;
            drop(asking);
            answer
        };
        let mut login = Box::pin(while_present(&mut stream, &mut rest, work, &wrong));
        assert!((&mut login).now_or_never().is_none());
        drop(client);
        assert!((&mut login).now_or_never().is_none(), "it is asked about");
        answer.send("inactive").unwrap();
        let left = login.await.unwrap();
        assert_eq!(left, Answer::Left(Ok("inactive")));
    }

    // I3
    #[tokio::test]
    async fn who_leaves_a_queue_gives_its_place_back() {
        let wrong = Wrong::default();
        let (mut stream, client) = tokio::io::duplex(64);
        drop(client);
        let mut rest = BytesMut::new();
        let work = async {
            // Asked about, and in the queue of passwords then.
            drop(wrong.ask());
            std::future::pending::<()>().await
        };
        let left = while_present(&mut stream, &mut rest, work, &wrong).await;
        assert!(matches!(left, Err(Rejected::Left)));
    }
}
