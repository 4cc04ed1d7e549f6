//! The small HTTP server on port 80: it answers the CA's HTTP-01 challenges (RFC 8555, 8.3), sends who
//! asks for one of our names to HTTPS, and knows nothing else. What the answers are is
//! [`Challenges`]' part.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::holder::holder_of;
use super::listener;
use super::prefix::Prefix;
use crate::metrics::Metrics;
use crate::tls::acme::{Challenges, Doors};

/// Where the CA finds us. Opens its port when it is first needed, and closes it when it is not needed
/// any more, or with the last clone of it.
pub struct ChallengeDoor {
    settings: Settings,
    inside: Arc<Inside>,
    /// Tasks that accept; they end when this is dropped.
    open: Mutex<Option<Open>>,
}

/// What the door is opened with.
pub struct Settings {
    pub bind: Vec<SocketAddr>,
    /// Open connections at once.
    pub max_connections: usize,
    /// Where TLS listeners are.
    pub tls: Vec<SocketAddr>,
}

struct Open {
    addresses: Vec<SocketAddr>,
    _accepting: JoinSet<()>,
}

struct Inside {
    challenges: Arc<Challenges>,
    /// Whether a name is one of ours.
    serves: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// Whether HTTPS on its usual port leads to us.
    redirects: bool,
    places: Mutex<Places>,
    max_connections: usize,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Places {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// From accept to the last octet of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The smallest that hyper takes: request line and header fields.
const HEAD_MAX: usize = 8 * 1024;
const FIELDS_MAX: usize = 64;
/// One address gets this part of the places, so that it cannot shut the CA out.
const ADDRESS_SHARE: usize = 8;
/// And this many at least: a CA may look several times at once from one address.
const ADDRESS_LEAST: usize = 4;
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

impl ChallengeDoor {
    /// A closed door. `serves` says whether a host name is one of ours: only then is anybody sent to
    /// HTTPS.
    pub fn new(
        settings: Settings,
        challenges: Arc<Challenges>,
        serves: impl Fn(&str) -> bool + Send + Sync + 'static,
        metrics: Arc<Metrics>,
    ) -> Arc<ChallengeDoor> {
        let inside = Arc::new(Inside {
            challenges,
            serves: Box::new(serves),
            redirects: settings.tls.iter().any(|address| address.port() == 443),
            places: Mutex::default(),
            max_connections: settings.max_connections,
            metrics,
        });
        Arc::new(ChallengeDoor {
            settings,
            inside,
            open: Mutex::new(None),
        })
    }

    /// Where it is open; nothing if it is closed.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let open = self.open.lock();
        open.as_ref()
            .map_or(Vec::new(), |open| open.addresses.clone())
    }

    fn bind(&self) -> Result<Vec<(SocketAddr, TcpListener)>, (SocketAddr, std::io::Error)> {
        let bind = |address: &SocketAddr| {
            let listener = listener::listen(*address).map_err(|error| (*address, error))?;
            Ok((listener.local_addr().unwrap_or(*address), listener))
        };
        self.settings.bind.iter().map(bind).collect()
    }

    fn start(&self, listeners: Vec<(SocketAddr, TcpListener)>) -> Vec<SocketAddr> {
        let mut open = self.open.lock();
        if let Some(open) = &*open {
            return open.addresses.clone();
        }
        let (mut accepting, mut addresses) = (JoinSet::new(), Vec::new());
        for (address, listener) in listeners {
            addresses.push(address);
            accepting.spawn(accept(listener, self.inside.clone()));
        }
        tracing::info!(addresses = ?addresses, "HTTP-01 challenges are answered here");
        *open = Some(Open {
            addresses: addresses.clone(),
            _accepting: accepting,
        });
        addresses
    }
}

impl Doors for ChallengeDoor {
    fn open_http(&self) -> BoxFuture<'_, Result<Vec<SocketAddr>, String>> {
        Box::pin(async move {
            let open = self.addresses();
            if !open.is_empty() {
                return Ok(open);
            }
            match self.bind() {
                Ok(listeners) if listeners.is_empty() => {
                    Err("http-01 has nowhere to be answered: acme.http_bind is empty".to_owned())
                }
                Ok(listeners) => Ok(self.start(listeners)),
                Err((address, error)) => Err(in_the_way(address, &error).await),
            }
        })
    }

    fn close_http(&self) {
        if self.open.lock().take().is_some() {
            tracing::info!("no certificate needs HTTP-01 any more: its port is closed");
        }
    }

    fn tls_addresses(&self) -> Vec<SocketAddr> {
        self.settings.tls.clone()
    }
}

/// Why an address cannot be had, with who has it and what to do.
async fn in_the_way(address: SocketAddr, error: &std::io::Error) -> String {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let port = address.port();
    let why = match error.kind() {
        AddrInUse => {
            let holder = tokio::task::spawn_blocking(move || holder_of(port)).await;
            let holder = holder
                .ok()
                .flatten()
                .unwrap_or_else(|| "another program".to_owned());
            format!(
                "{holder} has the port; stop it, or have it forward {WELL_KNOWN} to another port \
                 and set acme.http_bind to that, or use tls-alpn-01 or dns-01"
            )
        }
        PermissionDenied => {
            "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE".to_owned()
        }
        AddrNotAvailable => "acme.http_bind must be an address of this machine".to_owned(),
        _ => format!("{error}; correct acme.http_bind"),
    };
    format!("http-01 cannot be answered on {address}: {why}")
}

async fn accept(listener: TcpListener, inside: Arc<Inside>) {
    // They end with the door.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match Place::take(&inside, peer.ip()) {
                Some(place) => drop(connections.spawn(serve(stream, place))),
                None => inside.metrics.connections_refused.add(1),
            },
            Err(error) => {
                tracing::debug!(%error, "accept failed on the port for HTTP-01");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The place of one connection; given back when dropped.
struct Place {
    inside: Arc<Inside>,
    address: IpAddr,
}

impl Place {
    fn take(inside: &Arc<Inside>, address: IpAddr) -> Option<Place> {
        let address = Prefix::from(address).address();
        let mut places = inside.places.lock();
        let share = (inside.max_connections / ADDRESS_SHARE).max(ADDRESS_LEAST);
        let here = places.by_address.get(&address).copied().unwrap_or(0);
        if places.total >= inside.max_connections || here >= share {
            return None;
        }
        places.total += 1;
        places.by_address.insert(address, here + 1);
        Some(Place {
            inside: inside.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.inside.places.lock();
        places.total -= 1;
        if let Some(here) = places.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                places.by_address.remove(&self.address);
            }
        }
    }
}

async fn serve(stream: TcpStream, place: Place) {
    let inside = place.inside.clone();
    let service = service_fn(move |request| {
        let answer = inside.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(DEADLINE)
        .keep_alive(false)
        .max_buf_size(HEAD_MAX)
        .max_headers(FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(DEADLINE, connection).await {
        tracing::debug!(%error, "a connection for HTTP-01 ended early");
    }
    drop(place);
}

impl Inside {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD\n".to_owned(),
            );
        }
        if let Some(token) = request.uri().path().strip_prefix(WELL_KNOWN) {
            return match self.challenges.http_answer(token) {
                Some(answer) => plain(StatusCode::OK, answer),
                None => plain(StatusCode::NOT_FOUND, "no such challenge\n".to_owned()),
            };
        }
        self.redirect(request)
            .unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "nothing here\n".to_owned()))
    }

    /// To the same place by HTTPS, for our own names only: nobody is sent elsewhere by us.
    fn redirect(&self, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        let host = request.headers().get(HOST)?.to_str().ok()?;
        let host = without_port(host).to_ascii_lowercase();
        if !self.redirects || !(self.serves)(&host) {
            return None;
        }
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let location = format!("https://{host}{path}").parse().ok()?;
        let mut answer = plain(StatusCode::PERMANENT_REDIRECT, String::new());
        answer.headers_mut().insert(LOCATION, location);
        Some(answer)
    }
}

/// The host of a `Host` field (RFC 9110, 7.2). The colons in brackets are an IPv6 address's.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => host,
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        CACHE_CONTROL,
        hyper::header::HeaderValue::from_static("no-store"),
    );
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn door(tls: &str) -> (Arc<ChallengeDoor>, SocketAddr) {
        let metrics = Arc::new(Metrics::default());
        let settings = Settings {
            bind: vec!["127.0.0.1:0".parse().unwrap()],
            max_connections: 64,
            tls: vec![tls.parse().unwrap()],
        };
        let challenges = Challenges::new(metrics.clone()).unwrap();
        let serves = |host: &str| host == "mqtt.example.org" || host == "[2001:db8::1]";
        let door = ChallengeDoor::new(settings, challenges, serves, metrics);
        let addresses = door.open_http().await.unwrap();
        (door, addresses[0])
    }

    /// Status line and `Location` of the answer to a request for `path` with these header fields.
    async fn ask(at: SocketAddr, path: &str, fields: &str) -> (String, Option<String>) {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        let location = answer
            .lines()
            .find_map(|line| line.strip_prefix("location: "))
            .map(str::to_owned);
        let status = answer.lines().next().unwrap_or_default().to_owned();
        (status, location)
    }

    #[tokio::test]
    async fn who_asks_for_one_of_our_names_is_sent_to_https_and_nobody_else_anywhere() {
        let (_door, at) = door("[::]:443").await;
        for (path, fields, location) in [
            (
                "/",
                "Host: mqtt.example.org\r\n",
                Some("https://mqtt.example.org/"),
            ),
            (
                "/a?b=c",
                "Host: MQTT.example.org:80\r\n",
                Some("https://mqtt.example.org/a?b=c"),
            ),
            (
                "/",
                "Host: [2001:DB8::1]\r\n",
                Some("https://[2001:db8::1]/"),
            ),
            (
                "/",
                "Host: [2001:db8::1]:80\r\n",
                Some("https://[2001:db8::1]/"),
            ),
            ("/", "Host: evil.example\r\n", None),
            (
                "//evil.example",
                "Host: mqtt.example.org\r\n",
                Some("https://mqtt.example.org//evil.example"),
            ),
            ("http://evil.example/", "Host: evil.example\r\n", None),
            ("/", "", None),
        ] {
            let (status, found) = ask(at, path, fields).await;
            assert_eq!(found.as_deref(), location, "{path} {fields:?} {status}");
            let wanted = if location.is_some() { " 308 " } else { " 404 " };
            assert!(status.contains(wanted), "{path} {fields:?} {status}");
        }
    }

    #[tokio::test]
    async fn without_https_on_its_usual_port_nobody_is_sent_there() {
        let (door, at) = door("[::]:8883").await;
        let (status, _) = ask(at, "/", "Host: mqtt.example.org\r\n").await;
        assert!(status.contains(" 404 "), "{status}");
        door.close_http();
        assert!(door.addresses().is_empty());
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while TcpStream::connect(at).await.is_ok() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the port stays open"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_with_who_has_it() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let metrics = Arc::new(Metrics::default());
        let settings = Settings {
            bind: vec![taken.local_addr().unwrap()],
            max_connections: 64,
            tls: Vec::new(),
        };
        let challenges = Challenges::new(metrics.clone()).unwrap();
        let door = ChallengeDoor::new(settings, challenges, |_| false, metrics);
        let problem = door.open_http().await.unwrap_err();
        let holder = format!("(process {}) has the port", std::process::id());
        assert!(problem.contains(&holder), "{problem}");
    }
}
