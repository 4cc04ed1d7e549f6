//! N1, with a clock of its own.

use super::*;

struct World {
    bans: Bans,
    rules: Rules,
    now: Instant,
}

impl World {
    fn new() -> World {
        let rules = Rules {
            name_failures: 3,
            address_failures: 6,
            ..Rules::default()
        };
        World {
            bans: Bans::default(),
            rules,
            now: Instant::now(),
        }
    }

    fn fail(&self, address: &str, name: &str) -> Option<Consequence> {
        self.bans
            .failed(ip(address), Some(name), &self.rules, self.now)
    }

    fn succeed(&self, address: &str, name: &str) {
        self.bans
            .succeeded(ip(address), name, &self.rules, self.now);
    }

    fn login(&self, address: &str, name: &str) -> Login {
        self.bans.login(ip(address), name, &self.rules, self.now)
    }

    fn is_banned(&self, address: &str) -> bool {
        self.bans.is_banned(ip(address), &self.rules, self.now)
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Fails until the address is banned; the time of the ban.
    fn fail_until_banned(&self, address: &str) -> Duration {
        (0..100)
            .find_map(|n| match self.fail(address, &format!("name-{n}")) {
                Some(Consequence::Banned(time)) => Some(time),
                _ => None,
            })
            .expect("banned after 100 failures")
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

const MINUTE: u64 = 60;

// N1
#[test]
fn a_name_is_refused_from_its_address_before_its_neighbours_are() {
    let mut world = World::new();
    assert_eq!(world.fail("127.0.0.1", "dev"), None);
    assert_eq!(world.fail("127.0.0.1", "dev"), None);
    assert_eq!(world.login("127.0.0.1", "dev"), Login::Now);
    let quarter = Duration::from_secs(15 * MINUTE);
    assert_eq!(
        world.fail("127.0.0.1", "dev"),
        Some(Consequence::Refused(quarter))
    );
    assert_eq!(world.login("127.0.0.1", "dev"), Login::Refused);
    assert_eq!(world.login("127.0.0.1", "neighbour"), Login::Now);
    assert_eq!(world.login("127.0.0.2", "dev"), Login::Now, "elsewhere");
    assert!(!world.is_banned("127.0.0.1"));
    world.later(15 * MINUTE + 1);
    assert_eq!(world.login("127.0.0.1", "dev"), Login::Now);
}

// N1
#[test]
fn an_address_that_only_fails_is_banned_and_loopback_is_no_exception() {
    let mut world = World::new();
    for n in 0..5 {
        assert_eq!(world.fail("127.0.0.1", &format!("guess-{n}")), None);
    }
    assert!(matches!(
        world.fail("127.0.0.1", "guess-5"),
        Some(Consequence::Banned(_))
    ));
    assert!(world.is_banned("127.0.0.1") && !world.is_banned("127.0.0.2"));
    world.later(15 * MINUTE + 1);
    assert!(!world.is_banned("127.0.0.1"));
}

// N1
#[test]
fn an_address_with_a_login_in_the_last_day_is_throttled_and_not_banned() {
    let mut world = World::new();
    world.succeed("192.0.2.1", "good");
    let consequences: Vec<_> = (0..100)
        .filter_map(|n| world.fail("192.0.2.1", &format!("guess-{n}")))
        .collect();
    assert_eq!(consequences, [Consequence::Throttled], "told once");
    assert!(!world.is_banned("192.0.2.1"));
    // Others wait for their turn, a few of them; who logged in before does not.
    let seconds = Duration::from_secs;
    for wait in [0, 2, 4] {
        assert_eq!(
            world.login("192.0.2.1", "guess"),
            Login::After(seconds(wait))
        );
    }
    let refused = (0..100)
        .filter(|_| world.login("192.0.2.1", "guess") == Login::Full)
        .count();
    assert!((90..100).contains(&refused), "{refused}");
    assert_eq!(world.login("192.0.2.1", "good"), Login::Now);
    // A day later nobody has logged in, and the same failures ban.
    world.later(86_401);
    assert_eq!(world.login("192.0.2.1", "guess"), Login::Now);
    world.fail_until_banned("192.0.2.1");
    assert!(world.is_banned("192.0.2.1"));
}

#[test]
fn a_known_name_that_fails_is_slowed_down_and_not_refused() {
    let world = World::new();
    world.succeed("192.0.2.1", "dev");
    for _ in 0..3 {
        assert_eq!(world.fail("192.0.2.1", "dev"), None);
    }
    assert_eq!(
        world.login("192.0.2.1", "dev"),
        Login::After(Duration::ZERO)
    );
    assert!(matches!(world.login("192.0.2.1", "dev"), Login::After(wait) if !wait.is_zero()));
    world.succeed("192.0.2.1", "dev");
    assert_eq!(world.login("192.0.2.1", "dev"), Login::Now);
}

#[test]
fn failures_are_forgotten_evenly() {
    let mut world = World::new();
    // Six in ten minutes are one in a hundred seconds.
    for _ in 0..50 {
        assert_eq!(world.fail("192.0.2.1", "dev"), None);
        world.later(200);
    }
    for _ in 0..2 {
        world.fail("192.0.2.1", "dev");
    }
    world.later(10 * MINUTE);
    assert_eq!(world.fail("192.0.2.1", "dev"), None, "all forgotten");
}

#[test]
fn each_ban_within_a_day_is_twice_as_long_up_to_the_longest() {
    let mut world = World::new();
    world.rules.duration_max = Duration::from_secs(3 * 3_600);
    let mut minutes = Vec::new();
    for _ in 0..6 {
        let time = world.fail_until_banned("192.0.2.1");
        minutes.push(time.as_secs() / MINUTE);
        world.later(time.as_secs() + 1);
    }
    assert_eq!(minutes, [15, 30, 60, 120, 180, 180]);
    world.later(2 * 86_400);
    assert_eq!(world.fail_until_banned("192.0.2.1").as_secs(), 15 * MINUTE);
}

// N1
#[test]
fn an_address_with_a_client_connected_is_not_banned_however_long_ago_it_logged_in() {
    let mut world = World::new();
    let address = ip("192.0.2.1");
    world.succeed("192.0.2.1", "meter");
    world.bans.arrived(address);
    world.later(30 * 86_400);
    world.bans.tidy_up(&world.rules, world.now);
    let fail = |world: &World| (0..100).find_map(|n| world.fail("192.0.2.1", &format!("n-{n}")));
    assert_eq!(fail(&world), Some(Consequence::Throttled));
    assert!(matches!(world.login("192.0.2.1", "x"), Login::After(_)));
    world
        .bans
        .departed(address, "meter", &world.rules, world.now);
    assert!(world.bans.state.lock().present.is_empty());
    assert_eq!(world.login("192.0.2.1", "meter"), Login::Now);
    world.later(86_399);
    assert_eq!(fail(&world), Some(Consequence::Throttled), "a day more");
    world.later(86_401);
    world.fail_until_banned("192.0.2.1");
}

// N1
#[test]
fn a_device_that_goes_on_when_it_is_refused_costs_its_neighbours_nothing() {
    let world = World::new();
    for _ in 0..1_000 {
        world.fail("192.0.2.1", "dev");
    }
    assert_eq!(world.login("192.0.2.1", "dev"), Login::Refused);
    assert!(!world.is_banned("192.0.2.1"));
}

#[test]
fn who_leaves_before_its_turn_gives_it_back() {
    let world = World::new();
    world.succeed("192.0.2.1", "good");
    for n in 0..10 {
        world.fail("192.0.2.1", &format!("guess-{n}"));
    }
    for _ in 0..100 {
        let login = world.login("192.0.2.1", "guess");
        assert_eq!(login, Login::After(Duration::ZERO));
        world
            .bans
            .return_turn(ip("192.0.2.1"), &world.rules, world.now);
    }
    while world.login("192.0.2.1", "guess") != Login::Full {}
    world
        .bans
        .return_turn(ip("192.0.2.1"), &world.rules, world.now);
    let login = world.login("192.0.2.1", "guess");
    assert!(matches!(login, Login::After(wait) if !wait.is_zero()));
    assert_eq!(world.login("192.0.2.1", "guess"), Login::Full);
}

// N1
#[test]
fn one_burst_is_one_ban_however_many_failures_were_under_way() {
    let mut world = World::new();
    let time = world.fail_until_banned("192.0.2.1");
    for n in 0..500 {
        assert_eq!(world.fail("192.0.2.1", &format!("late-{n}")), None);
    }
    world.later(time.as_secs() + 1);
    assert!(!world.is_banned("192.0.2.1"));
    for _ in 0..2 {
        assert_eq!(world.fail("192.0.2.2", "dev"), None);
    }
    let refused = world.fail("192.0.2.2", "dev");
    assert!(matches!(refused, Some(Consequence::Refused(_))));
    world.later(MINUTE);
    assert_eq!(world.fail("192.0.2.2", "dev"), None);
    world.later(14 * MINUTE + 1);
    assert_eq!(world.login("192.0.2.2", "dev"), Login::Now, "not prolonged");
}

#[test]
fn an_ipv6_64_is_one_address() {
    let world = World::new();
    for n in 0..6u8 {
        let name = ["x", "other-1", "other-2", "other-3"][usize::from(n).saturating_sub(2)];
        world.fail(&format!("2001:db8::{n}"), name);
    }
    assert!(world.is_banned("2001:db8::ffff") && !world.is_banned("2001:db8:0:1::"));
    assert_eq!(world.bans.lift(net("2001:db8::7/128"), world.now), 2);
    assert!(!world.is_banned("2001:db8::1"));
    assert_eq!(world.login("2001:db8::1", "x"), Login::Now);
}

#[test]
fn allowed_networks_fail_without_consequences_and_denied_ones_are_banned() {
    let mut world = World::new();
    world.rules.allow = vec![net("10.0.0.0/8")];
    world.rules.deny = vec![net("10.9.0.0/16")];
    for _ in 0..100 {
        assert_eq!(world.fail("10.1.2.3", "x"), None);
    }
    assert!(!world.is_banned("10.1.2.3") && world.is_banned("10.9.0.1"));
    assert_eq!(world.login("10.1.2.3", "x"), Login::Now);
    world.rules.enabled = false;
    assert_eq!(world.fail("192.0.2.1", "x"), None);
    assert!(world.is_banned("10.9.0.1"), "deny holds all the same");
}

#[test]
fn the_operator_gives_lists_and_lifts_bans() {
    let mut world = World::new();
    world.rules.allow = vec![net("198.51.100.0/24")];
    let hour = Some(Duration::from_secs(3_600));
    assert!(world.bans.give(net("198.51.100.0/24"), hour, world.now));
    assert!(world.bans.give(net("203.0.113.7/32"), None, world.now));
    world.fail_until_banned("192.0.2.1");
    for _ in 0..3 {
        world.fail("192.0.2.9", "dev");
    }
    assert!(world.is_banned("198.51.100.1"), "the operator's word wins");
    let (list, more) = world.bans.list(10, world.now);
    let shown: Vec<_> = list
        .iter()
        .map(|ban| (ban.network.as_str(), ban.name.as_deref(), ban.by_operator))
        .collect();
    let expected = [
        ("198.51.100.0/24", None, true),
        ("203.0.113.7", None, true),
        ("192.0.2.1", None, false),
        ("192.0.2.9", Some("dev"), false),
    ];
    assert_eq!((&shown[..], more), (&expected[..], false));
    assert_eq!((list[0].left, list[1].left), (hour, None));
    assert_eq!(world.bans.list(2, world.now).0.len(), 2);
    assert!(world.bans.list(2, world.now).1);

    for _ in 0..2 {
        world.fail("192.0.2.10", "dev");
    }
    assert_eq!(world.bans.lift(net("192.0.2.0/24"), world.now), 2);
    assert!(!world.is_banned("192.0.2.1"));
    assert_eq!(world.fail("192.0.2.10", "dev"), None, "all is forgotten");
    world.later(3_601);
    assert!(!world.is_banned("198.51.100.1"));
    assert_eq!(world.bans.lift(net("0.0.0.0/0"), world.now), 1);
    assert_eq!(world.bans.list(10, world.now).0, []);
}

#[test]
fn memory_is_bounded_whatever_is_tried() {
    let mut world = World::new();
    world.rules.remembered = 100;
    world.succeed("192.0.2.1", "good");
    for n in 0..10_000u32 {
        let [a, b, c, d] = n.to_be_bytes();
        let address = format!("10.{}.{c}.{d}", a | b);
        world.fail(&address, &"n".repeat(n as usize % 1_000));
        if n % 40 == 0 {
            world.login("192.0.2.1", "good");
        }
    }
    let counts = world.bans.tidy_up(&world.rules, world.now);
    assert!(counts.remembered <= 200, "{counts:?}");
    let known = |address| world.bans.state.lock().addresses.peek(&address).is_some();
    assert!(
        known(ip("192.0.2.1").into()),
        "who keeps coming is not forgotten"
    );
    for n in 0..GIVEN_MAX as u32 {
        let address = IpAddr::from(n.to_be_bytes());
        assert!(world.bans.give(address.into(), None, world.now));
    }
    let one_more = net("203.0.113.7/32");
    assert!(!world.bans.give(one_more, None, world.now));
    world.later(3 * 86_400);
    let counts = world.bans.tidy_up(&world.rules, world.now);
    assert_eq!(counts.remembered, GIVEN_MAX, "all else is forgotten");
}

#[test]
fn a_long_name_is_shown_up_to_a_whole_character() {
    assert_eq!(shown("meter"), "meter");
    assert_eq!(shown(&"n".repeat(65_535)), "n".repeat(64));
    assert_eq!(shown(&format!("n{}", "\u{e9}".repeat(60))).len(), 63);
}
