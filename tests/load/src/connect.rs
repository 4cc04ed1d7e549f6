//! What does a connection cost to make? Clients that connect, log in and leave, over and over.

use crate::clients::check;
use crate::error::LoadError;
use crate::link::{Link, Target};
use crate::options::ConnectOptions;
use crate::process::Process;
use crate::report::{ConnectReport, Cost, Transport};
use crate::run::{Phase, Run};
use crate::tls::Tls;
use crate::traffic::Samples;
use crate::wire::Session;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

/// Largest packet a client accepts that only logs in.
const CAPACITY: usize = 1024;

/// # Errors
/// [`LoadError`] if a connection is not accepted.
pub async fn connect(options: &ConnectOptions) -> Result<ConnectReport, LoadError> {
    options.target.check()?;
    let target = Target::new(&options.target).await?;
    let server = options.target.server_pid.map(Process::other).transpose()?;
    let resident_before = server.map(|server| server.resident_kib()).transpose()?;
    let shared = Arc::new(Shared {
        run: Run::new(0),
        done: AtomicU64::new(0),
        resumed: AtomicU64::new(0),
        transport: Mutex::new(None),
    });
    let (phase, watched) = watch::channel(Phase::WarmUp);
    let mut clients = JoinSet::new();
    for index in 0..options.clients {
        let client = Client {
            index,
            tls: target.tls.as_ref().map(|tls| {
                if options.resume {
                    tls.with_own_cache()
                } else {
                    tls.clone()
                }
            }),
            target: target.clone(),
            shared: shared.clone(),
            pace: (options.rate > 0.0)
                .then(|| Duration::from_secs_f64(f64::from(options.clients) / options.rate)),
        };
        clients.spawn(client.run(watched.clone()));
    }
    let samples = Samples::new(server);
    wait(&mut clients, options.warm_up).await?;
    let resumed_before = shared.resumed.load(Ordering::Relaxed);
    let from = samples.take(shared.run.now(), 0, shared.done.load(Ordering::Relaxed))?;
    shared.run.measuring.store(true, Ordering::Relaxed);
    wait(&mut clients, options.duration).await?;
    let to = samples.take(shared.run.now(), 0, shared.done.load(Ordering::Relaxed))?;
    shared.run.measuring.store(false, Ordering::Relaxed);
    let resumed = shared.resumed.load(Ordering::Relaxed) - resumed_before;
    let resident_after = server.map(|server| server.resident_kib()).transpose()?;
    phase.send_replace(Phase::Close);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let latencies = shared
        .run
        .latencies
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let transport = shared
        .transport
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .take();
    Ok(ConnectReport {
        pattern: "connect",
        clients: options.clients,
        transport,
        resumed,
        measured: (&*latencies, &from, &to).into(),
        cost: Cost::between(
            server.is_some(),
            &from,
            &to,
            resident_before,
            resident_after,
        ),
    })
}

struct Shared {
    run: Run,
    done: AtomicU64,
    resumed: AtomicU64,
    transport: Mutex<Option<Transport>>,
}

struct Client {
    index: u32,
    target: Arc<Target>,
    tls: Option<Tls>,
    shared: Arc<Shared>,
    /// Between two connections of this client.
    pace: Option<Duration>,
}

impl Client {
    async fn run(self, phase: watch::Receiver<Phase>) -> Result<(), LoadError> {
        let mut ticks: Option<Interval> = self.pace.map(tokio::time::interval);
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        }
        let mut number = 0u64;
        while *phase.borrow() != Phase::Close {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            self.once(number).await?;
            number += 1;
        }
        Ok(())
    }

    async fn once(&self, number: u64) -> Result<(), LoadError> {
        let shared = &self.shared;
        let started = shared.run.now();
        // A name of its own for each connection: the server need not have noticed the end of the last one.
        let name = format!("pl{:08x}c{}n{number}", shared.run.id, self.index);
        let link = Link::open(
            &self.target,
            self.tls.as_ref(),
            name,
            Session::Clean,
            self.index,
            CAPACITY,
        )
        .await?;
        if shared.run.measuring.load(Ordering::Relaxed) {
            let mut latencies = shared
                .run
                .latencies
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            latencies.record(shared.run.now() - started);
        }
        if let Some(negotiated) = link.negotiated() {
            shared
                .resumed
                .fetch_add(u64::from(negotiated.resumed), Ordering::Relaxed);
            let mut transport = shared
                .transport
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            transport.get_or_insert_with(|| Transport::from(negotiated));
        }
        shared.done.fetch_add(1, Ordering::Relaxed);
        link.close().await;
        Ok(())
    }
}

/// Waits; fails as soon as a client fails.
async fn wait(
    clients: &mut JoinSet<Result<(), LoadError>>,
    time: Duration,
) -> Result<(), LoadError> {
    let deadline = tokio::time::Instant::now() + time;
    loop {
        check(clients)?;
        let now = tokio::time::Instant::now();
        if now >= deadline {
            return Ok(());
        }
        tokio::time::sleep_until(deadline.min(now + Duration::from_millis(20))).await;
    }
}
