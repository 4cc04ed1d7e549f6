//! When is a certificate renewed, and when is a failed attempt made again? Arithmetic on seconds since
//! 1970; clocks and chance come from outside.

use std::time::Duration;

use super::state::Window;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Two thirds of the lifetime, whatever it is.
pub(super) fn by_age(not_before: i64, not_after: i64) -> i64 {
    not_before + (not_after - not_before).max(0) / 3 * 2
}

/// The moment of renewal: what the CA suggested if it did, but never so late that the certificate
/// ends first; else by age.
///
/// A CA that asks for one renewal after the other is followed once a day at most, so that its mistake
/// does not become a loop.
pub(super) fn renewal(
    not_before: i64,
    not_after: i64,
    window: Option<&Window>,
    asked_at: Option<i64>,
) -> i64 {
    let by_age = by_age(not_before, not_after);
    let Some(window) = window else { return by_age };
    // A window that the CA sets beyond nine tenths of the life leaves no time for failures.
    let latest = not_before + (not_after - not_before).max(0) / 10 * 9;
    let suggested = window.chosen.min(latest.max(by_age));
    let pause = DAY.min(by_age - not_before);
    match asked_at {
        Some(asked_at) if suggested < by_age => suggested.max((asked_at + pause).min(by_age)),
        _ => suggested,
    }
}

/// A uniformly random moment of the window (RFC 9773, 4.2); `chance` is from 0 to 1.
pub(super) fn pick(start: i64, end: i64, chance: f64) -> i64 {
    let length = (end - start).max(0) as f64;
    start + (length * chance.clamp(0.0, 1.0)) as i64
}

/// When to ask for renewal information again: what the CA says, between a minute and a day
/// (RFC 9773, 4.3.2), and not later than a tenth of the lifetime.
pub(super) fn ask_again(now: i64, retry_after: Duration, lifetime: i64) -> i64 {
    let wanted = i64::try_from(retry_after.as_secs()).unwrap_or(DAY);
    let most = (lifetime / 10).clamp(1, DAY);
    now + wanted.clamp(60.min(most), most)
}

/// How long to wait after this many failures in a row: 5 minutes, doubled each time up to 12 hours,
/// and a fifth more or less by chance. Five failed validations an hour are what Let's Encrypt allows
/// for a name. What never got so far (`cheap`) begins at one minute and ends at one hour. A
/// certificate of a short life waits for a tenth of it at most.
pub(super) fn retry_delay(failures: u32, cheap: bool, lifetime: Option<i64>, chance: f64) -> i64 {
    let (first, most) = if cheap { (60, HOUR) } else { (300, 12 * HOUR) };
    let doubled = 1_i64 << failures.saturating_sub(1).min(20);
    let most = lifetime.map_or(most, |lifetime| most.min((lifetime / 10).max(1)));
    let delay = (first * doubled).min(most);
    let jitter = (delay as f64 * 0.4 * (chance.clamp(0.0, 1.0) - 0.5)) as i64;
    (delay + jitter).max(1)
}

/// When to try again after a failure: after `delay` seconds, or when the CA wishes, but before half
/// of what is `left` of the present certificate's life is over.
pub(super) fn retry_at(now: i64, delay: i64, wish: i64, left: i64) -> i64 {
    let latest = match left {
        // There is nothing to lose any more.
        ..=0 => i64::MAX,
        left => now.saturating_add(left / 2),
    };
    (now + delay).max(wish.min(latest))
}

/// Until when nothing is asked for after a success: the new certificate is not due before, unless it
/// was old when it came. A tenth of what is left of its life, and a minute if it is made for longer
/// than ten.
pub(super) fn rest(now: i64, not_before: i64, not_after: i64) -> Option<i64> {
    let short = ((not_after - not_before) / 10).clamp(1, 60);
    let until = now + ((not_after - now) / 10).max(short);
    (by_age(not_before, not_after) < until).then_some(until)
}

/// How long a restart leaves an attempt alone that was cut short this many times in a row: a loop of
/// restarts must not hammer the CA, and one restart should not cost a certificate.
pub(super) fn resume_delay(interrupted: u32) -> i64 {
    (3 << interrupted.min(20)).min(HOUR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(chosen: i64) -> Window {
        Window {
            certificate: String::new(),
            start: chosen,
            end: chosen,
            chosen,
            ask_again: 0,
        }
    }

    #[test]
    fn renewal_comes_at_two_thirds_of_any_lifetime() {
        for life in [15, 120, 6 * DAY, 45 * DAY, 90 * DAY, 397 * DAY] {
            let at = renewal(1_000_000, 1_000_000 + life, None, None) - 1_000_000;
            assert!(
                at <= life * 2 / 3 && at + 3 > life * 2 / 3,
                "{life} gives {at}"
            );
        }
    }

    #[test]
    fn the_ca_may_ask_for_an_earlier_or_a_later_moment_but_not_for_one_after_the_end() {
        let (start, end) = (0, 90 * DAY);
        assert_eq!(renewal(start, end, Some(&window(-5)), None), -5);
        assert_eq!(renewal(start, end, Some(&window(70 * DAY)), None), 70 * DAY);
        assert_eq!(renewal(start, end, Some(&window(95 * DAY)), None), 81 * DAY);
    }

    #[test]
    fn a_ca_that_always_asks_is_followed_once_a_day() {
        let now = 10 * DAY;
        assert_eq!(
            renewal(now, now + 90 * DAY, Some(&window(0)), Some(now)),
            now + DAY
        );
        assert_eq!(
            renewal(now, now + 30, Some(&window(0)), Some(now)),
            now + 20
        );
    }

    #[test]
    fn failures_wait_longer_each_time_within_what_lets_encrypt_allows() {
        let delays: Vec<i64> = (1..=12)
            .map(|failures| retry_delay(failures, false, None, 0.5))
            .collect();
        assert_eq!(delays[..4], [300, 600, 1_200, 2_400]);
        assert!(delays.iter().all(|delay| *delay <= 12 * HOUR));
        // The sixth comes after more than an hour, at the shortest that chance can give.
        let five: i64 = (1..=5)
            .map(|failures| retry_delay(failures, false, None, 0.0))
            .sum();
        assert!(five > HOUR, "the sixth attempt comes after {five} s");
        assert_eq!(retry_delay(u32::MAX, false, None, 1.0), 12 * HOUR * 6 / 5);
    }

    #[test]
    fn a_loop_of_restarts_slows_down() {
        let delays: Vec<i64> = (0..12).map(resume_delay).collect();
        assert_eq!(delays[..4], [3, 6, 12, 24]);
        assert_eq!(delays[11], HOUR);
        assert_eq!(resume_delay(u32::MAX), HOUR);
    }

    #[test]
    fn a_short_life_does_not_wait_until_it_is_over() {
        assert_eq!(retry_delay(9, false, Some(15), 0.5), 1);
        assert!(retry_delay(9, false, Some(6 * DAY), 1.0) < DAY);
        assert_eq!(retry_delay(1, true, None, 0.5), 60);
    }

    #[test]
    fn renewal_information_is_asked_for_as_the_ca_says_within_bounds() {
        let life = 90 * DAY;
        let at = |seconds| ask_again(0, Duration::from_secs(seconds), life);
        assert_eq!((at(0), at(6 * 3_600), at(1 << 40)), (60, 6 * HOUR, DAY));
        assert_eq!(ask_again(0, Duration::from_secs(21_600), 300), 30);
    }

    #[test]
    fn a_pause_that_the_ca_wants_is_kept_unless_it_costs_the_certificate() {
        let wish = 5 * DAY;
        assert_eq!(retry_at(0, 300, wish, i64::MAX), wish);
        assert_eq!(retry_at(0, 300, wish, 60 * DAY), wish);
        assert_eq!(retry_at(0, 300, wish, 2 * DAY), DAY);
        assert_eq!(retry_at(0, 300, wish, 10), 300);
        assert_eq!(retry_at(0, 300, wish, -1), wish);
        assert_eq!(retry_at(0, 300, 0, DAY), 300);
    }

    #[test]
    fn a_certificate_that_is_old_when_it_comes_is_not_replaced_at_once() {
        let now = 100 * DAY;
        assert_eq!(rest(now, now, now + 90 * DAY), None);
        assert_eq!(rest(now, now, now + 12), None);
        assert_eq!(rest(now, now - 80 * DAY, now + 10 * DAY), Some(now + DAY));
        assert_eq!(rest(now, now - 90 * DAY, now + 1), Some(now + 60));
        assert_eq!(rest(now, now - 10, now + 2), Some(now + 1));
    }

    #[test]
    fn chance_gives_a_moment_of_the_window() {
        assert_eq!(pick(10, 20, 0.0), 10);
        assert_eq!(pick(10, 20, 0.5), 15);
        assert_eq!(pick(10, 20, 7.0), 20);
        assert_eq!(pick(20, 10, 0.5), 20);
    }
}
