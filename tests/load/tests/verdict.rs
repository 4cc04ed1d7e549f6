//! Does the generator see what a broker does wrong? Each test runs the built binary against a small broker with one
//! known fault.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the broker does to the `n`th PUBLISH (from 0).
type Fault = fn(u64) -> Deed;

#[derive(Clone, Copy, PartialEq)]
enum Deed {
    Forward,
    Drop,
    Double,
    /// Keeps the message back and forwards it after the next one.
    Delay,
    Retain,
    Disconnect,
}

#[derive(Clone, Copy)]
struct Broker {
    fault: Fault,
    connack: u8,
    suback: Option<u8>,
    puback: Option<u8>,
    /// Keeps no session, whatever the client asks for.
    forgets: bool,
}

const FAITHFUL: Broker = Broker {
    fault: |_| Deed::Forward,
    connack: 0,
    suback: None,
    puback: None,
    forgets: false,
};

#[test]
fn the_verdict_on_each_fault_is_exact() {
    let cases: &[(&str, Fault, &str, u64)] = &[
        (
            "a lost message",
            |n| if n == 700 { Deed::Drop } else { Deed::Forward },
            "lost",
            1,
        ),
        (
            "the last messages lost",
            |n| if n >= 995 { Deed::Drop } else { Deed::Forward },
            "lost",
            5,
        ),
        (
            "a doubled message",
            |n| if n == 3 { Deed::Double } else { Deed::Forward },
            "duplicates",
            1,
        ),
        (
            "two swapped messages",
            |n| if n == 40 { Deed::Delay } else { Deed::Forward },
            "order_violations",
            1,
        ),
    ];
    for (name, fault, key, count) in cases {
        let output = exchange(
            Broker {
                fault: *fault,
                ..FAITHFUL
            },
            &["--messages", "1000", "--check"],
        );
        let report = report(&output);
        for counted in [
            "lost",
            "duplicates",
            "order_violations",
            "unexpected",
            "refused",
        ] {
            assert_eq!(
                report[counted],
                if counted == *key { *count } else { 0 },
                "{name}: {counted}"
            );
        }
        assert_eq!(report["published"], 1000, "{name}");
        assert_eq!(output.status.code(), Some(1), "{name} passed --check");
    }
}

#[test]
fn a_faithful_broker_passes_at_every_qos_version_and_number_of_topics() {
    for arguments in [
        &["--qos", "0"][..],
        &["--qos", "1"],
        &["--qos", "0", "--mqtt", "5"],
        &["--qos", "1", "--mqtt", "5", "--topics", "7"],
        &["--qos", "1", "--inflight", "1"],
        &["--qos", "0", "--window", "1"],
        &["--qos", "0", "--payload", "70000"],
        &["--qos", "1", "--threads", "2"],
    ] {
        let mut all = vec!["--messages", "1000", "--check"];
        all.extend(arguments);
        let output = exchange(FAITHFUL, &all);
        let report = report(&output);
        assert_eq!(report["delivered"], 1000, "{arguments:?}");
        assert_eq!(report["measured"]["count"], 1000, "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_rate_is_kept() {
    let output = exchange(FAITHFUL, &["--rate", "500", "--duration", "1", "--check"]);
    let report = report(&output);
    let rate = report["measured"]["per_second"].as_f64().unwrap();
    assert!((450.0..550.0).contains(&rate), "{rate}");
}

#[test]
fn a_publisher_goes_on_when_a_whole_window_was_lost() {
    let fault = |n| {
        if (100..110).contains(&n) {
            Deed::Drop
        } else {
            Deed::Forward
        }
    };
    let output = exchange(
        Broker { fault, ..FAITHFUL },
        &["--messages", "1000", "--window", "10"],
    );
    let report = report(&output);
    assert_eq!(
        (report["lost"].as_u64(), report["delivered"].as_u64()),
        (Some(10), Some(990))
    );
    assert_eq!(report["stalls"], 1);
}

#[test]
fn a_retained_message_is_unexpected_and_not_a_delivery() {
    let fault = |n| if n == 5 { Deed::Retain } else { Deed::Forward };
    let report = report(&exchange(
        Broker { fault, ..FAITHFUL },
        &["--messages", "10"],
    ));
    assert_eq!(
        (report["unexpected"].as_u64(), report["delivered"].as_u64()),
        (Some(1), Some(9))
    );
}

#[test]
fn refused_messages_are_counted_with_their_reason_code() {
    let broker = Broker {
        puback: Some(0x97),
        ..FAITHFUL
    };
    let report = report(&exchange(
        broker,
        &["--qos", "1", "--mqtt", "5", "--messages", "10"],
    ));
    assert_eq!(
        (report["refused"].as_u64(), report["first_refusal"].as_u64()),
        (Some(10), Some(0x97))
    );
}

#[test]
fn refusals_and_broken_connections_fail_the_run_and_say_who_and_why() {
    let cases = [
        (
            Broker {
                connack: 5,
                ..FAITHFUL
            },
            "refused CONNECT with code 0x05",
        ),
        (
            Broker {
                suback: Some(0x80),
                ..FAITHFUL
            },
            "answered SUBSCRIBE to postern-load/",
        ),
        (
            Broker {
                fault: |_| Deed::Disconnect,
                ..FAITHFUL
            },
            "sent DISCONNECT with reason code 0x93",
        ),
    ];
    for (broker, expected) in cases {
        let output = exchange(broker, &["--messages", "10", "--mqtt", "5"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(expected), "{error}");
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_port_without_a_server_is_named() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let output = load(port, &["connect"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains(&format!("cannot connect to 127.0.0.1:{port}")),
        "{error}"
    );
}

#[test]
fn connections_are_made_over_and_over_and_held() {
    let port = FAITHFUL.start();
    let output = load(
        port,
        &[
            "connect",
            "-n",
            "3",
            "--warm-up",
            "0",
            "--duration",
            "0.5",
            "--json",
        ],
    );
    assert!(report(&output)["measured"]["count"].as_u64().unwrap() > 3);
    let server = std::process::id().to_string();
    let output = load(
        port,
        &[
            "idle",
            "-n",
            "50",
            "--hold",
            "0.1",
            "--json",
            "--server-pid",
            &server,
        ],
    );
    assert_eq!(report(&output)["clients"], 50);
    assert!(report(&output)["server_rss_kib_held"].as_u64().unwrap() > 0);
}

#[test]
fn a_backlog_waits_for_its_subscriber_and_faults_in_it_are_counted() {
    let backlog = |broker: Broker, more: &[&str]| {
        let all = ["backlog", "--drain", "0.5", "--json", "--messages", "1001"];
        load(broker.start(), &[&all[..], more].concat())
    };
    for more in [&[][..], &["--mqtt", "5"], &["-n", "7", "--check"]] {
        let output = backlog(FAITHFUL, more);
        assert!(output.status.success(), "{more:?}");
        let report = report(&output);
        for half in ["stored", "drained"] {
            assert_eq!(report[half]["measured"]["count"], 1001, "{more:?}: {half}");
        }
    }
    let fault = |n| if n == 5 { Deed::Drop } else { Deed::Forward };
    let output = backlog(Broker { fault, ..FAITHFUL }, &["--check"]);
    assert!(!output.status.success());
    assert_eq!(report(&output)["lost"], 1);
    let output = backlog(
        Broker {
            forgets: true,
            ..FAITHFUL
        },
        &[],
    );
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(problem.contains("session present = 0"), "{problem}");
}

fn exchange(broker: Broker, arguments: &[&str]) -> Output {
    let mut all = vec!["one-to-one", "--warm-up", "0", "--drain", "0.5", "--json"];
    all.extend(arguments);
    load(broker.start(), &all)
}

fn load(port: u16, arguments: &[&str]) -> Output {
    let (pattern, options) = arguments.split_first().unwrap();
    Command::new(env!("CARGO_BIN_EXE_postern-load"))
        .args([pattern, "--port", &port.to_string()])
        .args(options)
        .output()
        .unwrap()
}

fn report(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The one subscriber, and what waits for it while it is away.
#[derive(Default)]
struct Home {
    stream: Option<TcpStream>,
    /// Its session stays when it leaves.
    kept: bool,
    waiting: Vec<u8>,
}

impl Broker {
    /// Serves one subscriber and any number of others on a free port, for as long as the test lives.
    fn start(self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let subscriber: Arc<Mutex<Home>> = Arc::default();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let subscriber = subscriber.clone();
                // A client that goes away ends its thread.
                thread::spawn(move || self.serve(stream.unwrap(), &subscriber));
            }
        });
        port
    }

    fn serve(self, mut stream: TcpStream, subscriber: &Mutex<Home>) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut version, mut published, mut delayed) = (4, 0, None);
        let mut persistent = false;
        loop {
            let (first, body) = packet(&mut stream)?;
            match first >> 4 {
                1 => {
                    version = body[6];
                    let answer: &[u8] = if version == 5 {
                        &[0x20, 3, 0, 0, 0]
                    } else {
                        &[0x20, 2, 0, 0]
                    };
                    let mut answer = answer.to_vec();
                    answer[3] = self.connack;
                    persistent = body[7] & 2 == 0;
                    let mut home = subscriber.lock().unwrap();
                    if persistent && home.kept && !self.forgets {
                        answer[2] = 1;
                        // All at once: the client must not take what waited for a part of CONNACK.
                        answer.append(&mut home.waiting);
                        home.stream = Some(stream.try_clone()?);
                    }
                    stream.write_all(&answer)?;
                }
                8 => {
                    let code = self.suback.unwrap_or(body[body.len() - 1]);
                    let head: &[u8] = if version == 5 { &[0x90, 4] } else { &[0x90, 3] };
                    let tail: &[u8] = if version == 5 { &[0, code] } else { &[code] };
                    let mut home = subscriber.lock().unwrap();
                    home.stream = Some(stream.try_clone()?);
                    home.kept = persistent;
                    stream.write_all(&[head, &body[..2], tail].concat())?;
                }
                3 => {
                    let deed = (self.fault)(published);
                    published += 1;
                    if first & 6 == 2 {
                        let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                        let id = &body[at..at + 2];
                        match self.puback {
                            Some(code) => stream.write_all(&[0x40, 3, id[0], id[1], code])?,
                            None => stream.write_all(&[0x40, 2, id[0], id[1]])?,
                        }
                    }
                    let message = encode(first | u8::from(deed == Deed::Retain), &body);
                    let out = match deed {
                        Deed::Drop => continue,
                        Deed::Delay => {
                            delayed = Some(message);
                            continue;
                        }
                        Deed::Double => [message.clone(), message].concat(),
                        Deed::Disconnect => vec![0xE0, 1, 0x93],
                        Deed::Forward | Deed::Retain => {
                            [message, delayed.take().unwrap_or_default()].concat()
                        }
                    };
                    let mut home = subscriber.lock().unwrap();
                    match &mut home.stream {
                        Some(stream) => stream.write_all(&out)?,
                        None => home.waiting.extend(out),
                    }
                }
                4 => {}
                14 if persistent => {
                    subscriber.lock().unwrap().stream = None;
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }
}

fn packet(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let first = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7F) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((first, body))
}

fn encode(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(body);
    out
}
