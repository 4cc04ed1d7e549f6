//! Postern: a self-hosted MQTT TLS gateway. One room per question; see CONTRIBUTING.md for the map.

pub mod acl;
pub mod admin;
pub mod audit;
pub mod auth;
pub mod causes;
pub mod cli;
pub mod data_dir;
pub mod fair_queue;
pub mod import;
pub mod listen;
pub mod metrics;
pub mod mqtt;
pub mod routing;
pub mod session;
pub mod store;
pub mod supervise;
pub mod tls;
