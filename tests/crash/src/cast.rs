//! Who takes part? Subscribers of every kind that a crash may treat differently.

use std::time::Duration;

use postern_tests::packet::Version::{self, V5, V311};

use crate::message::{RETAINED, topic_name};
use crate::subscriber::Plan;

const ALL: &str = "crash/data/+/+";

pub fn subscribers(publishers: usize) -> Vec<Plan> {
    let every = |topics: &[usize]| -> Vec<(usize, usize)> {
        let all = (0..publishers).flat_map(|p| topics.iter().map(move |t| (p, *t)));
        all.collect()
    };
    let ms = Duration::from_millis;
    let base = |client_id: &str, version: Version, qos: u8| Plan {
        client_id: client_id.into(),
        version,
        qos,
        wants: every(&[0, 1]),
        filters: vec![ALL.into()],
        receive_maximum: None,
        delay: Duration::ZERO,
        flaky: None,
        shared: false,
        toggles: false,
    };
    let only = |plan: Plan, publisher: usize| Plan {
        wants: vec![(publisher % publishers, 0), (publisher % publishers, 1)],
        filters: vec![format!("crash/data/{}/+", publisher % publishers)],
        ..plan
    };
    let flaky = |plan: Plan, online: u64, away: u64| Plan {
        flaky: Some((ms(online), ms(away))),
        ..plan
    };
    let narrow = |plan: Plan, maximum: u16| Plan {
        receive_maximum: Some(maximum),
        ..plan
    };
    let slow = |plan: Plan, delay: u64| Plan {
        delay: ms(delay),
        ..plan
    };
    let toggling = |plan: Plan, publisher: usize| {
        let wants = [0, 1].map(|topic| (publisher % publishers, topic)).to_vec();
        let filters = wants.iter().map(|(p, t)| topic_name(*p, *t)).collect();
        let toggles = true;
        Plan {
            wants,
            filters,
            toggles,
            ..plan
        }
    };
    let member = |plan: Plan| Plan {
        shared: true,
        filters: vec![format!("$share/crew/{ALL}")],
        ..plan
    };
    vec![
        base("steady-v5-qos2", V5, 2),
        base("steady-v311-qos1", V311, 1),
        flaky(base("flaky-v5-qos1", V5, 1), 800, 800),
        flaky(base("flaky-v311-qos2", V311, 2), 800, 800),
        flaky(base("absent-v5-qos2", V5, 2), 200, 4000),
        narrow(only(base("narrow-1-qos2", V5, 2), 1), 1),
        narrow(only(flaky(base("narrow-2-qos1", V5, 1), 500, 300), 0), 2),
        narrow(only(flaky(base("narrow-5-qos2", V5, 2), 700, 300), 3), 5),
        slow(only(base("slow-v311-qos1", V311, 1), 2), 3),
        slow(only(flaky(base("slow-v5-qos2", V5, 2), 900, 300), 1), 3),
        toggling(base("toggling-v5-qos2", V5, 2), 1),
        toggling(base("toggling-v311-qos1", V311, 1), 0),
        toggling(flaky(base("toggling-flaky-v5-qos1", V5, 1), 600, 300), 4),
        member(base("member-steady-qos2", V5, 2)),
        member(flaky(base("member-flaky-qos2", V5, 2), 600, 600)),
        member(flaky(base("member-v311-qos2", V311, 2), 600, 600)),
        Plan {
            wants: every(&[RETAINED]),
            filters: vec!["crash/retained/+".into()],
            ..flaky(base("retained-v5-qos1", V5, 1), 800, 800)
        },
    ]
}
