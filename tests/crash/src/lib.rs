//! Is what was acknowledged ever lost? A run starts the real gateway, lets publishers and subscribers of every kind
//! loose on it, takes it away at random moments and starts it again, and at the end compares what was acknowledged
//! with what arrived. What is promised is written in `docs/durability.md`.

pub mod cast;
pub mod chance;
pub mod counts;
pub mod disk;
pub mod error;
pub mod link;
pub mod message;
pub mod options;
pub mod publisher;
pub mod report;
pub mod retained;
pub mod run;
pub mod server;
pub mod subscriber;
pub mod verdict;
pub mod wills;
pub mod world;

pub use error::CrashError;
pub use options::Options;
pub use report::Report;
pub use run::run;
pub use server::Durability;
