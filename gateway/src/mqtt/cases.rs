//! The table of named byte cases, shared by the decode, encode and live-server tests.
