//! The configuration from outside: what operators write, and what they are told.

mod documentation;
mod errors;
mod properties;
mod report;
mod sample;
mod sources;
mod values;
