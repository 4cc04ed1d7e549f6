//! Start, ready, reload, drain, stop: the life of one gateway, and the order in which its rooms come and go.

mod addresses;
mod certificates;
mod client_certificates;
pub mod logging;
mod reload;
mod renewal;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use broker_config::{Config, Listener, Protocol, TlsVersion};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::{
    admin::{
        self, AdminError, Administration, Broker, CertificateDesk, ControlServer, DeviceDesk,
        FirstAccount, Sessions,
    },
    audit::{self, Kind, Note},
    auth::{self, Issuers, OAuthError},
    data_dir::{DataDir, DataDirError, Lock},
    listen::{
        Admissions, Context, Door, Farewells, Handshakes, ListenError, Sightings, Turns,
        lag::{self, Verdict},
        listener::{self, Wrapping},
    },
    metrics::Metrics,
    routing::{
        RoutingError,
        bus::Bus,
        dispatcher::{self, Dispatcher, StoredLimits},
        retained::RetainedLimits,
    },
    session::{Agenda, Departures, Rechecks, Witness, registry::Registry, settings::Settings},
    store::{
        StoreError,
        messages::{Durability, Messages},
        writer::{self, Store},
    },
    tls::{
        Alpn, CertificateFiles, CertificateStore, Certificates, ClientTrust, ClientTrusts,
        MinVersion, PrivateCa, ServerConfigs, ServerTlsSettings, TlsAcceptor, TlsError,
        acme::{Challenges, Renewals},
        cipher_suites,
    },
};

use certificates::Served;

pub use addresses::Addresses;
pub use certificates::certificates_at_rest;
pub use reload::ReloadError;
pub use renewal::{ACME_SLOT, preflight};

/// A running gateway.
pub struct Gateway {
    config: Arc<ArcSwap<Config>>,
    directory: DataDir,
    context: Arc<Context>,
    administration: Arc<Administration>,
    certificates: Arc<Certificates>,
    certificate_files: Arc<CertificateFiles>,
    trusts: Arc<ClientTrusts>,
    issuers: Arc<Issuers>,
    renewals: Arc<Renewals>,
    private_ca: Option<Arc<PrivateCa>>,
    first_account: Option<FirstAccount>,
    addresses: Addresses,
    stop: watch::Sender<bool>,
    /// Listeners and the control socket: they end when `stop` says so.
    doors: JoinSet<()>,
    /// Dispatcher, agenda, `$SYS`, housekeeping: they end with the gateway.
    engine: JoinSet<()>,
    store: Arc<Store>,
    /// The task that writes the message store: it ends when the store is closed.
    writer: JoinHandle<()>,
    /// Held until everything is closed (N3).
    _lock: Lock,
}

/// Why a gateway did not start. One line, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    OAuth(#[from] OAuthError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Routing(#[from] RoutingError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot write {path}: {cause}; check the owner and the free space of its directory")]
    Write {
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error("a part of the start died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Gateway {
    /// Starts everything; when this returns, clients are served.
    pub async fn start(config: Config) -> Result<Gateway, StartError> {
        let directory = DataDir::locate(config.data_dir.as_deref(), config.runtime_dir.as_deref())?;
        directory.create()?;
        let mut lock = directory.lock_within(LOCK_PATIENCE)?;
        for path in directory.close_secrets()? {
            tracing::warn!(path = %path.display(), "others could read this file with secrets; it has mode 0600 now. Change what is in it if somebody may have read it");
        }
        // Ports first: of all that may fail, this is what fails most.
        let sockets = bind_all(&config)?;
        let addresses = Addresses::of(&sockets);
        let served = certificates::open(&config, directory.path()).await?;

        let metrics = Arc::new(Metrics::default());
        let administration = Administration::open_with(
            directory.path(),
            auth_settings(&config),
            audit_settings(&config),
            metrics.clone(),
        )
        .await?;
        administration.decisions().resize(config.audit.decisions);
        let first_account = FirstAccount::ensure(&administration, directory.path()).await?;

        let config = Arc::new(ArcSwap::from_pointee(config));
        let (renewals, challenges) =
            renewal::prepare(&config, directory.path(), &served, &addresses, &metrics).await?;
        let Served {
            certificates,
            files,
            private_ca,
        } = served;
        let mut engine = JoinSet::new();
        let (messages, _) = Messages::open(directory.path(), durability(&config.load())).await?;
        // Before anybody hears of those who were connected.
        let issuers = open_issuers(&config.load_full(), &administration, &metrics).await?;
        let (registry, store, writer) =
            start_engine(&config, &administration, messages, &metrics, &mut engine).await?;
        client_certificates::keep_ca(&administration).await;
        let trusts = open_trusts(&config.load_full(), directory.path(), &metrics).await?;
        client_certificates::discredit_revoked(&registry, &administration).await;
        let users = administration.users().clone();
        let sessions = Sessions::new(registry.clone(), users, trusts.clone());
        administration.attach(Arc::new(sessions));
        engine.spawn(client_certificates::watch(registry.clone(), trusts.clone()));
        engine.spawn(client_certificates::keep(administration.clone()));
        engine.spawn(administration.audit().clone().run());
        let door = start_door(&config, &administration, &metrics, &mut engine);
        administration.attach_door(door.clone());
        let context = Arc::new(Context {
            config: config.clone(),
            door,
            registry,
            authenticator: administration.authenticator().clone(),
            admissions: Admissions::new(metrics.clone()),
            handshakes: Handshakes::default(),
            turns: Turns::default(),
            farewells: Farewells::default(),
            sightings: Arc::default(),
            metrics,
        });
        look_after_devices(&administration, &context, &addresses, &mut engine);
        let desk = CertificateDesk::new(
            certificates.clone(),
            CertificateStore::new(directory.path()),
        );
        administration.attach_certificates(Arc::new(desk.with_renewals(renewals.clone())));
        engine.spawn(certificates::watch(
            certificates.clone(),
            files.clone(),
            config.clone(),
            context.metrics.clone(),
        ));
        engine.spawn(housekeeping(context.clone()));
        engine.spawn(renewals.clone().run());

        let (stop, stopped) = watch::channel(false);
        let mut doors = JoinSet::new();
        let control = ControlServer::bind(&directory.socket())?;
        lock.announce(control.path())
            .map_err(|cause| StartError::Write {
                path: directory.path().join("lock"),
                cause,
            })?;
        let mut closing = stopped.clone();
        let served = administration.clone();
        doors.spawn(control.run(served, async move {
            let _ = closing.changed().await;
        }));
        open_doors(
            sockets,
            &config.load(),
            (&certificates, &challenges),
            &trusts,
            &context,
            &stopped,
            &mut doors,
        )?;
        addresses.write(directory.path())?;
        let version = concat!("version ", env!("CARGO_PKG_VERSION"));
        note(&administration, version, "started");
        Ok(Gateway {
            config,
            directory,
            context,
            administration,
            certificates,
            certificate_files: files,
            trusts,
            issuers,
            renewals,
            private_ca,
            first_account,
            addresses,
            stop,
            doors,
            engine,
            store,
            writer,
            _lock: lock,
        })
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub fn data_dir(&self) -> &Path {
        self.directory.path()
    }

    /// The file that clients need in order to trust this gateway; `None` with the operator's own certificate.
    pub fn ca_certificate(&self) -> Option<PathBuf> {
        self.private_ca.as_ref().map(|ca| ca.ca_certificate())
    }

    /// SHA-256 of the server certificate.
    pub fn fingerprint(&self) -> String {
        self.certificates.fingerprint()
    }

    /// The account that this start made, once.
    pub fn take_first_account(&mut self) -> Option<FirstAccount> {
        self.first_account.take()
    }

    /// The sessions, for whoever looks inside.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.context.registry
    }

    pub fn administration(&self) -> &Arc<Administration> {
        &self.administration
    }

    /// Returns if a part that must not end has ended: a bug, after which the gateway is better started anew.
    pub async fn died(&mut self) {
        let ended = tokio::select! {
            ended = self.engine.join_next() => ended,
            ended = &mut self.writer => Some(ended),
        };
        tracing::error!(?ended, "a part of the gateway died");
    }

    /// Drains and stops: no new connections, every client is told, wills and sessions are settled.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        note(&self.administration, "", "stopping");
        // Listeners are closed before clients are told, so that none comes straight back.
        let _ = tokio::time::timeout(DOORS, async {
            while self.doors.join_next().await.is_some() {}
        })
        .await;
        self.context.registry.shut_down();
        let deadline = Instant::now() + DRAIN;
        let busy = || {
            self.context.metrics.connections.get() > 0
                || self.context.registry.bus().bytes_in_flight() > 0
                || !self.store.is_idle()
        };
        while busy() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.store.close();
        let _ = tokio::time::timeout(DOORS, &mut self.writer).await;
        let (sightings, metrics) = (&self.context.sightings, &self.context.metrics);
        let written = admin::sightings::write(&self.administration, sightings, metrics);
        let _ = tokio::time::timeout(DOORS, written).await;
        let _ = tokio::time::timeout(DOORS, self.administration.close()).await;
        Addresses::remove(self.directory.path());
    }
}

/// How long a command line that holds the data directory is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How long listeners and the control socket may take to close, and each file after them.
const DOORS: Duration = Duration::from_millis(700);
/// How long clients may take to leave. With `DOORS` four times it stays below the 5 s that a stop may take.
const DRAIN: Duration = Duration::from_secs(2);

type Sockets = BTreeMap<String, Vec<(SocketAddr, TcpListener)>>;

fn bind_all(config: &Config) -> Result<Sockets, ListenError> {
    let mut sockets = Sockets::new();
    for (name, settings) in config
        .listeners
        .iter()
        .filter(|(_, settings)| settings.is_on())
    {
        for address in &settings.bind {
            let listener = listener::bind(name, *address)?;
            let bound = listener.local_addr().unwrap_or(*address);
            sockets
                .entry(name.clone())
                .or_default()
                .push((bound, listener));
        }
    }
    Ok(sockets)
}

/// Whom listeners with client certificates trust.
async fn open_trusts(
    config: &Arc<Config>,
    directory: &Path,
    metrics: &Arc<Metrics>,
) -> Result<Arc<ClientTrusts>, StartError> {
    let (config, directory) = (config.clone(), directory.to_owned());
    let metrics = metrics.clone();
    // File I/O.
    let opened = tokio::task::spawn_blocking(move || {
        ClientTrusts::open(&config.listeners, &directory, metrics)
    });
    Ok(opened.await??)
}

/// Whose tokens are credentials. A start waits for none of them to answer.
async fn open_issuers(
    config: &Arc<Config>,
    administration: &Administration,
    metrics: &Arc<Metrics>,
) -> Result<Arc<Issuers>, StartError> {
    let (config, metrics) = (config.clone(), metrics.clone());
    // File I/O.
    let opened = tokio::task::spawn_blocking(move || Issuers::open(&config.oauth, metrics));
    let issuers = opened.await??;
    administration
        .authenticator()
        .attach_issuers(issuers.clone());
    tokio::spawn(issuers.clone().warm_up());
    Ok(issuers)
}

async fn start_engine(
    config: &Arc<ArcSwap<Config>>,
    administration: &Administration,
    mut messages: Messages,
    metrics: &Arc<Metrics>,
    engine: &mut JoinSet<()>,
) -> Result<(Arc<Registry>, Arc<Store>, JoinHandle<()>), StartError> {
    let now = config.load_full();
    let permits = u32::try_from(now.bus.permits.bytes()).unwrap_or(u32::MAX);
    let (bus, outlet) = Bus::start(
        now.router(),
        now.bus.ingress_links,
        permits,
        metrics.clone(),
    )?;
    let loaded = messages.load().await?;
    let upkeep = messages.upkeep();
    let settings = writer::Settings {
        durability: durability(&now),
        retry: now.store.retry,
        credit: now.store.credit.bytes(),
    };
    let (store, writer) = Store::new(messages, settings, loaded.last_commit, metrics.clone());
    let witness = Witness {
        audit: administration.audit().clone(),
        decisions: administration.decisions().clone(),
    };
    let registry = Registry::new(
        bus.clone(),
        store.clone(),
        administration.policy().clone(),
        Settings::of(&now),
        witness,
        metrics.clone(),
    );
    let limits = config.clone();
    let mut dispatcher = Dispatcher::new(bus, store.clone(), metrics.clone(), move || {
        dispatcher_limits(&limits.load())
    });
    let authenticator = administration.authenticator();
    let restored = registry.restore(loaded, &mut dispatcher, |principal| {
        authenticator.renew(principal)
    });
    registry.attach_authenticator(authenticator.clone());
    // P3: as on SIGHUP, and before the agenda sends a will.
    registry.issuers_changed().await;
    tracing::info!(
        sessions = restored.sessions,
        subscriptions = restored.subscriptions,
        messages = restored.messages,
        retained = restored.retained,
        ended = restored.ended,
        "took up what was on disk"
    );
    engine.spawn(dispatcher.run(outlet));
    engine.spawn(Agenda::run(registry.clone()));
    engine.spawn(Departures::run(registry.clone()));
    engine.spawn(Rechecks::run(registry.clone()));
    engine.spawn(writer::keep_up(upkeep, metrics.clone()));
    let interval = config.clone();
    engine.spawn(admin::sys::run(registry.clone(), move || {
        interval.load().sys.interval
    }));
    let writer = tokio::spawn(writer.run(registry.clone()));
    Ok((registry, store, writer))
}

/// What new devices are told, and when the others were here.
fn look_after_devices(
    administration: &Arc<Administration>,
    context: &Arc<Context>,
    addresses: &Addresses,
    engine: &mut JoinSet<()>,
) {
    let sightings: &Arc<Sightings> = &context.sightings;
    let (config, addresses) = (context.config.clone(), addresses.clone());
    let broker = move || {
        let port = |name: &str| addresses.listener(name).first().map(SocketAddr::port);
        Broker::of(&config.load(), port)
    };
    administration.attach_devices(DeviceDesk {
        broker: Box::new(broker),
        sightings: Some(sightings.clone()),
    });
    let metrics = context.metrics.clone();
    engine.spawn(admin::sightings::run(
        administration.clone(),
        sightings.clone(),
        metrics,
    ));
}

/// The door, and what measures whether it may stand open.
fn start_door(
    config: &Arc<ArcSwap<Config>>,
    administration: &Administration,
    metrics: &Arc<Metrics>,
    engine: &mut JoinSet<()>,
) -> Arc<Door> {
    let (verdict, watched) = watch::channel(Verdict::Accept);
    let limits = config.clone();
    engine.spawn(lag::watch(verdict, metrics.clone(), move || {
        limits.load().limits.max_lag
    }));
    let door = Door::new(config.clone(), metrics.clone(), watched);
    Arc::new(door.with_audit(administration.audit().clone()))
}

/// Notes something about the gateway itself.
fn note(administration: &Administration, subject: &str, reason: &str) {
    let note = Note {
        subject,
        reason,
        ..Note::default()
    };
    administration.audit().note(Kind::Gateway, note);
}

fn dispatcher_limits(config: &Config) -> dispatcher::Limits {
    let limits = &config.limits;
    dispatcher::Limits {
        retained: RetainedLimits {
            messages: limits.max_retained_messages,
            bytes: limits.max_retained_bytes.bytes(),
        },
        stored: StoredLimits {
            messages: limits.max_stored_messages as u64,
            bytes: limits.max_stored_bytes.bytes() as u64,
        },
    }
}

fn durability(config: &Config) -> Durability {
    match config.store.durability {
        broker_config::Durability::PowerLoss => Durability::PowerLoss,
        broker_config::Durability::ProcessCrash => Durability::ProcessCrash,
        broker_config::Durability::None => Durability::Nothing,
    }
}

fn open_doors(
    sockets: Sockets,
    config: &Config,
    (certificates, challenges): (&Arc<Certificates>, &Arc<Challenges>),
    trusts: &ClientTrusts,
    context: &Arc<Context>,
    stopped: &watch::Receiver<bool>,
    doors: &mut JoinSet<()>,
) -> Result<(), TlsError> {
    for (name, listeners) in sockets {
        let Some(settings) = config.listeners.get(&name) else {
            continue;
        };
        // One set of TLS configurations for each listener, never shared (C1).
        let tls = if settings.tls {
            let clients = trusts.of(&name);
            let acceptor = acceptor(config, settings, certificates, clients, context)?;
            Some(acceptor.with_challenges(challenges.clone()))
        } else {
            None
        };
        let wrapping = Arc::new(Wrapping {
            name: name.into(),
            tls,
            protocol: settings.protocol,
            paths: settings.paths.clone(),
            proxies: settings
                .proxy_protocol
                .then(|| settings.trusted_proxies.clone()),
        });
        for (_, listener) in listeners {
            doors.spawn(listener::run(
                listener,
                wrapping.clone(),
                context.clone(),
                stopped.clone(),
            ));
        }
    }
    Ok(())
}

fn acceptor(
    config: &Config,
    listener: &Listener,
    certificates: &Arc<Certificates>,
    clients: Option<&Arc<ClientTrust>>,
    context: &Context,
) -> Result<TlsAcceptor, TlsError> {
    let settings = ServerTlsSettings {
        min_version: match config.tls.min_version {
            TlsVersion::Tls12 => MinVersion::Tls12,
            TlsVersion::Tls13 => MinVersion::Tls13,
        },
        alpn: Alpn {
            mqtt: listener.protocol != Protocol::WebSocket,
            http: listener.protocol != Protocol::Mqtt,
        },
        ciphers: cipher_suites(&config.tls.ciphers.suites()),
        session_lifetime: config.tls.session_lifetime,
        session_cache: config.tls.session_cache,
        max_fragment: Some(listener.max_fragment_size.bytes()),
        metrics: context.metrics.clone(),
    };
    let verifier = clients.map(ClientTrust::verifier);
    let configs = ServerConfigs::asking(certificates.clone(), &settings, verifier)?;
    Ok(TlsAcceptor::new(Arc::new(configs)).trusting(clients.cloned()))
}

fn audit_settings(config: &Config) -> audit::Settings {
    audit::Settings {
        enabled: config.audit.enabled,
        max_entries: config.audit.max_entries,
    }
}

fn auth_settings(config: &Config) -> auth::Settings {
    let auth = &config.auth;
    auth::Settings {
        allow_anonymous: auth.allow_anonymous,
        anonymous_role: auth.anonymous_role.as_str().into(),
        password_slots: auth.password_slots,
        password_queue: auth.password_queue,
        password_cache: auth.password_cache,
    }
}

/// What is looked after while everything runs: memory every second (N4).
async fn housekeeping(context: Arc<Context>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        context.registry.relieve();
        context.door.tidy_up();
    }
}
