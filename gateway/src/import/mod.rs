//! What did the old broker allow? Reads Mosquitto's files, says what of them means the same here, and plans the accounts,
//! rules and settings that do.
//!
//! Nothing is changed by this room: `admin` takes the plan over, and `cli` writes the settings. What a rule of ours means
//! is `acl`'s business; the meaning of Mosquitto's files is evaluated here independently, so that [`replay`] can set the
//! one against the other.
//!
//! What is planned never allows more than Mosquitto did. Where it would, because a restriction has no counterpart here,
//! that is a [`Kind::Wider`] finding, and the operator is asked.

mod acl_file;
mod conf;
mod dynsec;
mod dynsec_rules;
mod error;
mod files;
mod meaning;
mod options;
mod passwords;
mod plan;
mod probes;
mod replay;
mod report;
mod settings;

pub use error::ImportError;
pub use plan::{Choices, Plan, plan};
pub use replay::{Class, Difference, Replay, replay};
pub use report::{Finding, Kind};

#[cfg(test)]
mod tests;
