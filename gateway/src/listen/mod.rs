//! Which bytes may come in? Sockets and what is wrapped around them before MQTT begins.

pub mod websocket;
