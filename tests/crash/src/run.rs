//! How does a run go? Start, clients, crash after crash, an end at which everything must arrive, and the verdict.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cast;
use crate::chance::Chance;
use crate::counts::Counts;
use crate::disk::Disk;
use crate::error::CrashError;
use crate::options::Options;
use crate::publisher::{self, Publisher, Shelf};
use crate::report::Report;
use crate::retained;
use crate::server::Server;
use crate::subscriber::{Received, Subscriber};
use crate::verdict::{Recipient, Verdict};
use crate::wills::{self, Due, Watcher};
use crate::world::{Phase, World};

/// Without any delivery for this long, what is missing will not come.
const STALLED: Duration = Duration::from_secs(10);
/// The same when nothing is missing: time for a duplicate to show.
const QUIET: Duration = Duration::from_millis(700);
/// The end of everything, however much still moves.
const DRAIN: Duration = Duration::from_secs(180);
/// Of a hundred crashes, after so many the clients wait until the retained messages were looked at.
const LOOKS: u64 = 50;

/// A run under way.
struct Run {
    server: Server,
    world: Arc<World>,
    counts: Arc<Counts>,
    chance: Chance,
    shelves: Vec<Arc<Shelf>>,
    recipients: Vec<Recipient>,
    watcher: Arc<Watcher>,
    testators: Vec<wills::Shared>,
    publishers: JoinSet<()>,
    others: JoinSet<()>,
    restarts: Vec<Duration>,
}

/// Crashes the gateway as `options` say, and judges.
///
/// # Errors
/// The gateway does not start again, or the run itself could not be made. Losses are no error: see
/// [`Report::is_clean`].
pub async fn run(options: &Options) -> Result<Report, CrashError> {
    let start = Instant::now();
    let seed = options.seed();
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => default_binary()?,
    };
    let disk = if options.power_loss {
        Disk::image()?
    } else {
        Disk::folder()?
    };
    let server = Server::new(binary, disk, options.durability)?;
    let mut run = Run::start(server, options, seed).await?;
    run.wait_for_subscriptions().await?;
    for kill in 1..=options.kills {
        let uptime = options.uptime(&mut run.chance);
        run.round(kill, uptime, options.network_only).await?;
        if kill.is_multiple_of(10) && !options.quiet {
            println!("{}", run.line(kill));
        }
    }
    run.finish().await?;
    let report = run.report(options, seed, start).await;
    run.server.crash().await?;
    if options.keep {
        println!("the files are in {}", run.server.disk.keep().display());
    }
    Ok(report)
}

/// `postern` in the folder of this program; a test program is one folder deeper.
fn default_binary() -> Result<std::path::PathBuf, CrashError> {
    let own = std::env::current_exe().map_err(|cause| CrashError::File {
        step: "find",
        path: "this program".into(),
        cause,
    })?;
    let mut folder = own.parent().unwrap_or(&own);
    if folder.ends_with("deps") {
        folder = folder.parent().unwrap_or(folder);
    }
    Ok(folder.join("postern"))
}

impl Run {
    async fn start(mut server: Server, options: &Options, seed: u64) -> Result<Self, CrashError> {
        server.start().await?;
        let world = World::new(server.address, server.account(), options.publishers);
        let mut run = Self {
            server,
            world: Arc::new(world),
            counts: Arc::default(),
            chance: Chance::new(seed),
            shelves: Vec::new(),
            recipients: Vec::new(),
            watcher: Arc::default(),
            testators: Vec::new(),
            publishers: JoinSet::new(),
            others: JoinSet::new(),
            restarts: Vec::new(),
        };
        for plan in cast::subscribers(options.publishers) {
            run.add_subscriber(plan);
        }
        for index in 0..options.publishers {
            let shelf = Arc::new(Shelf::default());
            run.shelves.push(shelf.clone());
            let plan = publisher::Plan::of(index, options.rate);
            let chance = run.chance.fork(1000 + index as u64);
            let publisher =
                Publisher::new(plan, run.world.clone(), shelf, run.counts.clone(), chance);
            run.publishers.spawn(publisher.run());
        }
        Ok(run)
    }

    fn add_subscriber(&mut self, plan: crate::subscriber::Plan) {
        let received = Arc::new(Mutex::new(Received::default()));
        let chance = self.chance.fork(1 + self.recipients.len() as u64);
        let subscriber = Subscriber::new(
            plan.clone(),
            self.world.clone(),
            received.clone(),
            self.counts.clone(),
            chance,
        );
        self.others.spawn(subscriber.run());
        self.recipients.push(Recipient { plan, received });
    }

    /// Crashes begin when every subscriber has its first SUBACK: before it nothing is owed to it.
    async fn wait_for_subscriptions(&mut self) -> Result<(), CrashError> {
        let (sender, mut ready) = watch::channel(false);
        self.others
            .spawn(self.watcher.clone().run(self.world.clone(), sender));
        let begin = Instant::now();
        loop {
            let all = self.recipients.iter().all(|recipient| {
                let received = recipient.received.lock().expect("no poison");
                received
                    .intervals
                    .iter()
                    .all(|i| i.iter().any(|i| i.made.is_some()))
            });
            if all && *ready.borrow_and_update() {
                return Ok(());
            }
            self.check_clients()?;
            if begin.elapsed() > STALLED * 2 {
                return Err(CrashError::Client(
                    "not every subscriber got its SUBACK".to_owned(),
                ));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn round(
        &mut self,
        kill: u64,
        uptime: Duration,
        network_only: bool,
    ) -> Result<(), CrashError> {
        let mut testator = wills::Testator::new(kill, &mut self.chance);
        // Without a restart there is no grace to return in.
        testator.returns &= !network_only;
        let testator: wills::Shared = Arc::new(Mutex::new(testator));
        self.testators.push(testator.clone());
        self.others
            .spawn(wills::live(self.world.clone(), testator.clone()));
        sleep(uptime).await;
        self.check_clients()?;
        wills::killed(&testator);
        let look = self.chance.percent(LOOKS);
        self.world.open_gate(!look);
        if network_only {
            self.world.cut();
        } else {
            self.server.crash().await?;
            self.restarts.push(self.server.start().await?);
        }
        if look {
            let looked = retained::look(&self.world, &self.shelves, &self.counts).await;
            self.world.open_gate(true);
            if looked.is_err() {
                return Err(CrashError::Client(
                    "the gateway closed the connection of the client that looks at retained messages".into(),
                ));
            }
        }
        Ok(())
    }

    /// The clients of a run end only when it is over: one that ended before has found something that must not be.
    fn check_clients(&mut self) -> Result<(), CrashError> {
        for tasks in [&mut self.publishers, &mut self.others] {
            while let Some(ended) = tasks.try_join_next() {
                ended.map_err(|panic| CrashError::Client(panic.to_string()))?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), CrashError> {
        let restarted = Instant::now();
        self.world.enter(Phase::Finishing);
        let begin = Instant::now();
        while !self.publishers.is_empty() {
            self.check_clients()?;
            if begin.elapsed() > DRAIN {
                return Err(CrashError::Client(format!(
                    "{} publishers never got all their acknowledgements",
                    self.publishers.len()
                )));
            }
            sleep(Duration::from_millis(10)).await;
        }
        self.world.enter(Phase::Draining);
        self.drain(restarted).await?;
        if retained::look(&self.world, &self.shelves, &self.counts)
            .await
            .is_err()
        {
            return Err(CrashError::Client("the gateway died at the end".to_owned()));
        }
        Ok(())
    }

    async fn drain(&mut self, restarted: Instant) -> Result<(), CrashError> {
        let begin = Instant::now();
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            self.check_clients()?;
            let now = self.counts.delivered.get();
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            let quiet = moved.elapsed();
            let wills_due = restarted.elapsed() > wills::LONGEST + Duration::from_secs(3);
            if quiet > STALLED || begin.elapsed() > DRAIN {
                return Ok(());
            }
            if quiet > QUIET {
                let verdict = Verdict::reach(&self.shelves, &self.recipients);
                let wills = self.wills();
                if verdict.lost == 0 && (wills.lost == 0 || wills_due) {
                    return Ok(());
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn wills(&self) -> Wills {
        let came = self.watcher.came.lock().expect("no poison");
        let mut wills = Wills::default();
        for testator in &self.testators {
            let testator = testator.lock().expect("no poison");
            let there = came.contains(&testator.round);
            match testator.due() {
                Due::Must => {
                    wills.owed += 1;
                    wills.lost += u64::from(!there);
                }
                Due::MustNot => wills.unwanted += u64::from(there),
                Due::Either => {}
            }
        }
        wills
    }

    fn line(&self, kill: u64) -> String {
        let counts = &self.counts;
        format!(
            "{kill:4} kills, {} s: acknowledged {} + {}, delivered {}, duplicates {} at QoS 1, {} at QoS 2, \
             out of order {}, sessions lost {}, retained lost {}",
            self.world.start.elapsed().as_secs(),
            counts.acknowledged[1].get(),
            counts.acknowledged[2].get(),
            counts.delivered.get(),
            counts.duplicates_qos1.get(),
            counts.duplicates_qos2.get(),
            counts.order.get(),
            counts.sessions_lost.get(),
            counts.retained_lost.get(),
        )
    }

    async fn report(&mut self, options: &Options, seed: u64, start: Instant) -> Report {
        let resident_kib = self.server.resident_kib().unwrap_or(0);
        self.world.enter(Phase::Over);
        let wills = self.wills();
        Report {
            seed,
            durability: options.durability.name(),
            kills: options.kills,
            seconds: start.elapsed().as_secs(),
            counts: self.counts.clone(),
            verdict: Verdict::reach(&self.shelves, &self.recipients),
            restarts: std::mem::take(&mut self.restarts),
            resident_kib,
            wills: wills.owed,
            wills_lost: wills.lost,
            wills_unwanted: wills.unwanted,
            complaints: std::mem::take(&mut self.server.complaints),
        }
    }
}

#[derive(Default)]
struct Wills {
    owed: u64,
    lost: u64,
    unwanted: u64,
}
