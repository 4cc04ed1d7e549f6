//! Is everybody back soon after a restart, and after a network break? 2,000 clients that come back at once over TLS,
//! 1,900 of them with generated secrets and 100 with chosen passwords, while 200 half-open handshakes, a password
//! guesser and a well-behaved pair are there too. I3, N1.

mod clients;
mod hostile;
#[path = "../hostile/pair.rs"]
mod pair;
mod users;

use std::time::{Duration, Instant};

use clients::Crowd;
use hostile::{Guesser, HalfOpen};
use pair::{Felt, Pair};
use postern_tests::{Gateway, Setup};

/// The promises.
const GENERATED_BACK: Duration = Duration::from_secs(10);
const CHOSEN_BACK: Duration = Duration::from_secs(30);
const BREAK_OVER: Duration = Duration::from_secs(5);
const LONGEST_GAP: Duration = Duration::from_millis(500);

const CLIENTS: usize = 2_000;

/// What happens to everybody at once.
fn setup() -> Setup {
    Setup::new()
}

fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a pointer to a struct of ours that lives long enough.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
        }
    };
    let wanted = 3 * CLIENTS as u64;
    assert!(
        raised && limit.rlim_cur >= wanted,
        "{wanted} open files are needed, {} are allowed: raise ulimit -n",
        limit.rlim_cur
    );
}

/// Processor time of a process so far, its own and the kernel's for it.
fn processor_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th fields behind it.
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    let ticks: u64 = rest
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(ticks * 10)
}

/// Processor time of the whole machine since it started: all of it, and what was not idle.
fn machine_time() -> [Duration; 2] {
    let stat = std::fs::read_to_string("/proc/stat").expect("it is there");
    let line = stat.lines().next().expect("the sum of all processors");
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(|field| field.parse().expect("a number"))
        .collect();
    let (total, idle) = (ticks.iter().sum::<u64>(), ticks[3] + ticks[4]);
    [total, total - idle].map(|ticks| Duration::from_millis(ticks * 10))
}

/// What a phase took, in time and in processor time of the gateway and of this test with all its clients.
struct Phase {
    name: &'static str,
    start: Instant,
    processes: [u32; 2],
    used: [Duration; 2],
    machine: [Duration; 2],
}

/// How a phase went.
struct Outcome {
    name: &'static str,
    start: Instant,
    generated: Duration,
    chosen: Duration,
    /// How much longer everything takes because others use the machine too: 1 if they do not.
    slowdown: f64,
}

impl Phase {
    fn begin(name: &'static str, gateway: &Gateway) -> Phase {
        let processes = [gateway.process.pid(), std::process::id()];
        Phase {
            name,
            start: Instant::now(),
            processes,
            used: processes.map(processor_time),
            machine: machine_time(),
        }
    }

    /// Waits until everybody is connected for the `round`th time, the 1,900 and the 100.
    async fn all_back(self, crowd: &Crowd, round: u64) -> Outcome {
        let (generated, chosen) = tokio::join!(
            crowd.generated.all_connected(round, self.start),
            crowd.chosen.all_connected(round, self.start)
        );
        let [gateway, clients] = [0, 1].map(|n| processor_time(self.processes[n]) - self.used[n]);
        let machine = machine_time();
        let [total, busy] = [0, 1].map(|n| (machine[n] - self.machine[n]).as_secs_f64());
        let ours = (gateway + clients).as_secs_f64();
        let others = ((busy - ours).max(0.0) / total).min(0.95);
        println!(
            "{}: back after {:.2} s (generated) and {:.2} s (chosen); processor time: the gateway {:.2} s, the clients \
             {:.2} s; {:.0} % of the machine went to others",
            self.name,
            generated.as_secs_f64(),
            chosen.as_secs_f64(),
            gateway.as_secs_f64(),
            clients.as_secs_f64(),
            others * 100.0,
        );
        Outcome {
            name: self.name,
            start: self.start,
            generated,
            chosen,
            slowdown: 1.0 / (1.0 - others),
        }
    }
}

impl Outcome {
    /// The promises hold on a machine that the gateway and its clients have for themselves.
    fn check(&self, generated: Duration, chosen: Duration, felt: &Felt) {
        let name = self.name;
        println!(
            "{name}: the pair had {} messages, longest gap {} ms after {:.2} s, its own clock late by at most {} ms",
            felt.messages,
            felt.longest_gap.as_millis(),
            felt.at.map_or(0.0, |at| (at - self.start).as_secs_f64()),
            felt.own_stall.as_millis()
        );
        let slow = |time: Duration| time.mul_f64(self.slowdown);
        // A busy thread that shares the processor waits for each of its slices as well.
        let longest = slow(slow(LONGEST_GAP));
        assert!(self.generated < slow(generated), "{name}: generated");
        assert!(self.chosen < slow(chosen), "{name}: chosen");
        // When the machine did not even run this test's own clock, that is not the gateway's doing.
        let gap = felt.longest_gap.saturating_sub(felt.own_stall);
        assert!(gap <= longest, "{name}: {gap:?} without a message");
        assert!(felt.messages > 0, "{name}: no message at all");
    }
}

// I3, N1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_is_back_after_a_restart_and_after_a_network_break_whatever_strangers_do() {
    raise_file_limit();
    // The first start makes keys and databases; nobody runs while the users are written.
    let dir = setup().start().await.stop().await;
    let users = users::provision(&dir.path().join("data"), CLIENTS - 100, 100).await;
    let gateway = setup().start_in(dir).await;
    let crowd = Crowd::start(&gateway, users);
    Phase::begin("first", &gateway).all_back(&crowd, 1).await;

    // A crash and a restart: nobody has a ticket, and no password is remembered.
    let dir = gateway.kill().await;
    let gateway = setup().start_in(dir).await;
    let phase = Phase::begin("restart", &gateway);
    crowd.moved(&gateway);
    let half_open = HalfOpen::start(&gateway);
    let guesser = Guesser::start(&gateway, crowd.a_chosen_name());
    let pair = Pair::start(&gateway).await;
    let outcome = phase.all_back(&crowd, 2).await;
    outcome.check(GENERATED_BACK, CHOSEN_BACK, &pair.measured());

    // Every connection of the crowd breaks at once.
    pair.start_measuring();
    let phase = Phase::begin("break", &gateway);
    crowd.break_off();
    let outcome = phase.all_back(&crowd, 3).await;
    outcome.check(BREAK_OVER, BREAK_OVER, &pair.measured());

    let (attempts, refused) = guesser.stop().await;
    println!("the guesser tried {attempts} times, and was closed out {refused} times");
    assert!(refused > 0, "the guesser is banned by now");
    let sockets = half_open.stop().await;
    println!("{sockets} half-open sockets were opened");
    let report = pair.stop().await;
    assert_eq!(report.sent, report.received, "nothing of the pair is lost");
    crowd.stop().await;
    println!(
        "{} MB resident afterwards",
        gateway.process.resident_kib() >> 10
    );
}
