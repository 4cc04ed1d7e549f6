//! May this client use this client identifier? That of a device is kept for it (S5). Whose session it is otherwise, the
//! registry says.

use super::Context;
use crate::{
    auth::{Principal, Reservation},
    mqtt::ReasonCode,
};

/// Refuses the identifier of a device to everybody else; whoever had a session with it before the device was there
/// makes way for it. One look into a table in memory for everybody else.
pub(super) async fn claim(
    client_id: &str,
    principal: &Principal,
    context: &Context,
) -> Result<(), (ReasonCode, &'static str)> {
    match context
        .authenticator
        .users()
        .reservation(client_id, principal)
    {
        Reservation::None => Ok(()),
        Reservation::Own => {
            let way = context.registry.make_way(client_id, principal).await;
            way.map_err(|refused| (refused.reason(), refused.text()))
        }
        Reservation::Other => {
            context.metrics.client_identifiers_reserved.add(1);
            tracing::warn!(target: "postern::audit", %principal, client = ?client_id, "the client identifier is that of a device");
            Err((
                ReasonCode::ClientIdentifierNotValid,
                "the client identifier is that of a device",
            ))
        }
    }
}
