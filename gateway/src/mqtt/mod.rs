//! What do these bytes say?

pub mod topic;
