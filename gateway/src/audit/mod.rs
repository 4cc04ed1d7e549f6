//! What happened? Everything that was refused, every login, every change of an operator: noted without waiting, written
//! beside everything else, bounded in memory and on disk.
//!
//! Other rooms say what happened ([`AuditLog::note`]); what it means is their business. The file is `store`'s, showing
//! it `admin`'s and `cli`'s. Nobody is let in or kept out by what is kept here.
//!
//! # What it costs, and what it keeps
//!
//! A note is an entry in a table in memory; the same thing again within a minute only counts. One task writes what came
//! since its last transaction, once a second at most. What a stranger can cause is bounded everywhere: the table, the
//! length of each text, and the rows on disk, of which logins, refusals and changes each have a part of their own: a
//! storm of one pushes out nothing of the others. Texts that strangers choose are shortened if they look like a secret.

mod kind;
mod log;
mod shown;

pub use kind::Kind;
pub use log::{AuditLog, Note, Settings};
pub use shown::{shown, shown_name};
