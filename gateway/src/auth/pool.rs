//! The bounded pool in which chosen passwords are hashed: few low-priority threads, so that a storm of logins neither
//! takes 19 MiB for each client nor starves the message path (I3). Addresses take turns: who guesses does not keep
//! others waiting.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::AuthError;
use super::imported::Efforts;
use super::password::{self, Memory};
use crate::fair_queue::FairQueue;

/// How long an idle thread keeps its 19 MiB.
const KEEP_MEMORY: Duration = Duration::from_secs(5);
/// Above normal niceness: hashing yields to everything else.
const NICENESS: i32 = 10;

/// The pool. Dropping it ends its threads after the hash they are at; waiting jobs are answered as busy.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflow;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: AtomicU64,
}

#[derive(Default)]
struct State {
    jobs: FairQueue<Origin, Job>,
    /// Jobs that may wait.
    capacity: usize,
    /// Threads there should be; thread number `slots` and above leave.
    slots: usize,
    /// Which thread numbers are running.
    running: Vec<bool>,
}

/// The address that a password came from; `None` for the operator.
pub(super) type Origin = Option<IpAddr>;

struct Job {
    password: Box<[u8]>,
    task: Task,
}

/// What follows where a password is wrong.
#[derive(Debug, Clone)]
pub(super) struct Vain {
    /// All that is to be paid beside the stored hash: see [`Efforts::beside`].
    pub efforts: Arc<Efforts>,
    pub decoy: Arc<str>,
    /// Told before any of that: who leaves meanwhile has had its guess looked at.
    pub wrong: Wrong,
}

/// Whether a password or token was found to be wrong; set before the answer, which other work may delay.
#[derive(Debug, Clone, Default)]
pub struct Wrong(Arc<Findings>);

#[derive(Debug, Default)]
struct Findings {
    is_wrong: AtomicBool,
    is_asked_about: AtomicBool,
}

impl Wrong {
    pub fn is_known(&self) -> bool {
        self.0.is_wrong.load(Ordering::Acquire)
    }

    /// Whether others are being asked about it: that costs what it costs, whoever leaves meanwhile.
    pub fn is_asked_about(&self) -> bool {
        self.0.is_asked_about.load(Ordering::Acquire)
    }

    pub(super) fn tell(&self) {
        self.0.is_wrong.store(true, Ordering::Release);
    }

    /// Others are asked about it until what this returns is dropped.
    pub(crate) fn ask(&self) -> Asking<'_> {
        self.0.is_asked_about.store(true, Ordering::Release);
        Asking(self)
    }
}

pub(crate) struct Asking<'a>(&'a Wrong);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.0.is_asked_about.store(false, Ordering::Release);
    }
}

enum Task {
    Verify {
        phc: Arc<str>,
        vain: Vain,
        answer: oneshot::Sender<bool>,
    },
    /// A hash that no client waits for.
    Replace {
        then: Box<dyn FnOnce(String) + Send>,
    },
    Hash {
        answer: oneshot::Sender<Result<String, AuthError>>,
    },
}

impl Pool {
    /// `slots` threads (0: one per core), and at most `capacity` jobs waiting for one.
    pub fn new(slots: usize, capacity: usize) -> Result<Self, AuthError> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            done: AtomicU64::new(0),
        });
        let pool = Pool { shared };
        pool.resize(slots, capacity)?;
        Ok(pool)
    }

    /// Changes the number of threads and of waiting jobs; what waits already is done all the same.
    pub fn resize(&self, slots: usize, capacity: usize) -> Result<(), AuthError> {
        let slots = match slots {
            0 => thread::available_parallelism().map_or(1, usize::from),
            some => some,
        };
        let mut state = self.shared.state.lock();
        state.capacity = capacity.max(1);
        state.slots = slots;
        if state.running.len() < slots {
            state.running.resize(slots, false);
        }
        for number in 0..slots {
            if !state.running[number] {
                let shared = self.shared.clone();
                let thread = thread::Builder::new().name(format!("password-{number}"));
                thread
                    .spawn(move || shared.run(number))
                    .map_err(AuthError::Thread)?;
                state.running[number] = true;
            }
        }
        self.shared.work.notify_all();
        Ok(())
    }

    /// Whether the password has this hash. The answer comes after at most `capacity` other hashes. When the queue is
    /// full, the origin with most of it makes room for the others.
    pub async fn verify(
        &self,
        origin: Origin,
        password: &[u8],
        phc: Arc<str>,
        vain: Vain,
    ) -> Result<bool, Overflow> {
        let (answer, result) = oneshot::channel();
        self.push(origin, password, Task::Verify { phc, vain, answer })?;
        result.await.map_err(|_| Overflow)
    }

    /// Has a password hashed some time soon that was found right, unless all places are taken: nobody makes room for it.
    /// It waits in the turns of its origin.
    pub fn replace(
        &self,
        origin: Origin,
        password: &[u8],
        then: impl FnOnce(String) + Send + 'static,
    ) {
        let task = Task::Replace {
            then: Box::new(then),
        };
        let mut state = self.shared.state.lock();
        if state.jobs.len() < state.capacity {
            let password = password.into();
            state.jobs.push(origin, Job { password, task });
            self.shared.work.notify_one();
        }
    }

    /// The hash of a new password.
    pub async fn hash(&self, password: &[u8]) -> Result<String, AuthError> {
        password::check(password)?;
        let (answer, result) = oneshot::channel();
        self.push(None, password, Task::Hash { answer })
            .map_err(|Overflow| AuthError::Busy)?;
        result.await.map_err(|_| AuthError::Busy)?
    }

    /// Hashes computed since the start.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    fn push(&self, origin: Origin, password: &[u8], task: Task) -> Result<(), Overflow> {
        let mut state = self.shared.state.lock();
        if state.jobs.len() >= state.capacity {
            // Clients that left while they waited make room.
            state.jobs.retain(|job| !job.task.is_abandoned());
            if state.jobs.len() >= state.capacity && state.jobs.displace(&origin).is_none() {
                return Err(Overflow);
            }
        }
        let password = password.into();
        state.jobs.push(origin, Job { password, task });
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.slots = 0;
        state.jobs.clear();
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn run(&self, number: usize) {
        // On Linux the niceness is each thread's own. Where it cannot be set, hashing merely competes.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let mut memory = Memory::default();
        while let Some(job) = self.next(number, &mut memory) {
            job.run(&mut memory, &self.done);
        }
    }

    /// The next job; `None` when this thread is to end.
    fn next(&self, number: usize, memory: &mut Memory) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if number >= state.slots {
                state.running[number] = false;
                // This thread may have taken the wake-up meant for one that stays.
                self.work.notify_one();
                return None;
            }
            if let Some((_, job)) = state.jobs.pop() {
                return Some(job);
            }
            if memory.is_empty() {
                self.work.wait(&mut state);
            } else if self.work.wait_for(&mut state, KEEP_MEMORY).timed_out() {
                *memory = Memory::default();
            }
        }
    }
}

impl Job {
    fn run(self, memory: &mut Memory, done: &AtomicU64) {
        if self.task.is_abandoned() {
            return;
        }
        // The other end may have left meanwhile; then nobody wants the answer.
        match self.task {
            Task::Verify { phc, vain, answer } => {
                let verified = password::verify(&self.password, &phc, memory);
                done.fetch_add(1, Ordering::Relaxed);
                if !verified {
                    vain.wrong.tell();
                    // One job: between two of them, others would have their turn, and the time would tell how many
                    // there are.
                    for decoy in vain.efforts.beside(&phc, &vain.decoy) {
                        password::verify(&self.password, &decoy, memory);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
                let _ = answer.send(verified);
            }
            Task::Replace { then } => {
                let hash = password::hash(&self.password, memory);
                done.fetch_add(1, Ordering::Relaxed);
                if let Ok(hash) = hash {
                    then(hash);
                }
            }
            Task::Hash { answer } => {
                let hash = password::hash(&self.password, memory);
                done.fetch_add(1, Ordering::Relaxed);
                let _ = answer.send(hash);
            }
        }
    }
}

impl Task {
    fn is_abandoned(&self) -> bool {
        match self {
            Task::Verify { answer, .. } => answer.is_closed(),
            Task::Hash { answer } => answer.is_closed(),
            Task::Replace { .. } => false,
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} jobs waiting, {} slots",
            self.jobs.len(),
            self.capacity,
            self.slots
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    async fn verify(
        pool: &Pool,
        origin: Origin,
        password: &[u8],
        phc: Arc<str>,
    ) -> Result<bool, Overflow> {
        let vain = Vain {
            efforts: Arc::default(),
            decoy: phc.clone(),
            wrong: Wrong::default(),
        };
        pool.verify(origin, password, phc, vain).await
    }

    #[tokio::test]
    async fn a_hash_made_in_the_pool_verifies_in_the_pool() {
        let pool = Pool::new(2, 4).unwrap();
        let phc: Arc<str> = pool.hash(b"secret").await.unwrap().into();
        assert_eq!(verify(&pool, None, b"secret", phc.clone()).await, Ok(true));
        assert_eq!(verify(&pool, None, b"other", phc).await, Ok(false));
    }

    // I3
    #[tokio::test]
    async fn more_than_the_capacity_overflows_at_once_and_what_waits_is_answered() {
        let pool = Pool::new(1, 2).unwrap();
        let decoy: Arc<str> = password::decoy().unwrap().into();
        // Polled in order on one thread: the first few fill the queue before any hash can end.
        let all = futures_util::future::join_all(
            (0..12).map(|_| verify(&pool, None, b"x", decoy.clone())),
        )
        .await;
        let overflowed = all.iter().filter(|answer| answer.is_err()).count();
        assert!((1..=10).contains(&overflowed), "{overflowed}");
        assert!(all.iter().flatten().all(|verified| !verified));
        assert_eq!(
            verify(&pool, None, b"x", decoy).await,
            Ok(false),
            "room again"
        );
    }

    // I3
    #[tokio::test]
    async fn who_guesses_with_many_passwords_keeps_nobody_else_waiting() {
        let pool = Pool::new(1, 20).unwrap();
        pool.shared.state.lock().slots = 0; // nobody works yet
        let decoy: Arc<str> = password::decoy().unwrap().into();
        let [guesser, other] = [1, 2].map(|last| Some(IpAddr::from([192, 0, 2, last])));
        let mut guesses: Vec<_> = (0..20)
            .map(|_| Box::pin(verify(&pool, guesser, b"x", decoy.clone())))
            .collect();
        for guess in &mut guesses {
            assert!(guess.now_or_never().is_none(), "queued");
        }
        let late = verify(&pool, guesser, b"x", decoy.clone());
        assert_eq!(late.now_or_never(), Some(Err(Overflow)));
        let mut login = Box::pin(verify(&pool, other, b"x", decoy.clone()));
        assert!((&mut login).now_or_never().is_none(), "there is room");
        let displaced = guesses.pop().unwrap().await;
        assert_eq!(displaced, Err(Overflow), "its last guess made it");
        pool.resize(1, 20).unwrap();
        assert_eq!(login.await, Ok(false));
        // One hash for each of the two was enough, give or take the one that runs now.
        assert!(pool.done() <= 4, "{} were first", pool.done());
    }

    #[tokio::test]
    async fn a_client_that_left_gives_its_place_back() {
        let pool = Pool::new(1, 1).unwrap();
        pool.shared.state.lock().slots = 0; // nobody works
        let decoy: Arc<str> = password::decoy().unwrap().into();
        for _ in 0..3 {
            let mut waiting = Box::pin(verify(&pool, None, b"x", decoy.clone()));
            assert!((&mut waiting).now_or_never().is_none(), "queued each time");
        }
    }

    #[tokio::test]
    async fn the_pool_grows_and_shrinks_while_it_works() {
        let pool = Pool::new(1, 8).unwrap();
        let decoy: Arc<str> = password::decoy().unwrap().into();
        for slots in [3, 1, 2] {
            pool.resize(slots, 8).unwrap();
            let all = futures_util::future::join_all(
                (0..4).map(|_| verify(&pool, None, b"x", decoy.clone())),
            )
            .await;
            assert!(all.iter().all(|answer| *answer == Ok(false)), "{slots}");
        }
    }

    #[tokio::test]
    async fn a_dropped_pool_ends_its_threads() {
        let pool = Pool::new(2, 8).unwrap();
        let shared = pool.shared.clone();
        drop(pool);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&shared) > 1 {
            assert!(std::time::Instant::now() < deadline, "threads still run");
            tokio::task::yield_now().await;
        }
    }
}
