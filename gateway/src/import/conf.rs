//! `mosquitto.conf` and what it includes: listeners, where users and rules are, bridges, and everything else by name.

use std::fs;
use std::path::{Path, PathBuf};

use super::ImportError;
use super::files::{self, CONF_MAX, Line, Place};
use super::options::{Scope, scope};

/// Files that `include_dir` may bring.
const INCLUDED_MAX: usize = 200;

/// The configuration as Mosquitto reads it.
#[derive(Debug, Default)]
pub(super) struct Conf {
    pub per_listener: bool,
    /// In the order of the file; the default listener first, if it is used.
    pub listeners: Vec<Listener>,
    /// What holds for all listeners unless `per_listener`.
    pub security: Security,
    pub bridges: Vec<Bridge>,
    pub settings: Vec<Setting>,
}

#[derive(Debug, Default)]
pub(super) struct Listener {
    /// `None` for the one that is there without being asked for.
    pub place: Option<Place>,
    pub port: u16,
    /// An address, a host name, or the path of a Unix socket if the port is 0.
    pub host: Option<String>,
    pub settings: Vec<Setting>,
    pub security: Security,
}

/// Who may come in and what they may do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Security {
    pub password_file: Option<Setting>,
    pub acl_file: Option<Setting>,
    pub allow_anonymous: Option<bool>,
    pub psk_file: Option<Setting>,
    pub plugins: Vec<Plugin>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plugin {
    pub setting: Setting,
    /// `plugin_opt_NAME VALUE` as `NAME`.
    pub options: Vec<Setting>,
}

#[derive(Debug)]
pub(super) struct Bridge {
    pub setting: Setting,
    /// Without the values of secrets.
    pub settings: Vec<Setting>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub place: Place,
    pub key: String,
    pub value: String,
}

impl Conf {
    /// Reads the file and those of its `include_dir`s.
    pub fn read(path: &Path) -> Result<Conf, ImportError> {
        let mut reader = Reader::default();
        reader.file(path, true)?;
        Ok(reader.finish())
    }

    /// The option that makes each client's identifier its user name, if it is on anywhere.
    pub fn username_as_client_id(&self) -> Option<&Setting> {
        let of_listeners = self.listeners.iter().flat_map(|one| &one.settings);
        let mut all = self.settings.iter().chain(of_listeners);
        all.find(|setting| setting.key == "use_username_as_clientid" && setting.value == "true")
    }

    /// Whose users and rules: those of all listeners, or with `per_listener` those of the listener on this port. `path`
    /// is for errors.
    pub fn chosen(&self, path: &Path, port: Option<u16>) -> Result<&Security, ImportError> {
        let ports = || {
            let ports = self
                .listeners
                .iter()
                .map(|listener| listener.port.to_string());
            ports.collect::<Vec<_>>().join(", ")
        };
        let known = |port| self.listeners.iter().find(|listener| listener.port == port);
        match (port.map(|port| (port, known(port))), self.per_listener) {
            (Some((port, None)), _) => Err(ImportError::NoListener {
                path: path.to_owned(),
                port,
                known: ports(),
            }),
            (_, false) => Ok(&self.security),
            (Some((_, Some(listener))), true) => Ok(&listener.security),
            (None, true) => {
                let mut all = self.listeners.iter().map(|listener| &listener.security);
                let first = all.next().unwrap_or(&self.security);
                match all.all(|other| first.is_same(other)) {
                    true => Ok(first),
                    false => Err(ImportError::Listeners(ports())),
                }
            }
        }
    }
}

impl Plugin {
    /// What Mosquitto 2.1 has as plugins, and its option of the same name.
    pub fn file(&self) -> Option<&'static str> {
        let path = &self.setting.value;
        let known = [
            ("mosquitto_acl_file", "acl_file"),
            ("mosquitto_password_file", "password_file"),
        ];
        known
            .into_iter()
            .find(|(plugin, _)| path.contains(plugin))
            .map(|(_, option)| option)
    }
}

impl Security {
    /// Whether both say the same, wherever it stands.
    pub fn is_same(&self, other: &Security) -> bool {
        let value = |setting: &Setting| (setting.key.clone(), setting.value.clone());
        let file = |setting: &Option<Setting>| setting.as_ref().map(value);
        let plugins = |all: &[Plugin]| -> Vec<_> {
            let texts = all.iter().map(|plugin| {
                let options: Vec<_> = plugin.options.iter().map(value).collect();
                (value(&plugin.setting), options)
            });
            texts.collect()
        };
        file(&self.password_file) == file(&other.password_file)
            && file(&self.acl_file) == file(&other.acl_file)
            && file(&self.psk_file) == file(&other.psk_file)
            && self.allow_anonymous.unwrap_or(false) == other.allow_anonymous.unwrap_or(false)
            && plugins(&self.plugins) == plugins(&other.plugins)
    }
}

impl Listener {
    /// The last setting of this name.
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().rfind(|setting| setting.key == key)
    }

    pub fn is_set(&self, key: &str) -> bool {
        self.setting(key)
            .is_some_and(|setting| is_true(&setting.value))
    }

    pub fn has_tls(&self) -> bool {
        self.setting("certfile").is_some() || self.setting("psk_hint").is_some()
    }
}

impl Setting {
    pub fn path(&self) -> PathBuf {
        PathBuf::from(&self.value)
    }

    pub fn bool(&self) -> Result<bool, ImportError> {
        match self.value.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => {
                let problem = format!("{} is {other:?}; Mosquitto knows true and false", self.key);
                Err(self.place.error(problem))
            }
        }
    }
}

pub(super) fn is_true(value: &str) -> bool {
    matches!(value, "true" | "1")
}

#[derive(Default)]
struct Reader {
    conf: Conf,
    /// `port`, `bind_address` and everything before the first `listener`.
    default: Listener,
    default_used: bool,
    files: usize,
}

impl Reader {
    fn file(&mut self, path: &Path, main: bool) -> Result<(), ImportError> {
        self.files += 1;
        if self.files > INCLUDED_MAX {
            return Err(ImportError::TooManyFiles {
                path: path.to_owned(),
                max: INCLUDED_MAX,
            });
        }
        for line in files::lines(path, CONF_MAX)? {
            let Some(setting) = setting(line)? else {
                continue;
            };
            if setting.key != "include_dir" {
                self.setting(setting)?;
                continue;
            }
            if !main {
                let problem =
                    "include_dir in an included file: Mosquitto does not follow it; remove it";
                return Err(setting.place.error(problem));
            }
            for included in included(&setting.path())? {
                self.file(&included, false)?;
            }
        }
        Ok(())
    }

    fn setting(&mut self, setting: Setting) -> Result<(), ImportError> {
        match scope(&setting.key) {
            Scope::Listener if setting.key == "listener" => self.listener(setting)?,
            Scope::Listener if setting.key == "port" => {
                self.default.port = port(&setting, &setting.value)?;
                self.default.place = Some(setting.place);
                self.default_used = true;
            }
            Scope::Listener if setting.key == "bind_address" => {
                self.default.host = Some(setting.value);
                self.default.place = Some(setting.place);
                self.default_used = true;
            }
            Scope::Listener => self.current().settings.push(setting),
            Scope::Security => self.security(setting)?,
            Scope::Bridge if setting.key == "connection" => self.conf.bridges.push(Bridge {
                setting,
                settings: Vec::new(),
            }),
            Scope::Bridge => {
                let Some(bridge) = self.conf.bridges.last_mut() else {
                    let problem = format!(
                        "{} before any connection; Mosquitto would not start",
                        setting.key
                    );
                    return Err(setting.place.error(problem));
                };
                bridge.settings.push(without_secret(setting));
            }
            Scope::Global if setting.key == "per_listener_settings" => {
                self.conf.per_listener = setting.bool()?;
            }
            Scope::Global => self.conf.settings.push(setting),
        }
        Ok(())
    }

    fn listener(&mut self, setting: Setting) -> Result<(), ImportError> {
        let mut words = setting.value.splitn(2, ' ');
        let number = port(&setting, words.next().unwrap_or_default())?;
        self.conf.listeners.push(Listener {
            port: number,
            host: words.next().map(|host| host.trim().to_owned()),
            place: Some(setting.place),
            ..Listener::default()
        });
        Ok(())
    }

    fn security(&mut self, setting: Setting) -> Result<(), ImportError> {
        let security = match self.conf.per_listener {
            true => &mut self.current().security,
            false => &mut self.conf.security,
        };
        match setting.key.as_str() {
            "password_file" => security.password_file = Some(setting),
            "acl_file" => security.acl_file = Some(setting),
            "psk_file" => security.psk_file = Some(setting),
            "allow_anonymous" => security.allow_anonymous = Some(setting.bool()?),
            "plugin" | "auth_plugin" | "global_plugin" | "plugin_load" => {
                security.plugins.push(Plugin {
                    setting,
                    options: Vec::new(),
                });
            }
            _ => {
                let name = ["plugin_opt_", "auth_opt_"]
                    .iter()
                    .find_map(|prefix| setting.key.strip_prefix(prefix));
                let file = security.plugins.last().and_then(|plugin| plugin.file());
                match (name.map(str::to_owned), security.plugins.last_mut()) {
                    (Some(key), _) if file == Some(key.as_str()) => match key.as_str() {
                        "acl_file" => security.acl_file = Some(setting),
                        _ => security.password_file = Some(setting),
                    },
                    (Some(key), Some(plugin)) => plugin.options.push(Setting { key, ..setting }),
                    (Some(_), None) => {
                        let problem = format!(
                            "{} before any plugin; Mosquitto would not start",
                            setting.key
                        );
                        return Err(setting.place.error(problem));
                    }
                    (None, _) => self.conf.settings.push(setting),
                }
            }
        }
        Ok(())
    }

    fn current(&mut self) -> &mut Listener {
        match self.conf.listeners.last_mut() {
            Some(listener) => listener,
            None => &mut self.default,
        }
    }

    fn finish(mut self) -> Conf {
        let none = self.conf.listeners.is_empty();
        if none || self.default_used {
            if !self.default_used {
                // Since 2.0: on loopback only, and open.
                self.default.host = Some("localhost".to_owned());
                let security = match self.conf.per_listener {
                    true => &mut self.default.security,
                    false => &mut self.conf.security,
                };
                security.allow_anonymous.get_or_insert(true);
            }
            if self.default.port == 0 {
                self.default.port = 1883;
            }
            self.conf.listeners.insert(0, self.default);
        }
        self.conf
    }
}

/// `None` for a comment or an empty line.
fn setting(line: Line) -> Result<Option<Setting>, ImportError> {
    let text = line.text.trim_start();
    if text.is_empty() || line.text.starts_with('#') {
        return Ok(None);
    }
    let (key, value) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    if value.trim().is_empty() {
        let problem = format!("{key:?} has no value; Mosquitto would not start");
        return Err(line.place.error(problem));
    }
    Ok(Some(Setting {
        place: line.place,
        key: key.to_owned(),
        value: value.trim().to_owned(),
    }))
}

fn port(setting: &Setting, text: &str) -> Result<u16, ImportError> {
    text.parse().map_err(|_| {
        let problem = format!("{text:?} is not a port number from 0 to 65535");
        setting.place.error(problem)
    })
}

fn without_secret(setting: Setting) -> Setting {
    let secret = [
        "remote_password",
        "local_password",
        "password",
        "bridge_psk",
    ];
    match secret.contains(&setting.key.as_str()) {
        true => Setting {
            value: "(not shown)".to_owned(),
            ..setting
        },
        false => setting,
    }
}

/// The `.conf` files of a folder, in the order in which Mosquitto reads them: alphabetical, of the same letter the upper
/// case first.
fn included(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let failed = |source| ImportError::File {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.ends_with(".conf") {
            names.push(name.to_owned());
        }
        if names.len() > INCLUDED_MAX {
            return Err(ImportError::TooManyFiles {
                path: folder.to_owned(),
                max: INCLUDED_MAX,
            });
        }
    }
    names.sort_by_key(|name| (name.to_ascii_lowercase(), name.clone()));
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}
