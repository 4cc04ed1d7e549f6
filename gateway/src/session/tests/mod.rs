//! Does a session keep its promises? Each test is one of them, without a socket.

mod certificates;
mod delivery;
mod devices;
mod disk;
mod lifecycle;
mod limits;
mod model;
mod permissions;
mod publishing;
mod queue;
mod redelivery;
mod retained;
mod shared;
mod storm;
mod tokens;
mod withdrawal;
