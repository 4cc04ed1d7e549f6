//! Writes down what was seen of devices: all of it in one transaction, once a minute and at the end.

use std::sync::Arc;
use std::time::Duration;

use super::Administration;
use crate::listen::Sightings;
use crate::metrics::Metrics;
use crate::store::Sighting;

/// Between two writes, and so the least time between two writes of the same device.
const INTERVAL: Duration = Duration::from_secs(60);
/// Devices in one statement.
const BATCH: usize = 1_000;

/// Never ends.
pub async fn run(
    administration: Arc<Administration>,
    sightings: Arc<Sightings>,
    metrics: Arc<Metrics>,
) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        write(&administration, &sightings, &metrics).await;
    }
}

/// Writes what there is now. What cannot be written waits for the next time.
pub async fn write(administration: &Administration, sightings: &Sightings, metrics: &Metrics) {
    let mut rest = sightings.take();
    while !rest.is_empty() {
        let batch = rest.split_off(rest.len().saturating_sub(BATCH));
        let rows: Vec<Sighting> = batch
            .iter()
            .map(|(name, seen)| Sighting {
                name: name.clone(),
                at: seen.at,
                address: seen.address.to_string(),
                firmware: seen.firmware.as_deref().map(str::to_owned),
            })
            .collect();
        match administration.accounts.record_sightings(&rows).await {
            Ok(written) => metrics.device_sightings.add(written),
            Err(error) => {
                tracing::warn!("when devices were last seen is not written down yet: {error}");
                sightings.give_back(batch);
                return sightings.give_back(rest);
            }
        }
    }
}
