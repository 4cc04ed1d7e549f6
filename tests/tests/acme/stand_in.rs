//! What Pebble lacks: a server in front of its directory that adds renewal information (RFC 9773), profiles, CAA
//! identities and a rate limit. Every other address in the directory stays Pebble's.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Pebble, server_config};

pub struct StandIn {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    _tasks: JoinSet<()>,
}

struct Shared {
    /// Pebble's own.
    directory: Value,
    address: SocketAddr,
    /// Certificates that renewal information was asked for, in the order they came.
    asked: Vec<String>,
    renew_first: bool,
    limited: bool,
    orders: usize,
    /// The `Date` of answers; none if it is empty.
    date: String,
}

impl StandIn {
    pub async fn start(pebble: &Pebble) -> Self {
        let listener = TcpListener::bind((pebble.ip, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let at = SocketAddr::new(pebble.ip, 14_000);
        let directory = pebble.get(at, "/dir").await;
        let shared = Arc::new(Mutex::new(Shared {
            directory: serde_json::from_str(&directory).expect("a directory"),
            address,
            asked: Vec::new(),
            renew_first: false,
            limited: false,
            orders: 0,
            date: String::new(),
        }));
        let acceptor = TlsAcceptor::from(server_config(pebble));
        let mut tasks = JoinSet::new();
        let serving = shared.clone();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                let (acceptor, shared) = (acceptor.clone(), serving.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let Some(request) = head(&mut stream).await else {
                        return;
                    };
                    let answer = shared.lock().expect("no poison").answer(&request);
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        StandIn {
            address,
            shared,
            _tasks: tasks,
        }
    }

    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// The window of the first certificate is over; that of all others is far away.
    pub fn ask_for_renewal_of_the_first(&self) {
        self.shared.lock().expect("no poison").renew_first = true;
    }

    /// Certificates that renewal information was asked for.
    pub fn asked_about(&self) -> usize {
        self.shared.lock().expect("no poison").asked.len()
    }

    /// Refuses orders, or lets Pebble have them again.
    pub fn limit(&self, limited: bool) {
        self.shared.lock().expect("no poison").limited = limited;
    }

    /// Says that it is this time.
    pub fn date(&self, date: &str) {
        self.shared.lock().expect("no poison").date = date.to_owned();
    }

    /// Orders that were refused here.
    pub fn orders(&self) -> usize {
        self.shared.lock().expect("no poison").orders
    }
}

async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let length = stream.read(&mut piece).await.ok()?;
        if length == 0 {
            return None;
        }
        request.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let wanted = head
            .lines()
            .find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length:")?
                    .trim()
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        if body.len() >= wanted {
            return Some(head.to_owned());
        }
    }
}

impl Shared {
    fn answer(&mut self, head: &str) -> String {
        let mut words = head.split_whitespace();
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        match (method, path) {
            ("GET", "/dir") => {
                let date = match self.date.as_str() {
                    "" => String::new(),
                    date => format!("Date: {date}\r\n"),
                };
                response("200 OK", &date, &self.whole_directory())
            }
            ("GET", path) if path.starts_with("/ari/") => self.renewal_info(&path[5..]),
            ("POST", "/order") => {
                self.orders += 1;
                let problem = json!({
                    "type": "urn:ietf:params:acme:error:rateLimited",
                    "detail": "too many certificates already issued",
                });
                response("429 Too Many Requests", "Retry-After: 3600\r\n", &problem)
            }
            _ => response("404 Not Found", "", &json!({})),
        }
    }

    fn whole_directory(&self) -> Value {
        let mut directory = self.directory.clone();
        directory["renewalInfo"] = json!(format!("https://{}/ari", self.address));
        directory["meta"]["profiles"] = json!({"classic": "long", "shortlived": "short"});
        directory["meta"]["caaIdentities"] = json!(["ca.example"]);
        if self.limited {
            directory["newOrder"] = json!(format!("https://{}/order", self.address));
        }
        directory
    }

    fn renewal_info(&mut self, certificate: &str) -> String {
        if !self.asked.iter().any(|asked| asked == certificate) {
            self.asked.push(certificate.to_owned());
        }
        let first = self.renew_first && self.asked[0] == certificate;
        let (start, end) = match first {
            true => ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"),
            false => ("2099-01-01T00:00:00Z", "2099-01-02T00:00:00Z"),
        };
        let info = json!({ "suggestedWindow": { "start": start, "end": end } });
        response("200 OK", "Retry-After: 21600\r\n", &info)
    }
}

fn response(status: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Connection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
