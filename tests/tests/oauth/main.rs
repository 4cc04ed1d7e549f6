//! Do access tokens let in whom they should, as long as they should, and nobody else? Against oidc-provider, a real issuer.
//! Rules I1, I2, I4, P3, S5.

mod enhanced;
mod lifetime;
mod login;
mod opaque;
mod refused;
mod world;
