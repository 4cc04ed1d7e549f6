//! How does a run of publishers and subscribers go? It sets the clients up by pattern, moves them through the phases,
//! samples the server at the right moments and puts the report together.

use crate::clients::{check, link, open_all};
use crate::error::LoadError;
use crate::link::Target;
use crate::options::TrafficOptions;
use crate::process::Process;
use crate::publisher::{InFlight, Pace, Published, Publisher};
use crate::report::{Cost, TrafficReport, Transport};
use crate::run::{Flow, Phase, Run};
use crate::subscriber::{Interest, Received, Subscriber};
use crate::tracker::Tally;
use crate::wire::{Session, Template};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub const TICK: Duration = Duration::from_millis(20);

/// After everything has arrived: time for duplicates to show.
pub const LINGER: Duration = Duration::from_millis(200);

/// Bytes a packet may have beyond the payload: header, topic, properties.
pub const OVERHEAD: usize = 4096;

/// Who sends to whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    OneToOne,
    FanIn,
    FanOut,
}

/// Runs the traffic and reports on it.
///
/// # Errors
/// [`LoadError`] if the clients cannot be set up, or any of them fails on the way.
pub async fn traffic(
    name: &'static str,
    shape: Shape,
    options: &TrafficOptions,
) -> Result<TrafficReport, LoadError> {
    options.check()?;
    let target = Target::new(&options.target).await?;
    let server = options.target.server_pid.map(Process::other).transpose()?;
    let resident_before = server.map(|server| server.resident_kib()).transpose()?;
    let plan = Plan::new(shape, options);
    let (clients, transport) = plan.set_up(&target).await?;
    let mut conductor = Conductor {
        samples: Samples::new(server),
        clients,
        plan: &plan,
        stalls: 0,
        progress: vec![(0, Instant::now()); plan.flows.len()],
    };
    let (from, to) = conductor.measure().await?;
    let resident_after = server.map(|server| server.resident_kib()).transpose()?;
    conductor.drain().await?;
    let stalls = conductor.stalls;
    let (published, received) = conductor.close().await?;
    let cost = Cost::between(
        server.is_some(),
        &from,
        &to,
        resident_before,
        resident_after,
    );
    Ok(plan.report(Outcome {
        name,
        transport,
        published,
        received,
        stalls,
        from,
        to,
        cost,
    }))
}

/// A moment in a run: cumulative counts and costs.
#[derive(Clone, Copy)]
pub struct Sample {
    /// Nanoseconds of the run.
    pub at: u64,
    pub sent: u64,
    /// Messages or connections, by pattern.
    pub done: u64,
    pub server_cpu: f64,
    /// Bytes that the server has handed to its disks; `None` if that is not to be known.
    pub server_written: Option<u64>,
    pub own_cpu: f64,
}

/// Takes samples of the server and of the generator itself.
#[derive(Clone, Copy)]
pub struct Samples {
    server: Option<Process>,
    own: Process,
}

impl Samples {
    pub fn new(server: Option<Process>) -> Self {
        Self {
            server,
            own: Process::own(),
        }
    }

    pub fn take(&self, at: u64, sent: u64, done: u64) -> Result<Sample, LoadError> {
        let server_cpu = self.server.map_or(Ok(0.0), |server| server.cpu_seconds())?;
        Ok(Sample {
            at,
            sent,
            done,
            server_cpu,
            server_written: self.server.and_then(|server| server.written_bytes()),
            own_cpu: self.own.cpu_seconds()?,
        })
    }
}

type Clients = JoinSet<Result<Ended, LoadError>>;

enum Ended {
    Publisher(Published),
    Subscriber(Received),
}

/// What a finished run left behind, before it is counted up.
struct Outcome {
    name: &'static str,
    transport: Option<Transport>,
    published: Vec<Published>,
    received: Vec<Received>,
    stalls: u64,
    from: Sample,
    to: Sample,
    cost: Cost,
}

struct Plan<'a> {
    shape: Shape,
    options: &'a TrafficOptions,
    publishers: u32,
    subscribers: u32,
    run: Arc<Run>,
    flows: Arc<[Arc<Flow>]>,
    phase: watch::Sender<Phase>,
}

impl<'a> Plan<'a> {
    fn new(shape: Shape, options: &'a TrafficOptions) -> Self {
        let n = options.clients;
        let (publishers, subscribers, slots) = match shape {
            Shape::OneToOne => (n, n, 1),
            Shape::FanIn => (n, 1, 1),
            Shape::FanOut => (1, n, n as usize),
        };
        let window = u64::from((options.window / publishers).max(1));
        Self {
            shape,
            options,
            publishers,
            subscribers,
            run: Arc::new(Run::new(subscribers as usize)),
            flows: (0..publishers)
                .map(|_| Arc::new(Flow::new(window, slots)))
                .collect(),
            phase: watch::Sender::new(Phase::Ready),
        }
    }

    /// Subscribers first, so that no message is sent before all of them listen.
    async fn set_up(
        &self,
        target: &Arc<Target>,
    ) -> Result<(Clients, Option<Transport>), LoadError> {
        let at_once = self.options.target.connect_at_once;
        let subscribers =
            open_all(self.subscribers, at_once, |i| self.subscriber(target, i)).await?;
        let publishers = open_all(self.publishers, at_once, |i| self.publisher(target, i)).await?;
        let transport = publishers[0].link.negotiated().map(Transport::from);
        let mut clients = JoinSet::new();
        for subscriber in subscribers {
            clients.spawn(async { subscriber.run().await.map(Ended::Subscriber) });
        }
        for publisher in publishers {
            clients.spawn(async { publisher.run().await.map(Ended::Publisher) });
        }
        Ok((clients, transport))
    }

    fn subscriber(
        &self,
        target: &Arc<Target>,
        index: u32,
    ) -> impl Future<Output = Result<Subscriber, LoadError>> + Send + 'static {
        let options = self.options;
        let payload = options.payload as usize;
        let buffer = if self.subscribers <= 100 {
            64 * 1024
        } else {
            8 * 1024
        };
        let capacity = buffer.max(2 * payload) + OVERHEAD;
        let session = match options.persistent {
            true => Session::Persistent,
            false => Session::Clean,
        };
        let (slot, publishers) = match self.shape {
            Shape::OneToOne => (0, index..index + 1),
            Shape::FanIn => (0, 0..self.publishers),
            Shape::FanOut => (index as usize, 0..1),
        };
        let interest = Interest {
            index: index as usize,
            slot,
            filter: self.filter(&publishers),
            qos: options.qos,
            publishers,
            topics: options.topics,
        };
        let (run, flows, phase) = (self.run.clone(), self.flows.clone(), self.phase.subscribe());
        let (target, client) = (target.clone(), format!("pl{:08x}s{index}", self.run.id));
        async move {
            let version = target.version();
            let link = link(target, client, session, index, capacity).await?;
            Subscriber::start(link, run, flows, phase, version, interest).await
        }
    }

    fn publisher(
        &self,
        target: &Arc<Target>,
        index: u32,
    ) -> impl Future<Output = Result<Publisher, LoadError>> + Send + 'static {
        let options = self.options;
        let (qos, inflight, messages) = (options.qos, options.inflight, options.messages);
        let templates: Vec<Template> = (0..options.topics)
            .map(|topic| {
                Template::new(
                    target.version(),
                    &self.topic(index, topic),
                    qos,
                    options.payload as usize,
                )
            })
            .collect();
        let (total, rate) = (f64::from(self.publishers), options.rate);
        let (run, flow, phase) = (
            self.run.clone(),
            self.flows[index as usize].clone(),
            self.phase.subscribe(),
        );
        let (target, client) = (target.clone(), format!("pl{:08x}p{index}", self.run.id));
        // Other source addresses than the subscribers', as far as there are enough.
        let source = self.subscribers + index;
        async move {
            let link = link(target, client, Session::Clean, source, OVERHEAD).await?;
            let in_flight = InFlight::new(qos, inflight.min(link.receive_maximum));
            let pace = (rate > 0.0).then(|| Pace {
                first: f64::from(index) / rate * 1e9,
                interval: total / rate * 1e9,
            });
            Ok(Publisher {
                index,
                link,
                flow,
                run,
                phase,
                templates,
                in_flight,
                pace,
                messages,
            })
        }
    }

    fn base(&self) -> String {
        format!("{}/{:08x}", self.options.topic_prefix, self.run.id)
    }

    fn topic(&self, publisher: u32, topic: u32) -> String {
        let base = self.base();
        if self.options.topics == 1 {
            format!("{base}/{publisher}")
        } else {
            format!("{base}/{publisher}/{topic}")
        }
    }

    fn filter(&self, publishers: &Range<u32>) -> String {
        let base = self.base();
        let publisher = if publishers.len() == 1 {
            publishers.start.to_string()
        } else {
            "+".to_owned()
        };
        if self.options.topics == 1 {
            format!("{base}/{publisher}")
        } else {
            format!("{base}/{publisher}/+")
        }
    }

    fn sent(&self) -> u64 {
        self.flows
            .iter()
            .map(|flow| flow.sent.load(Ordering::Relaxed))
            .sum()
    }

    fn unacknowledged(&self) -> u64 {
        self.flows
            .iter()
            .map(|flow| flow.unacknowledged.load(Ordering::Relaxed))
            .sum()
    }

    fn all_settled(&self) -> bool {
        self.flows
            .iter()
            .all(|flow| flow.settled.load(Ordering::Acquire))
    }

    fn copies(&self) -> u64 {
        if self.shape == Shape::FanOut {
            u64::from(self.subscribers)
        } else {
            1
        }
    }

    fn all_delivered(&self) -> bool {
        self.all_settled() && self.run.total_delivered() >= self.sent() * self.copies()
    }

    fn report(&self, outcome: Outcome) -> TrafficReport {
        let mut tally = Tally::default();
        for subscriber in &outcome.received {
            for (i, tracker) in subscriber.trackers.iter().enumerate() {
                let topics = self.options.topics as usize;
                let flow = &self.flows[subscriber.publishers.start as usize + i / topics];
                let sent = flow.sent.load(Ordering::Relaxed);
                let one = tracker.tally(sent_to_topic(sent, topics as u64, (i % topics) as u64));
                tally.lost += one.lost;
                tally.duplicates += one.duplicates;
                tally.order_violations += one.order_violations;
            }
        }
        let latencies = self
            .run
            .latencies
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        TrafficReport {
            pattern: outcome.name,
            clients: self.options.clients,
            qos: self.options.qos,
            payload_bytes: self.options.payload,
            transport: outcome.transport,
            published: self.sent(),
            delivered: self.run.total_delivered(),
            lost: tally.lost,
            duplicates: tally.duplicates,
            order_violations: tally.order_violations,
            unexpected: outcome
                .received
                .iter()
                .map(|subscriber| subscriber.unexpected)
                .sum(),
            unacknowledged: self.unacknowledged(),
            refused: outcome
                .published
                .iter()
                .map(|publisher| publisher.refused)
                .sum(),
            first_refusal: outcome
                .published
                .iter()
                .find_map(|publisher| publisher.first_refusal),
            stalls: outcome.stalls,
            measured: (&*latencies, &outcome.from, &outcome.to).into(),
            cost: outcome.cost,
        }
    }
}

/// How many of `sent` messages, which took the topics in turn, went to `topic`.
fn sent_to_topic(sent: u64, topics: u64, topic: u64) -> u64 {
    (sent + topics - 1 - topic) / topics
}

/// Moves a run through its phases.
struct Conductor<'a> {
    plan: &'a Plan<'a>,
    clients: Clients,
    samples: Samples,
    stalls: u64,
    /// What each flow's subscribers had received, and since when it has not changed.
    progress: Vec<(u64, Instant)>,
}

impl Conductor<'_> {
    async fn measure(&mut self) -> Result<(Sample, Sample), LoadError> {
        let options = self.plan.options;
        if !options.warm_up.is_zero() {
            self.plan.phase.send_replace(Phase::WarmUp);
            self.wait(options.warm_up).await?;
        }
        let run = &self.plan.run;
        let from = self.sample(run.now())?;
        run.measuring.store(true, Ordering::Relaxed);
        self.plan.phase.send_replace(Phase::Measure);
        if options.messages.is_none() {
            self.wait(options.duration()).await?;
            let to = self.sample(run.now())?;
            run.measuring.store(false, Ordering::Relaxed);
            return Ok((from, to));
        }
        while !self.plan.all_settled() {
            self.wait(TICK).await?;
        }
        self.wait_for_deliveries().await?;
        let to = self.sample(run.last_delivery.load(Ordering::Relaxed).max(from.at + 1))?;
        Ok((from, to))
    }

    async fn drain(&mut self) -> Result<(), LoadError> {
        self.plan.phase.send_replace(Phase::Drain);
        self.wait_for_deliveries().await?;
        self.wait(LINGER).await
    }

    async fn close(mut self) -> Result<(Vec<Published>, Vec<Received>), LoadError> {
        self.plan.phase.send_replace(Phase::Close);
        let (mut published, mut received) = (Vec::new(), Vec::new());
        while let Some(ended) = self.clients.join_next().await {
            match ended?? {
                Ended::Publisher(report) => published.push(report),
                Ended::Subscriber(report) => received.push(report),
            }
        }
        Ok((published, received))
    }

    fn sample(&self, at: u64) -> Result<Sample, LoadError> {
        self.samples
            .take(at, self.plan.sent(), self.plan.run.total_delivered())
    }

    /// Until everything has arrived, or nothing has moved for the drain time.
    async fn wait_for_deliveries(&mut self) -> Result<(), LoadError> {
        let mut last = (u64::MAX, u64::MAX);
        let mut since = Instant::now();
        while !self.plan.all_delivered() {
            let now = (self.plan.run.total_delivered(), self.plan.unacknowledged());
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() >= self.plan.options.drain {
                break;
            }
            self.wait(TICK).await?;
        }
        Ok(())
    }

    /// Lets the run go on for `time`; fails as soon as a client fails.
    async fn wait(&mut self, time: Duration) -> Result<(), LoadError> {
        let deadline = Instant::now() + time;
        loop {
            check(&mut self.clients)?;
            self.free_the_stalled();
            let now = Instant::now();
            if now >= deadline {
                return Ok(());
            }
            tokio::time::sleep_until(deadline.min(now + TICK)).await;
        }
    }

    /// A publisher that waits for messages which will never arrive (dropped at QoS 0) goes on after the drain time.
    fn free_the_stalled(&mut self) {
        for (flow, (received, since)) in self.plan.flows.iter().zip(&mut self.progress) {
            let now = flow.received_in_all();
            if now != *received || !flow.is_waited_for() {
                (*received, *since) = (now, Instant::now());
            } else if since.elapsed() >= self.plan.options.drain {
                flow.give_up();
                self.stalls += 1;
                *since = Instant::now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_take_topics_in_turn_are_counted_by_topic() {
        let by_topic = |sent| [0, 1, 2].map(|topic| sent_to_topic(sent, 3, topic));
        assert_eq!(by_topic(0), [0, 0, 0]);
        assert_eq!(by_topic(1), [1, 0, 0]);
        assert_eq!(by_topic(5), [2, 2, 1]);
        assert_eq!(by_topic(6), [2, 2, 2]);
    }
}
