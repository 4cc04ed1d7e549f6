//! What does a quiet connection cost the server? Opens connections, holds them, and reads the server's memory.

use crate::clients::{check, link, open_all};
use crate::error::LoadError;
use crate::link::{Link, Target};
use crate::options::IdleOptions;
use crate::process::Process;
use crate::report::{IdleReport, Transport};
use crate::run::ping_ticker;
use crate::wire::{self, Session};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Largest packet a quiet client accepts.
const CAPACITY: usize = 1024;

/// # Errors
/// [`LoadError`] if a connection cannot be opened, or ends while it is held.
pub async fn idle(options: &IdleOptions) -> Result<IdleReport, LoadError> {
    options.target.check()?;
    let target = Target::new(&options.target).await?;
    let server = options.target.server_pid.map(Process::other).transpose()?;
    let resident = || server.map(|server| server.resident_kib()).transpose();
    let run = std::process::id();
    let at_once = options.target.connect_at_once;
    let resident_at_start = resident()?;

    let warm = open_all(options.warm_up, at_once, |i| {
        link(
            target.clone(),
            format!("pl{run:08x}w{i}"),
            Session::Clean,
            i,
            CAPACITY,
        )
    })
    .await?;
    for link in warm {
        link.close().await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = resident()?;

    let cpu = || server.map(|server| server.cpu_seconds()).transpose();
    let (started, cpu_at_start) = (Instant::now(), cpu()?);
    let links = open_all(options.clients, at_once, |i| {
        link(
            target.clone(),
            format!("pl{run:08x}i{i}"),
            Session::Clean,
            i,
            CAPACITY,
        )
    })
    .await?;
    let opened_in = started.elapsed();
    let cpu_opened = used(cpu_at_start, cpu()?);
    let transport = links[0].negotiated().map(Transport::from);
    let (close, closed) = watch::channel(());
    let mut clients = JoinSet::new();
    for link in links {
        clients.spawn(hold(link, closed.clone()));
    }
    let cpu_before = cpu()?;
    tokio::time::sleep(options.hold).await;
    check(&mut clients)?;
    let after = resident()?;
    let cpu_held = used(cpu_before, cpu()?);
    drop(close);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(IdleReport {
        pattern: "idle",
        clients: options.clients,
        transport,
        opened_in_seconds: opened_in.as_secs_f64(),
        server_cpu_seconds_to_open: cpu_opened,
        held_seconds: options.hold.as_secs_f64(),
        server_cpu_seconds_while_held: cpu_held,
        server_rss_kib_at_start: resident_at_start,
        server_rss_kib_before: before,
        server_rss_kib_held: after,
        server_rss_kib_per_connection: after
            .zip(before)
            .map(|(after, before)| (after as f64 - before as f64) / f64::from(options.clients)),
    })
}

fn used(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    after.zip(before).map(|(after, before)| after - before)
}

/// Keeps the connection alive until `closed` is gone.
async fn hold(mut link: Link, mut closed: watch::Receiver<()>) -> Result<(), LoadError> {
    let mut ping = ping_ticker(link.keep_alive);
    loop {
        tokio::select! {
            _ = closed.changed() => break,
            turned = link.turn() => {
                turned?;
                link.drain(|packet, _| match packet {
                    wire::Packet::PingResp => Ok(()),
                    other => Err(format!("{other:?} to a quiet client")),
                })?;
            }
            _ = ping.tick() => wire::ping_request(&mut link.out),
        }
    }
    link.close().await;
    Ok(())
}
