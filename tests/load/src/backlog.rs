//! What does a message cost that has to wait? A subscriber with a persistent session goes away, publishers send until
//! everything is acknowledged, and the subscriber comes back for all of it. The two halves are measured apart.

use crate::clients::{check, link, open_all};
use crate::error::LoadError;
use crate::link::{Link, Target};
use crate::options::BacklogOptions;
use crate::process::Process;
use crate::publisher::{InFlight, Published, Publisher};
use crate::report::{BacklogReport, Cost, Half, Speed, Transport};
use crate::run::{Flow, Phase, Run};
use crate::subscriber::{Interest, Received, Subscriber};
use crate::tracker::Tally;
use crate::traffic::{LINGER, OVERHEAD, Sample, Samples, TICK};
use crate::wire::{Session, Template};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The largest read of the subscriber.
const BUFFER: usize = 64 * 1024;

/// Runs both halves and reports on them.
///
/// # Errors
/// [`LoadError`] if a client cannot be set up, fails on the way, or finds no session when it comes back.
pub async fn backlog(options: &BacklogOptions) -> Result<BacklogReport, LoadError> {
    options.target.check()?;
    let target = Target::new(&options.target).await?;
    let server = options.target.server_pid.map(Process::other).transpose()?;
    let backlog = Backlog {
        options,
        target,
        server,
        samples: Samples::new(server),
        run: Arc::new(Run::new(1)),
        flows: (0..options.clients)
            .map(|_| Arc::new(Flow::new(options.messages, 1)))
            .collect(),
    };
    backlog.leave_a_session().await?;
    let (stored, transport, published) = backlog.store().await?;
    let (drained, received) = backlog.drain().await?;
    Ok(backlog.report(transport, &published, &received, stored, drained))
}

struct Backlog<'a> {
    options: &'a BacklogOptions,
    target: Arc<Target>,
    server: Option<Process>,
    samples: Samples,
    run: Arc<Run>,
    /// One per publisher, with a window that everything fits into.
    flows: Arc<[Arc<Flow>]>,
}

impl Backlog<'_> {
    /// Subscribes in a session that stays.
    async fn leave_a_session(&self) -> Result<(), LoadError> {
        let link = self.subscriber_link().await?;
        let (_, phase) = watch::channel(Phase::Ready);
        let (run, flows) = (self.run.clone(), self.flows.clone());
        let version = self.target.version();
        let subscriber =
            Subscriber::start(link, run, flows, phase, version, self.interest()).await?;
        subscriber.leave().await;
        Ok(())
    }

    async fn store(&self) -> Result<(Half, Option<Transport>, Vec<Published>), LoadError> {
        let resident = self.resident()?;
        let phase = watch::Sender::new(Phase::Ready);
        let at_once = self.options.target.connect_at_once;
        let open = |index| self.publisher(index, phase.subscribe());
        let publishers = open_all(self.options.clients, at_once, open).await?;
        let transport = publishers[0].link.negotiated().map(Transport::from);
        let mut clients = JoinSet::new();
        for publisher in publishers {
            clients.spawn(publisher.run());
        }
        let from = self.sample(self.run.now(), 0)?;
        phase.send_replace(Phase::Measure);
        let settled = |flow: &Arc<Flow>| flow.settled.load(Ordering::Acquire);
        self.wait(&mut clients, || {
            (self.flows.iter().all(settled), self.acknowledged())
        })
        .await?;
        let to = self.sample(self.run.now(), self.acknowledged())?;
        let half = self.half(&from, &to, resident)?;
        phase.send_replace(Phase::Close);
        let mut published = Vec::new();
        while let Some(ended) = clients.join_next().await {
            published.push(ended??);
        }
        Ok((half, transport, published))
    }

    async fn drain(&self) -> Result<(Half, Vec<Received>), LoadError> {
        let resident = self.resident()?;
        let from = self.sample(self.run.now(), 0)?;
        let link = self.subscriber_link().await?;
        if !link.session_present {
            return Err(LoadError::Protocol {
                client: link.client().to_owned(),
                what: "session present = 0 to a client whose session it should have kept"
                    .to_owned(),
            });
        }
        let phase = watch::Sender::new(Phase::Measure);
        let (run, flows) = (self.run.clone(), self.flows.clone());
        let subscriber = Subscriber::resume(link, run, flows, phase.subscribe(), self.interest());
        let mut clients = JoinSet::new();
        clients.spawn(subscriber.run());
        let delivered = || self.run.total_delivered();
        self.wait(&mut clients, || (delivered() >= self.sent(), delivered()))
            .await?;
        // For duplicates to show, and for the last acknowledgements to be worked off: that is part of the cost.
        tokio::time::sleep(LINGER).await;
        let at = self.run.last_delivery.load(Ordering::Relaxed);
        let to = self.sample(at.max(from.at + 1), delivered())?;
        let half = self.half(&from, &to, resident)?;
        phase.send_replace(Phase::Close);
        let mut received = Vec::new();
        while let Some(ended) = clients.join_next().await {
            received.push(ended??);
        }
        Ok((half, received))
    }

    /// Until `progress` says that all is done, or its count has not changed for the drain time.
    async fn wait<T: 'static>(
        &self,
        clients: &mut JoinSet<Result<T, LoadError>>,
        progress: impl Fn() -> (bool, u64),
    ) -> Result<(), LoadError> {
        let (mut last, mut since) = (u64::MAX, Instant::now());
        loop {
            check(clients)?;
            let (done, count) = progress();
            if done {
                return Ok(());
            }
            if count != last {
                (last, since) = (count, Instant::now());
            } else if since.elapsed() >= self.options.drain {
                return Ok(());
            }
            tokio::time::sleep(TICK.min(Duration::from_millis(5))).await;
        }
    }

    async fn subscriber_link(&self) -> Result<Link, LoadError> {
        let client = format!("pl{:08x}s", self.run.id);
        let capacity = BUFFER.max(2 * self.options.payload as usize) + OVERHEAD;
        link(
            self.target.clone(),
            client,
            Session::Persistent,
            0,
            capacity,
        )
        .await
    }

    fn interest(&self) -> Interest {
        Interest {
            index: 0,
            slot: 0,
            filter: format!("postern-load/{:08x}/+", self.run.id),
            qos: self.options.qos,
            publishers: 0..self.options.clients,
            topics: 1,
        }
    }

    fn publisher(
        &self,
        index: u32,
        phase: watch::Receiver<Phase>,
    ) -> impl Future<Output = Result<Publisher, LoadError>> + Send + 'static {
        let options = self.options;
        let (qos, inflight, clients) = (options.qos, options.inflight, u64::from(options.clients));
        // The first ones take what does not divide.
        let messages =
            options.messages / clients + u64::from(u64::from(index) < options.messages % clients);
        let topic = format!("postern-load/{:08x}/{index}", self.run.id);
        let version = self.target.version();
        let template = Template::new(version, &topic, qos, options.payload as usize);
        let (run, flow) = (self.run.clone(), self.flows[index as usize].clone());
        let (target, client) = (
            self.target.clone(),
            format!("pl{:08x}p{index}", self.run.id),
        );
        async move {
            // Another source address than the subscriber's.
            let link = link(target, client, Session::Clean, index + 1, OVERHEAD).await?;
            let in_flight = InFlight::new(qos, inflight.min(link.receive_maximum));
            Ok(Publisher {
                index,
                link,
                flow,
                run,
                phase,
                templates: vec![template],
                in_flight,
                pace: None,
                messages: Some(messages),
            })
        }
    }

    fn sent(&self) -> u64 {
        let sent = |flow: &Arc<Flow>| flow.sent.load(Ordering::Relaxed);
        self.flows.iter().map(sent).sum()
    }

    fn unacknowledged(&self) -> u64 {
        let open = |flow: &Arc<Flow>| flow.unacknowledged.load(Ordering::Relaxed);
        self.flows.iter().map(open).sum()
    }

    fn acknowledged(&self) -> u64 {
        // Two counters that change apart: what is sent may be seen before it counts as unacknowledged.
        self.sent().saturating_sub(self.unacknowledged())
    }

    fn resident(&self) -> Result<Option<u64>, LoadError> {
        self.server.map(|server| server.resident_kib()).transpose()
    }

    fn sample(&self, at: u64, done: u64) -> Result<Sample, LoadError> {
        self.samples.take(at, self.sent(), done)
    }

    fn half(&self, from: &Sample, to: &Sample, resident: Option<u64>) -> Result<Half, LoadError> {
        let measured = self.server.is_some();
        Ok(Half {
            measured: Speed::between(from, to),
            cost: Cost::between(measured, from, to, resident, self.resident()?),
        })
    }

    fn report(
        &self,
        transport: Option<Transport>,
        published: &[Published],
        received: &[Received],
        stored: Half,
        drained: Half,
    ) -> BacklogReport {
        let mut tally = Tally::default();
        for (tracker, flow) in received.iter().flat_map(|r| &r.trackers).zip(&*self.flows) {
            let one = tracker.tally(flow.sent.load(Ordering::Relaxed));
            tally.lost += one.lost;
            tally.duplicates += one.duplicates;
            tally.order_violations += one.order_violations;
        }
        BacklogReport {
            pattern: "backlog",
            clients: self.options.clients,
            qos: self.options.qos,
            payload_bytes: self.options.payload,
            transport,
            published: self.sent(),
            delivered: self.run.total_delivered(),
            lost: tally.lost,
            duplicates: tally.duplicates,
            order_violations: tally.order_violations,
            unexpected: received
                .iter()
                .map(|subscriber| subscriber.unexpected)
                .sum(),
            unacknowledged: self.unacknowledged(),
            refused: published.iter().map(|publisher| publisher.refused).sum(),
            first_refusal: published
                .iter()
                .find_map(|publisher| publisher.first_refusal),
            stored,
            drained,
        }
    }
}
