//! One table of bad configurations and the exact words about them. When a message turns out to
//! mislead somebody, its configuration joins the table.

use super::report::report;

const BAD: &[(&str, &str)] = &[
    // Keys
    (
        "\n\n[limits]\nmax_conections = 5\n",
        r#"postern.toml:4: limits.max_conections = 5: unknown key; did you mean "max_connections"?"#,
    ),
    (
        "[limit]\nmax_connections = 5\n",
        r#"postern.toml:1: limit: unknown key; did you mean "limits"?"#,
    ),
    (
        "max_connections = 5\n",
        "postern.toml:1: max_connections = 5: unknown key; it belongs in [limits]",
    ),
    (
        "[sys]\nzebra = 5\n",
        "postern.toml:2: sys.zebra: unknown key; known here: interval",
    ),
    (
        "[listeners.mqtts]\nbnid = []\n",
        r#"postern.toml:2: listeners.mqtts.bnid = []: unknown key; did you mean "bind"?"#,
    ),
    (
        "[sys]\n\"a\\nb\" = 1\n",
        r#"postern.toml:2: sys."a\nb": unknown key; known here: interval"#,
    ),
    // Kinds
    (
        "limits = 5\n",
        "postern.toml:1: limits = 5: is a number; \
         write a table: [limits] and its keys on lines of their own",
    ),
    (
        "[[limits]]\nmax_connections = 5\n",
        "postern.toml:1: limits = [{...}]: is a list; \
         write a table: [limits] and its keys on lines of their own",
    ),
    (
        "[limits.max_connections]\n",
        "postern.toml:1: limits.max_connections: is a table; write a whole number",
    ),
    (
        "[limits]\nmax_connections = \"many\"\n",
        "postern.toml:2: limits.max_connections = \"many\": is a string; write a whole number",
    ),
    (
        "[auth]\nallow_anonymous = \"yes\"\n",
        "postern.toml:2: auth.allow_anonymous = \"yes\": is a string; write true or false",
    ),
    (
        "[auth]\nanonymous_role = 7\n",
        "postern.toml:2: auth.anonymous_role = 7: is a number; write a string in quotes",
    ),
    (
        "[tls]\nmin_version = 1.3\n",
        "postern.toml:2: tls.min_version = 1.3: is a fractional number; write \"1.2\" or \"1.3\"",
    ),
    (
        "data_dir = 2026-01-01\n",
        "postern.toml:1: data_dir = 2026-01-01: is a date; write a path in quotes",
    ),
    (
        "[limits]\nmax_sessions = 99999999999999999999999999999999999999999\n",
        "postern.toml:2: limits.max_sessions = 99999999999999999999999999999999999999999: \
         is too large a number; write a whole number",
    ),
    // Values
    (
        "data_dir = \"\"\n",
        "postern.toml:1: data_dir = \"\": is empty; write a path, or leave the key out",
    ),
    (
        "[log]\nlevel = \"verbose\"\n",
        "postern.toml:2: log.level = \"verbose\": is not a known value; \
         write \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
    ),
    (
        "[limits]\nmax_connections = 0\n",
        "postern.toml:2: limits.max_connections = 0: is out of range; use 1 to 1000000",
    ),
    (
        "[limits]\nmax_connections = -1\n",
        "postern.toml:2: limits.max_connections = -1: is negative; use 0 or more",
    ),
    (
        "[limits]\nreceive_maximum = 65_536\n",
        "postern.toml:2: limits.receive_maximum = 65536: is too large; use at most 65535",
    ),
    (
        "[limits]\nreceive_maximum = 0\n",
        "postern.toml:2: limits.receive_maximum = 0: is out of range; use 1 to 65535",
    ),
    (
        "[limits]\ntls_timeout = \"10 s\"\n",
        "postern.toml:2: limits.tls_timeout = \"10 s\": cannot be understood; \
         write a duration such as \"500ms\", \"10s\", \"5m\", \"2h\" or \"7d\"",
    ),
    (
        "[limits]\ntls_timeout = \"1h\"\n",
        "postern.toml:2: limits.tls_timeout = \"1h\": is out of range; use 10ms to 5m",
    ),
    (
        "[store]\ndurability = \"fsync\"\n",
        "postern.toml:2: store.durability = \"fsync\": is not a known value; \
         write \"power-loss\", \"process-crash\" or \"none\"",
    ),
    (
        "[store]\nretry = \"6m\"\n",
        "postern.toml:2: store.retry = \"6m\": is out of range; use 100ms to 5m",
    ),
    (
        "[store]\ncredit = \"1KiB\"\n",
        "postern.toml:2: store.credit = \"1KiB\": is out of range; use 64KiB to 4294967295B",
    ),
    (
        "[session]\nrestart_will_grace = \"1500ms\"\n",
        "postern.toml:2: session.restart_will_grace = \"1500ms\": \
         is not a whole number of seconds; drop the fraction",
    ),
    (
        "[limits]\nmax_stored_messages = 0\n",
        "postern.toml:2: limits.max_stored_messages = 0: is out of range; use 1 to 1000000000",
    ),
    (
        "[limits]\nmax_packet_size = \"1MB\"\n",
        "postern.toml:2: limits.max_packet_size = \"1MB\": cannot be understood; \
         write a size such as \"64KiB\", \"4MiB\" or a number of bytes",
    ),
    (
        "[limits]\nmax_packet_size = \"256MiB\"\n",
        "postern.toml:2: limits.max_packet_size = \"256MiB\": limits.max_packet_size (256MiB) is \
         larger than limits.memory_budget (192MiB); lower the first or raise the second",
    ),
    (
        "[limits]\nmax_packet_size = \"257MiB\"\n",
        "postern.toml:2: limits.max_packet_size = \"257MiB\": is out of range; \
         use 128B to 268435460B",
    ),
    (
        "[session]\nmax_keep_alive = \"1500ms\"\n",
        "postern.toml:2: session.max_keep_alive = \"1500ms\": is not a whole number of seconds; \
         drop the fraction",
    ),
    (
        "[session]\nmax_keep_alive = 65_536\n",
        "postern.toml:2: session.max_keep_alive = 65536: is out of range; use 1s to 65535s",
    ),
    (
        "[sys]\ninterval = \"5ms\"\n",
        "postern.toml:2: sys.interval = \"5ms\": is out of range; use 1s to 1d",
    ),
    (
        "[auth]\nanonymous_role = \"two words\"\n",
        "postern.toml:2: auth.anonymous_role = \"two words\": is not a role; \
         use up to 64 letters, digits, \"_\", \".\" and \"-\"",
    ),
    (
        "[tls]\nserver_names = [\"mqtt.example.org\",\n  \"under_score.org\"]\n",
        "postern.toml:2: tls.server_names = \"under_score.org\": is neither a DNS name nor an IP \
         address; write a name such as \"mqtt.example.org\" or an address such as \"192.0.2.1\"",
    ),
    (
        "[tls]\nserver_names = [\n  \"mqtt.example.org\",\n  5,\n]\n",
        "postern.toml:4: tls.server_names = 5: is a number; write a string in quotes",
    ),
    (
        "[tls]\nserver_names = \"192.0.2.256\"\n",
        "postern.toml:2: tls.server_names = \"192.0.2.256\": is neither a DNS name nor an IP \
         address; write a name such as \"mqtt.example.org\" or an address such as \"192.0.2.1\"",
    ),
    // Several keys
    (
        "[tls]\ncertificate = \"cert.pem\"\n",
        "postern.toml:2: tls.certificate = \"cert.pem\": is set without tls.private_key; \
         set both, or neither to use the built-in CA",
    ),
    (
        "[tls]\nprivate_key = \"key.pem\"\n",
        "postern.toml:2: tls.private_key = \"key.pem\": is set without tls.certificate; \
         set both, or neither to use the built-in CA",
    ),
    (
        "[bus]\nsegments = 2\n",
        "postern.toml:2: bus.segments = 2: bus.permits (4MiB) is more than (bus.segments - 1) * \
         bus.segment_size, 2097152 bytes: the log could lose messages; \
         lower bus.permits, or raise bus.segments or bus.segment_size",
    ),
    (
        "[limits]\nmemory_budget = \"1MiB\"\nmax_packet_size = \"2MiB\"\n",
        "postern.toml:3: limits.max_packet_size = \"2MiB\": limits.max_packet_size (2MiB) is \
         larger than limits.memory_budget (1MiB); lower the first or raise the second",
    ),
    // Listeners
    (
        "[listeners.mqtts]\nbind = [\"localhost:8883\"]\n",
        "postern.toml:2: listeners.mqtts.bind = \"localhost:8883\": is not an IP address with a \
         port; write an address and a port, such as \"0.0.0.0:8883\" or \"[::]:8883\"",
    ),
    (
        "[listeners.mqtt]\nbind = [\n  \"127.0.0.1:1883\",\n  \"192.0.2.1:1883\",\n]\n",
        "postern.toml:2: listeners.mqtt.bind = \"192.0.2.1:1883\": is not a loopback address, and \
         this listener has no TLS: passwords would cross the network readable; \
         bind 127.0.0.1 or [::1], set tls = true, or set allow_plain_remote = true",
    ),
    (
        "[listeners.mqtts]\ntls = false\n",
        "postern.toml:1: listeners.mqtts.bind = \"[::]:8883\": is not a loopback address, and \
         this listener has no TLS: passwords would cross the network readable; \
         bind 127.0.0.1 or [::1], set tls = true, or set allow_plain_remote = true",
    ),
    (
        "[listeners.mqqt]\nbind = [\"127.0.0.1:1884\"]\n",
        "postern.toml:1: listeners.mqqt: is a listener of your own without protocol; \
         add protocol, or did you mean \"mqtt\"?",
    ),
    (
        "[listeners.Garage]\nprotocol = \"mqtt\"\nbind = []\n",
        "postern.toml:1: listeners.Garage: is not a listener name; \
         use up to 32 lower-case letters, digits, - and _, a letter first",
    ),
    (
        "[listeners]\nmqtts = \"[::]:8883\"\n",
        "postern.toml:2: listeners.mqtts = \"[::]:8883\": is a string; \
         write a table: [listeners.mqtts] and its keys on lines of their own",
    ),
    (
        "[listeners.mqtts]\nprotocol = \"mqtt\"\npaths = [\"/mqtt\"]\n",
        "postern.toml:3: listeners.mqtts.paths: only a listener with WebSocket has paths; \
         remove it, or set protocol = \"any\" or \"websocket\"",
    ),
    (
        "[listeners.mqtt]\nmax_fragment_size = 512\n",
        "postern.toml:2: listeners.mqtt.max_fragment_size: only a listener with TLS has records; \
         remove it, or set tls = true",
    ),
    (
        "[listeners.mqtts]\nmax_fragment_size = \"17KiB\"\n",
        "postern.toml:2: listeners.mqtts.max_fragment_size = \"17KiB\": is out of range; \
         use 64B to 16KiB",
    ),
    (
        "[tls]\nciphers = [\"TLS_RSA_WITH_AES_128_CBC_SHA\"]\n",
        "postern.toml:2: tls.ciphers = \"TLS_RSA_WITH_AES_128_CBC_SHA\": is not a known value; \
         write \"intermediate\", \"modern\", or a list of IANA names such as \
         [\"TLS_AES_128_GCM_SHA256\", \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]",
    ),
    (
        "[tls]\nciphers = []\n",
        "postern.toml:2: tls.ciphers = []: is empty; \
         write \"intermediate\", \"modern\", or a list of IANA names such as \
         [\"TLS_AES_128_GCM_SHA256\", \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]",
    ),
    (
        "[tls]\nciphers = [\"TLS_AES_128_GCM_SHA256\", \"TLS_AES_128_GCM_SHA256\"]\n",
        "postern.toml:2: tls.ciphers = \"TLS_AES_128_GCM_SHA256\": is there twice; leave one out",
    ),
    (
        "[tls]\nmin_version = \"1.3\"\nciphers = \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"\n",
        "postern.toml:3: tls.ciphers = [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]: tls.ciphers \
         has no suite of TLS 1.3, and tls.min_version allows nothing older: nobody could connect; \
         add \"TLS_AES_128_GCM_SHA256\", or set min_version = \"1.2\"",
    ),
    (
        "[tls]\nsession_lifetime = \"30s\"\n",
        "postern.toml:2: tls.session_lifetime = \"30s\": is out of range; use 1m to 12h",
    ),
    // Issuers of tokens
    (
        "[oauth.home]\nissuer = \"https://id.example\"\n",
        "postern.toml:1: oauth.home: is a token issuer of your own without audience; add audience",
    ),
    (
        "[oauth.local]\nissuer = \"https://id.example\"\naudience = \"a\"\n",
        "postern.toml:1: oauth.local: is the realm of our own accounts; choose another name; \
         realm = \"local\" maps the issuer's names to our accounts",
    ),
    (
        "[oauth.home]\nissuer = \"http://id.example\"\naudience = \"a\"\n",
        "postern.toml:2: oauth.home.issuer = \"http://id.example\": is without TLS: whoever is in between \
         could let anybody in; use https; http is for an issuer on this machine (127.0.0.1, [::1], localhost)",
    ),
    (
        "[oauth.home]\nissuer = \"https://u@id.example\"\naudience = \"a\"\n",
        "postern.toml:2: oauth.home.issuer = \"https://u@id.example\": is not the URL of an issuer; \
         write one that begins with https://, such as \"https://id.example.org/realms/home\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = [\"any\", \"a\"]\n",
        "postern.toml:3: oauth.home.audience = [\"any\", \"a\"]: has \"any\" beside others; \
         leave out the others, or \"any\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = []\n",
        "postern.toml:3: oauth.home.audience = []: must have 1 to 16 entries; \
         write what the issuer puts into \"aud\" for this gateway, or \"any\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nalgorithms = \"none\"\n",
        "postern.toml:4: oauth.home.algorithms = \"none\": is not a known value; write \"ES256\", \
         \"ES384\", \"EdDSA\", \"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\" or \"PS512\"; with \
         secret_file \"HS256\", \"HS384\" or \"HS512\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nalgorithms = \"HS256\"\n",
        "postern.toml:4: oauth.home.algorithms: has one that needs a shared secret, and there is none; \
         set secret_file, or leave out HS256, HS384 and HS512",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nsecret_file = \"s\"\n",
        "postern.toml:4: oauth.home.secret_file: is set, and no algorithm uses a secret; \
         name one, such as algorithms = [\"HS256\"], or remove secret_file",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nsecret_file = \"s\"\n\
         algorithms = [\"HS256\", \"RS256\"]\n",
        "postern.toml:5: oauth.home.algorithms: has algorithms with a shared secret beside others; \
         name only one kind: who knows a public key must not be able to sign",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nkeys_file = \"k\"\n\
         jwks_url = \"https://id.example/k\"\n",
        "postern.toml:4: oauth.home.keys_file: is set beside jwks_url; name one source of keys",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nclient_id = \"c\"\n",
        "postern.toml:4: oauth.home.client_id: is for introspection; \
         remove it, or set mode = \"introspection\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nmode = \"introspection\"\nclient_id = \"c\"\nclient_secret_file = \"s\"\nalgorithms = \"ES256\"\n",
        "postern.toml:7: oauth.home.algorithms: is for tokens that are verified by keys; remove it, or set mode = \"jwt\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nmode = \"introspection\"\nclient_id = \"c\"\nclient_secret_file = \"s\"\nintrospection_url = \"https://id.example/i\"\nkeys_max_age = \"2h\"\n",
        "postern.toml:8: oauth.home.keys_max_age: is for an endpoint that is found by issuer; remove it, or introspection_url",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nrevalidate_every = \"1m\"\n",
        "postern.toml:4: oauth.home.revalidate_every: is for introspection; remove it, or set mode = \"introspection\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nmax_requests_per_second = 7\n",
        "postern.toml:4: oauth.home.max_requests_per_second: is for introspection; remove it, or set mode = \"introspection\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\ntoken_cache = 7\n",
        "postern.toml:4: oauth.home.token_cache: is for introspection; remove it, or set mode = \"introspection\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nkeys_file = \"k\"\nserver_root = \"r.pem\"\n",
        "postern.toml:5: oauth.home.server_root: is for keys that are fetched; remove it, or keys_file",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nkeys_file = \"k\"\ntimeout = \"1s\"\n",
        "postern.toml:5: oauth.home.timeout: is for keys that are fetched; remove it, or keys_file",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nkeys_file = \"k\"\nkeys_max_age = \"2h\"\n",
        "postern.toml:5: oauth.home.keys_max_age: is for keys that are fetched; remove it, or keys_file",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nsecret_file = \"h\"\nalgorithms = \"HS256\"\ntimeout = \"1s\"\n",
        "postern.toml:6: oauth.home.timeout: is for keys that are fetched; remove it, or secret_file",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nmode = \"introspection\"\n",
        "postern.toml:4: oauth.home.mode: needs client_id: an issuer answers only to clients that it \
         knows; set client_id and client_secret_file",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nusername_claim = \"n\"\n",
        "postern.toml:4: oauth.home.username_claim: is set, and the user name may be anything; \
         set username = \"match\", or remove it",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nroles = \"admin\"\n",
        "postern.toml:4: oauth.home.roles: is set without roles_claim; set both, or neither",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\n\
         default_roles = [\"a\", \"a b\"]\n",
        "postern.toml:4: oauth.home.default_roles = \"a b\": is not a role; \
         use up to 64 letters, digits, \"_\", \".\" and \"-\"",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\nrealm = \"local\"\n\
         default_roles = \"admin\"\n",
        "postern.toml:4: oauth.home.realm: maps names to our own accounts, whose roles are their own; \
         give the roles to the accounts, or leave out realm",
    ),
    (
        "[oauth.home]\nissuer = \"https://id.example\"\naudience = \"a\"\n\
         [oauth.work]\nissuer = \"https://id.example\"\naudience = \"b\"\n",
        "postern.toml:5: oauth.work.issuer = \"https://id.example\": is the issuer of oauth.home, too; \
         join the two sections",
    ),
    (
        "[oauth.home]\nissuer = \"https://a.example\"\naudience = \"a\"\nmode = \"introspection\"\n\
         client_id = \"c\"\nclient_secret_file = \"s\"\n\
         [oauth.work]\nissuer = \"https://b.example\"\naudience = \"b\"\nmode = \"introspection\"\n\
         client_id = \"c\"\nclient_secret_file = \"s\"\n",
        "postern.toml:10: oauth.work.mode: is introspection, as in oauth.home: a token does not say \
         whom to ask; let all issuers but one sign their tokens",
    ),
    // Client certificates
    (
        "[listeners.mqtt]\nclient_certificates = \"optional\"\n",
        "postern.toml:2: listeners.mqtt.client_certificates: needs TLS, and this listener has none; \
         set tls = true, or client_certificates = \"off\"",
    ),
    (
        "[listeners.mqtts]\nclient_certificates = \"optional\"\nrequire = \"both\"\n",
        "postern.toml:3: listeners.mqtts.require: asks for a certificate that client_certificates \
         does not; set client_certificates = \"required\"",
    ),
    (
        "[listeners.mqtts]\nrequire = \"both\"\n",
        "postern.toml:2: listeners.mqtts.require: asks for a certificate that client_certificates \
         does not; set client_certificates = \"required\"",
    ),
    (
        "[listeners.mqtts]\nclient_certificates = \"required\"\ncertificate_name = \"none\"\n",
        "postern.toml:3: listeners.mqtts.certificate_name: leaves a client with only a certificate \
         nameless; set require = \"both\", or name the field that holds the name",
    ),
    (
        "[listeners.mqtts]\nclient_certificates = \"required\"\nclient_cas = []\n",
        "postern.toml:3: listeners.mqtts.client_cas: is empty, and no fingerprint is listed: nobody \
         could pass; name a CA, such as \"own\", or list client_fingerprints",
    ),
    (
        "[listeners.mqtts]\nclient_certificates = \"required\"\nclient_crls = [\"a.crl\"]\n",
        "postern.toml:3: listeners.mqtts.client_crls: lists revocations of CAs that are not in \
         client_cas; add the file of the CA that signed them to client_cas; the list of the own CA \
         needs no key",
    ),
    (
        "[listeners.mqtts]\nclient_cas = [\"pinned=/ca.pem\"]\n",
        "postern.toml:2: listeners.mqtts.client_cas = \"pinned=/ca.pem\": has \"pinned\" for its \
         realm; use up to 64 letters, digits, \"-\", \"_\" and \".\", and not \"pinned\"; \
         \"local\" maps its names to our own accounts",
    ),
    (
        "[listeners.mqtts]\nclient_cas = [\"own\", \"own\"]\n",
        "postern.toml:2: listeners.mqtts.client_cas = [\"own\", \"own\"]: names a CA twice; \
         leave one out",
    ),
    (
        "[listeners.mqtts]\nclient_fingerprints = [\"00:11\"]\n",
        "postern.toml:2: listeners.mqtts.client_fingerprints = \"00:11\": is not a fingerprint; \
         write the SHA-256 of a certificate: 64 hexadecimal digits, with or without colons",
    ),
    (
        "[listeners.wss]\npaths = []\n",
        "postern.toml:2: listeners.wss.paths: is empty; \
         write a path such as \"/mqtt\", or set protocol = \"mqtt\"",
    ),
    (
        "[listeners.wss]\npaths = [\"mqtt\"]\n",
        "postern.toml:2: listeners.wss.paths = \"mqtt\": is not a path; \
         write it like \"/mqtt\", at most 256 characters",
    ),
    (
        "[listeners.wss]\nbind = [\"0.0.0.0:8883\"]\n",
        "postern.toml:2: listeners.wss.bind = \"0.0.0.0:8883\": takes the same address as \
         listeners.mqtts.bind ([::]:8883); choose another port, or turn one listener off",
    ),
    (
        "[listeners.mqtts]\nenabled = false\n[listeners.mqtt]\nenabled = false\n\
         [listeners.wss]\nbind = []\n",
        "postern.toml:1: listeners: no listener is on; \
         leave one enabled and bound, or remove the section for the defaults",
    ),
    (
        "[certificates.rsa]\ncertificate = \"c.pem\"\n",
        "postern.toml:2: certificates.rsa.certificate: is set without private_key; \
         set both, or remove the section",
    ),
    (
        "[certificates.rsa]\nprivate_key = \"k.pem\"\n",
        "postern.toml:2: certificates.rsa.private_key: is set without certificate; \
         set both, or remove the section",
    ),
    (
        "\n[certificates.rsa]\n",
        "postern.toml:2: certificates.rsa: names neither files nor domains; \
         set certificate and private_key, or domains",
    ),
    (
        "[certificates.default]\ncertificate = \"c\"\nprivate_key = \"k\"\n",
        "postern.toml:1: certificates.default: is the name of the certificate of [tls] or [acme]; \
         choose another name",
    ),
    (
        "[acme]\ndomains = [\"*.example.org\"]\n",
        "postern.toml:2: acme.domains = \"*.example.org\": is a wildcard, which only dns-01 can \
         prove; set challenge = \"dns-01\" and acme.dns_hook, or list the names one by one",
    ),
    // C2
    (
        "[acme]\ndomains = \"192.0.2.1\"\nchallenge = \"dns-01\"\ndns_hook = \"/h\"\n",
        "postern.toml:2: acme.domains = \"192.0.2.1\": is an IP address, which dns-01 cannot \
         prove; use challenge = \"http-01\" or \"tls-alpn-01\"",
    ),
    (
        "[acme]\ndomains = \"a.example\"\nchallenge = \"dns-01\"\n",
        "postern.toml:3: acme.challenge: needs acme.dns_hook; \
         name the program that sets the DNS records in acme.dns_hook",
    ),
    (
        "[acme]\ndomains = [\"a.example\", \"A.example\"]\n",
        "postern.toml:2: acme.domains = \"A.example\": is there twice; leave one out",
    ),
    (
        "[acme]\ncontact = \"ann\"\n",
        "postern.toml:2: acme.contact = \"ann\": is not a mail address; \
         write an address such as \"ann@example.org\"",
    ),
    (
        "[acme]\ndirectory = \"http://ca.example/\"\n",
        "postern.toml:2: acme.directory = \"http://ca.example/\": is not the URL of an ACME directory; \
         write one that begins with https://, such as \"https://acme-v02.api.letsencrypt.org/directory\"",
    ),
    (
        "[acme]\ndns_hook = [\"hook\"]\n",
        "postern.toml:2: acme.dns_hook = \"hook\": is not an absolute path; \
         write the whole path of the program, such as \"/etc/postern/dns-hook\"",
    ),
    (
        "[acme]\nexternal_account_key_id = \"k\"\n",
        "postern.toml:2: acme.external_account_key_id: is set without \
         acme.external_account_key_file; set both, or neither if the CA asks for no external account",
    ),
    (
        "[certificates.rsa]\ndomains = \"*.example.org\"\n",
        "postern.toml:2: certificates.rsa.domains = \"*.example.org\": is a wildcard, which only \
         dns-01 can prove; set challenge = \"dns-01\" and acme.dns_hook, or list the names one by one",
    ),
    (
        "[certificates.rsa]\ncertificate = \"c\"\nprivate_key = \"k\"\nreuse_key = true\n",
        "postern.toml:4: certificates.rsa.reuse_key: is for certificates that the gateway gets itself; \
         remove it, or set domains instead of certificate and private_key",
    ),
    (
        "[certificates.RSA]\ncertificate = \"c\"\nprivate_key = \"k\"\n",
        "postern.toml:1: certificates.RSA: is not a certificate name; \
         use up to 32 lower-case letters, digits, - and _, a letter first",
    ),
    (
        "[tls]\nwatch_interval = \"10ms\"\n",
        "postern.toml:2: tls.watch_interval = \"10ms\": is out of range; use 1s to 1d",
    ),
    // Syntax
    (
        "[limits]\nmax_connections = \n",
        "postern.toml:2: TOML syntax: string values must be quoted, expected literal string; \
         correct the line",
    ),
    (
        "[limits\nmax_connections = 5\n",
        "postern.toml:1: TOML syntax: unclosed table, expected `]`; correct the line",
    ),
    (
        "[sys]\ninterval = 1\ninterval = 2\n",
        "postern.toml:3: TOML syntax: duplicate key; correct the line",
    ),
    // Networks and proxies
    (
        "[bans]\nallow = [\"10.0.0.0/8\", \"10.0.0.1/8\"]\n",
        r#"postern.toml:2: bans.allow = "10.0.0.1/8": has bits behind its prefix; write "10.0.0.0/8""#,
    ),
    (
        "[bans]\ndeny = \"example.org\"\n",
        r#"postern.toml:2: bans.deny = "example.org": cannot be understood; write a network such as "10.0.0.0/8", "2001:db8::/32" or an address"#,
    ),
    (
        "[bans]\nduration = \"2h\"\nduration_max = \"1h\"\n",
        r#"postern.toml:2: bans.duration = "2h": bans.duration (2h) is longer than bans.duration_max (1h); shorten the first or lengthen the second"#,
    ),
    (
        "[listeners.mqtts]\nproxy_protocol = true\n",
        r#"postern.toml:2: listeners.mqtts.proxy_protocol: is set without trusted_proxies: nobody could connect; name the proxies, such as trusted_proxies = ["192.0.2.10"]"#,
    ),
    (
        "[listeners.mqtts]\ntrusted_proxies = \"192.0.2.10\"\n",
        r#"postern.toml:2: listeners.mqtts.trusted_proxies: is set without proxy_protocol = true; set both, or neither"#,
    ),
    (
        "[limits]\nmax_lag = \"1ms\"\n",
        r#"postern.toml:2: limits.max_lag = "1ms": is out of range; use 10ms to 1m"#,
    ),
];

#[test]
fn every_bad_configuration_is_refused_in_these_words() {
    let mut wrong = String::new();
    for (text, expected) in BAD {
        let found = report(text);
        if found != *expected {
            wrong += &format!("{text}  expected: {expected}\n  found:    {found}\n\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn more_than_64_listeners_are_refused_unread() {
    let text: String = (0..65)
        .map(|n| format!("[listeners.l{n}]\nx = 1\n"))
        .collect();
    let expected = "postern.toml:1: listeners: has 65 listeners, more than 64; \
                    let listeners bind several addresses instead";
    assert_eq!(report(&text), expected);
}
