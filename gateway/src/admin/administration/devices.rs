//! The commands about devices: accounts with a generated secret, with everything that a device needs to know.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::{AdminError, Administration, Answer, done, stored};
use crate::acl::{Action, Effect, Rule, Subject, Who};
use crate::admin::{
    Broker, CertificateKind, CertificateRequest, DeviceCommand, DeviceGiven, DeviceLine,
    GivenCertificate, Place, ReachedBy, RevocationReason, Secret,
};
use crate::auth::{LOCAL_REALM, check_device_id, generate_device_secret};
use crate::listen::{FIRMWARE_MAX, Sightings, is_firmware};
use crate::store::{Credential, NewRule, StoreError, StoredDevice, User};

/// The role that devices have unless told otherwise.
pub(super) const DEVICE_ROLE: &str = "device";

/// What that role may do, until the operator says otherwise: everything below the device's own topic, and the two
/// topics of old: what it receives and what it transmits.
const DEVICE_RULES: [(Action, &str); 4] = [
    (Action::Publish, "devices/%d/#"),
    (Action::Subscribe, "devices/%d/#"),
    (Action::Publish, "mqtt_tx_%d"),
    (Action::Subscribe, "mqtt_rx_%d"),
];

/// What the commands about devices need beside the accounts.
pub struct DeviceDesk {
    /// What the configuration says now: some of it changes while the gateway runs.
    pub broker: Box<dyn Fn() -> Broker + Send + Sync>,
    /// None where no gateway runs.
    pub sightings: Option<Arc<Sightings>>,
}

impl Administration {
    pub(super) async fn run_device(&self, command: DeviceCommand) -> Result<Answer, AdminError> {
        match command {
            DeviceCommand::Add {
                name,
                roles,
                certificate,
                reach,
            } => self.add_device(&name, &roles, certificate, &reach).await,
            DeviceCommand::Rotate { name, reach } => self.rotate_device(&name, &reach).await,
            DeviceCommand::Revoke { name } => self.revoke_device(&name).await,
            DeviceCommand::Disable { name } => {
                self.device(&name)?;
                self.disable_user(&name).await
            }
            DeviceCommand::Enable { name } => {
                self.device(&name)?;
                self.enable_user(&name).await
            }
            DeviceCommand::List { after } => self.list_devices(after.as_deref()).await,
        }
    }

    /// An error if the user is a device, for what is done to devices in another way.
    pub(in crate::admin) fn refuse_device(
        &self,
        name: &str,
        verb: &'static str,
    ) -> Result<(), AdminError> {
        match self.users.find(name) {
            Some(user) if user.device => Err(AdminError::IsDevice {
                name: name.to_owned(),
                verb,
            }),
            _ => Ok(()),
        }
    }

    /// What an answer calls it.
    pub(super) fn noun(&self, name: &str) -> &'static str {
        match self.device(name) {
            Ok(_) => "device",
            Err(_) => "user",
        }
    }

    async fn add_device(
        &self,
        name: &str,
        roles: &[String],
        certificate: Option<CertificateRequest>,
        reach: &ReachedBy,
    ) -> Result<Answer, AdminError> {
        check_device_id(name)?;
        let (place, mut warnings) = self.place(reach, certificate.is_some()).await?;
        let (roles, rules) = match roles.is_empty() {
            true => (vec![Arc::from(DEVICE_ROLE)], role_rules()?),
            false => (self.checked_roles(roles, &mut warnings)?, Vec::new()),
        };
        if self.users.find(name).is_some() {
            // Asked again by the database; this saves a certificate.
            return Err(StoreError::NameTaken(name.to_owned()).into());
        }
        let (credential, secret) = self.device_secret(name)?;
        let made = {
            let _turn = self.turn().await?;
            let made = self
                .accounts
                .add_device(name, &credential, &roles, &rules)
                .await?;
            self.refresh().await?;
            // Sessions of a certificate with this name belong to the account now.
            self.tell(|live| live.roles_changed(LOCAL_REALM, name))
                .await;
            made
        };
        if made > 0 {
            warnings.push(format!(
                "the role {DEVICE_ROLE} has {made} rules now, which confine a device to its own topics: see `postern acl \
                 list`"
            ));
        }
        let certificate = match certificate {
            None => None,
            Some(request) => match self.certify(name, request).await {
                Ok(certificate) => Some(certificate),
                Err(error) => {
                    // A device without the certificate that it should have is none.
                    self.remove_user(name).await?;
                    return Err(error);
                }
            },
        };
        let message = format!("device {name} added");
        let certificate = (message, certificate);
        Ok(self.given(name, secret, place, certificate, warnings))
    }

    async fn rotate_device(&self, name: &str, reach: &ReachedBy) -> Result<Answer, AdminError> {
        self.device(name)?;
        let (place, warnings) = self.place(reach, false).await?;
        let (credential, secret) = self.device_secret(name)?;
        let _turn = self.turn().await?;
        self.accounts.rotate_device(name, &credential).await?;
        self.refresh().await?;
        self.tell(|live| live.password_changed(LOCAL_REALM, name))
            .await;
        let message = format!("device {name} has another secret");
        Ok(self.given(name, secret, place, (message, None), warnings))
    }

    /// First the certificates, so that nobody comes back with one as a client without an account; then the account,
    /// whatever became of the certificates' list.
    async fn revoke_device(&self, name: &str) -> Result<Answer, AdminError> {
        self.device(name)?;
        let reason = RevocationReason::CessationOfOperation;
        let revoked = match self.revoke_certificates_of_device(name, reason).await {
            Err(AdminError::NoCa) => Ok(0),
            revoked => revoked,
        };
        self.remove_user(name).await?;
        let certificates = match revoked? {
            0 => String::new(),
            1 => ", and so is its certificate".to_owned(),
            count => format!(", and so are its {count} certificates"),
        };
        let message = format!("device {name} revoked: its secret is worth nothing{certificates}");
        Ok(done(message, None, Vec::new()))
    }

    async fn list_devices(&self, after: Option<&str>) -> Result<Answer, AdminError> {
        let mut found = self.accounts.devices(after, Self::PAGE + 1).await?;
        let more = found.len() > Self::PAGE;
        found.truncate(Self::PAGE);
        let topics = found
            .iter()
            .map(|device| format!("devices/{}/firmware", device.name));
        let retained = match self.live.get() {
            Some(live) => live.retained_on(topics.collect(), FIRMWARE_MAX).await,
            None => Vec::new(),
        };
        let users = self.users.all();
        let devices = found
            .into_iter()
            .zip(retained.into_iter().chain(std::iter::repeat(None)))
            .filter_map(|(device, retained)| {
                // One that was revoked meanwhile has no account.
                let user = users.get(&*device.name)?;
                Some(self.device_line(device, user, retained))
            });
        Ok(Answer::Devices {
            devices: devices.collect(),
            more,
        })
    }

    fn device_line(
        &self,
        device: StoredDevice,
        user: &User,
        retained: Option<Box<[u8]>>,
    ) -> DeviceLine {
        let sightings = self.devices.get().and_then(|desk| desk.sightings.as_ref());
        let (connected, seen) = sightings.map_or((false, None), |all| all.of(&device.name));
        // An earlier device of this name may have left its mark.
        let seen = seen.filter(|seen| seen.at >= user.created_at);
        let told = seen.as_ref().and_then(|seen| seen.firmware.as_deref());
        let published = retained.and_then(|payload| String::from_utf8(payload.into()).ok());
        let published = published.filter(|text| is_firmware(text));
        DeviceLine {
            disabled: user.disabled,
            roles: user.roles.iter().map(|role| role.to_string()).collect(),
            created_at: user.created_at,
            rotated_at: device.rotated_at,
            connected,
            seen_at: seen.as_ref().map(|seen| seen.at).or(device.seen_at),
            address: seen
                .as_ref()
                .map(|seen| seen.address.to_string())
                .or(device.address),
            firmware: told.map(str::to_owned).or(device.firmware).or(published),
            name: device.name,
        }
    }

    fn device(&self, name: &str) -> Result<Arc<User>, AdminError> {
        let found = self.users.find(name).filter(|user| user.device);
        found.ok_or_else(|| StoreError::NoSuchDevice(name.to_owned()).into())
    }

    fn device_secret(&self, name: &str) -> Result<(Credential, Secret), AdminError> {
        let secret = generate_device_secret()?;
        let credential = self.authenticator.hash_secret(name, &secret);
        Ok((credential, Secret(secret)))
    }

    /// What the device is told; certificates are files, and no work for an async worker.
    async fn place(
        &self,
        reach: &ReachedBy,
        with_certificate: bool,
    ) -> Result<(Place, Vec<String>), AdminError> {
        let desk = self.devices.get().ok_or(AdminError::NoDoor)?;
        let certificates = self.certificates.get().cloned();
        let certificates = certificates.ok_or(AdminError::NoServerCertificate)?;
        let (broker, directory) = ((desk.broker)(), self.directory.clone());
        let reach = reach.clone();
        let placed = spawn_blocking(move || {
            let mut warnings = Vec::new();
            let wanted = (reach.host.as_deref(), reach.port);
            let place = broker.place(
                &certificates,
                &directory,
                wanted,
                with_certificate,
                &mut warnings,
            )?;
            Ok((place, warnings))
        });
        placed.await.map_err(|_| AdminError::Died)?
    }

    async fn certify(
        &self,
        name: &str,
        wanted: CertificateRequest,
    ) -> Result<GivenCertificate, AdminError> {
        let CertificateRequest { request, days } = wanted;
        let kind = CertificateKind::Device;
        let issued = self.issue_certificate(kind, name.to_owned(), Vec::new(), days, request);
        match issued.await? {
            Answer::Issued {
                certificate,
                ca,
                not_after,
                ..
            } => Ok(GivenCertificate {
                certificate,
                ca,
                not_after,
            }),
            _ => Err(AdminError::Died),
        }
    }

    fn given(
        &self,
        name: &str,
        secret: Secret,
        place: Place,
        (message, certificate): (String, Option<GivenCertificate>),
        mut warnings: Vec<String>,
    ) -> Answer {
        let roles = self
            .users
            .find(name)
            .map_or_else(|| [].into(), |user| user.roles.clone());
        let subject = Subject {
            realm: LOCAL_REALM,
            name,
            client_id: name,
            device: Some(name),
            roles: &roles,
            scopes: &[],
        };
        let permissions = self.policy.load().permissions(&subject);
        let allowed = |action| permissions.allowed(action).map(str::to_owned).collect();
        let (publish, subscribe): (Vec<String>, Vec<String>) =
            (allowed(Action::Publish), allowed(Action::Subscribe));
        if publish.is_empty() && subscribe.is_empty() {
            warnings.push(format!(
                "no rule allows {name} anything: write one for its role with `postern acl allow`"
            ));
        }
        Answer::Given(Box::new(DeviceGiven {
            message,
            id: name.to_owned(),
            secret,
            roles: roles.iter().map(|role| role.to_string()).collect(),
            place,
            publish,
            subscribe,
            certificate,
            warnings,
        }))
    }
}

/// The rules of the role that devices have unless told otherwise.
fn role_rules() -> Result<Vec<NewRule>, AdminError> {
    let rule = |(action, filter): &(Action, &str)| {
        Ok(stored(&Rule {
            id: 0,
            effect: Effect::Allow,
            action: *action,
            filter: filter.parse()?,
            who: Who::Role(DEVICE_ROLE.into()),
        }))
    };
    DEVICE_RULES.iter().map(rule).collect()
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
