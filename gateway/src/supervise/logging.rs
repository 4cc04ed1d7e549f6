//! Where the log goes, and how much of it there is.

use std::sync::OnceLock;

use broker_config::{Log, LogFormat, LogLevel};
use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging to standard error. `RUST_LOG`, where it is set, decides instead of the configuration.
pub fn start(log: &Log) {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        LogFormat::Text => registry.with(lines.with_ansi(is_terminal())).try_init(),
        LogFormat::Json => registry.with(lines.json().with_target(true)).try_init(),
    };
    if started.is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Changes the level of a running gateway.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = FILTER.get() {
        // It fails only when the subscriber is gone, and with it the log.
        let _ = handle.reload(filter(level));
    }
}

/// rumqttd opens an error-level span for each message, so its target stays off unless asked for (B6). SQL is noise.
fn filter(level: LogLevel) -> EnvFilter {
    let ours = || EnvFilter::new(format!("{},rumqttd=off,sqlx=warn", level.as_str()));
    match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(wanted) if !wanted.is_empty() => {
            EnvFilter::try_new(format!("rumqttd=off,{wanted}")).unwrap_or_else(|_| ours())
        }
        _ => ours(),
    }
}

fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}
