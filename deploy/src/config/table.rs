//! The table of all settings, and its text for people.

use std::fmt::Write as _;

/// One setting.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    /// What it is counted in; empty for texts.
    pub(crate) unit: &'static str,
    /// What it is if it is not set; empty: nothing.
    pub(crate) default: &'static str,
    pub(crate) secret: bool,
    pub(crate) about: &'static str,
}

const fn setting(name: &'static str, unit: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { name, unit, default, secret: false, about }
}

const fn secret(name: &'static str, about: &'static str) -> Setting {
    Setting { name, unit: "", default: "", secret: true, about }
}

/// Every setting.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "LISTEN",
        "address:port",
        "127.0.0.1:8080",
        "Where HTTP is served (flag --listen). Off loopback only behind an ingress with TLS.",
    ),
    setting("DATA_DIR", "path", "./data", "Where `up` keeps its PostgreSQL and its secrets (flag --data-dir)."),
    secret(
        "DATABASE_URL",
        "PostgreSQL to use instead of a private one (flag --database-url). For `up` and `migrate`: as a role that may create roles. For a single role: as that role, for example ledger_command. Off loopback only with DATABASE_CA_FILE.",
    ),
    setting(
        "DATABASE_CA_FILE",
        "path",
        "",
        "PEM file of the authorities that vouch for PostgreSQL. With it every connection over TCP uses TLS and checks the server's certificate and name.",
    ),
    secret("ADMIN_TOKEN", "The administrator's token, at least 32 characters. `up` makes one if there is none."),
    secret(
        "STAFF_TOKEN",
        "For tools on the database, such as `modelfaucet projection`: who is at the keyboard, as a staff token. Absent: the user of the operating system, which proves nothing.",
    ),
    secret(
        "USER_ID_HMAC_KEY",
        "Key of the HMAC that stands for apps' own user ids, at least 32 characters. Never change it: users would get new wallets. `up` makes one if there is none.",
    ),
    secret(
        "SECRET_ENCRYPTION_KEY",
        "What provider keys are encrypted with, at least 32 random characters. Several, divided by blanks or line ends, as ID:KEY: the first one encrypts, all decrypt (`modelfaucet keys`). `up` makes one if there is none. Whoever loses it loses the provider keys.",
    ),
    secret(
        "SECRETS_DATABASE_URL",
        "For `command` and `gateway` as single roles, and `modelfaucet keys`: the database as ledger_secrets. Absent: no provider keys are taken or used. Off loopback only with DATABASE_CA_FILE.",
    ),
    setting(
        "PROVIDER_URL_PORTS",
        "ports",
        "",
        "Ports beside 443 that addresses of users' and developers' providers may name, divided by commas.",
    ),
    setting(
        "PROVIDER_URL_REFUSED_NETWORKS",
        "blocks of addresses",
        "",
        "Public addresses that those may not lead to: your own networks and NAT64 prefixes, such as 198.51.0.0/16,64:ff9b:2::/96.",
    ),
    setting(
        "PROVIDER_URL_LOOPBACK",
        "addresses and ports",
        "",
        "For tests on one machine: addresses on loopback that those may name, in plain text too, such as 127.0.0.1:4010. Whoever may store a provider key reaches what listens there, so it is refused unless LISTEN is on loopback.",
    ),
    setting(
        "PG_BINDIR",
        "path",
        "",
        "Directory of initdb and postgres, for the private PostgreSQL; absent: the newest one found.",
    ),
    setting(
        "GATEWAY_BASE_URL",
        "URL",
        "",
        "Where clients find the gateway; part of the session reply. Absent: http://LISTEN/v1.",
    ),
    setting(
        "LITELLM_BASE_URL",
        "URL",
        "",
        "Where the gateway sends platform calls: LiteLLM or another OpenAI-compatible API, with or without /v1. Absent: `up` starts a sandbox provider that makes answers up.",
    ),
    setting(
        "COMMAND_URL",
        "URL",
        "",
        "Where a gateway without a database finds the command side, such as http://127.0.0.1:8080 (flag --command-url). Plain HTTP on loopback only. Absent: the gateway has a writer of its own.",
    ),
    secret(
        "GATEWAY_TOKEN",
        "The token of gateways without a database, at least 32 characters. Given to `command` or `up`, these serve them.",
    ),
    secret("LITELLM_MASTER_KEY", "The key for LITELLM_BASE_URL."),
    setting(
        "PROVIDER_TIMEOUT_MS",
        "milliseconds",
        "",
        "How long the first byte of an answer may take; absent: 60000 for streams, 300000 otherwise.",
    ),
    setting(
        "PROVIDER_MAX_RETRIES",
        "tries",
        "1",
        "How often a failed call is sent again to the same target before its first byte, 0 to 2.",
    ),
    setting("GATEWAY_MAX_ATTEMPTS", "tries", "3", "How often a call is sent in all, fallbacks included, 1 to 10."),
    setting("PROVIDER_RETRY_DELAY_MS", "milliseconds", "250", "Pause before the second try; doubles from try to try."),
    setting(
        "GATEWAY_IDLE_TIMEOUT_MS",
        "milliseconds",
        "60000",
        "How long a stream may be silent; comments do not count.",
    ),
    setting("GATEWAY_TOTAL_TIMEOUT_MS", "milliseconds", "600000", "How long a whole call may take."),
    setting(
        "GATEWAY_DRAIN_TIMEOUT_MS",
        "milliseconds",
        "120000",
        "How long an answer is read on after its client has gone.",
    ),
    setting(
        "GATEWAY_MARK_INTERVAL_MS",
        "milliseconds",
        "10000",
        "How often a long stream leaves a mark in the log, by which it is charged if the gateway dies.",
    ),
    setting(
        "GATEWAY_ABSORB_LOST_ROUTES",
        "routes",
        "",
        "Routes whose calls are given back if their gateway dies, whatever their marks say: platform, developer_key, byok, with commas between.",
    ),
    setting(
        "GATEWAY_DEFAULT_MAX_TOKENS",
        "tokens",
        "4096",
        "Output cap of requests that name none, where the feature names none either.",
    ),
    setting(
        "GATEWAY_TAKEOVER_MS",
        "milliseconds",
        "30000",
        "How long another gateway must have been away before this one ends its holds.",
    ),
    setting("GATEWAY_MAX_CALLS", "calls", "10000", "Calls at once; more are refused with 503."),
    setting("GATEWAY_MAX_STREAMS", "streams", "10000", "Streams among them; more are refused with 503."),
    setting(
        "GATEWAY_MEMORY_BYTES",
        "bytes",
        "268435456",
        "Memory for whole answers and large events, all calls together; at this new calls are refused with 503.",
    ),
    setting(
        "GATEWAY_STORED_ANSWERS_BYTES",
        "bytes",
        "67108864",
        "Memory for answers that are repeated to the same idempotency key.",
    ),
    setting("GATEWAY_STORED_ANSWERS_HOURS", "hours", "24", "How long answers are kept for repeats, over restarts too."),
    secret(
        "GATEWAY_ANSWERS_KEY",
        "Key that seals kept answers, at least 32 characters, the same for all gateways of a ledger. `up` makes one if there is none; a gateway alone without it keeps answers in memory only.",
    ),
    setting(
        "GATEWAY_RATE_LIMIT_MAX_REQUESTS",
        "requests",
        "1200",
        "Calls of one session per window; 0: no limit. So with all of these.",
    ),
    setting(
        "GATEWAY_RATE_LIMIT_MAX_TOKENS",
        "tokens",
        "0",
        "Tokens of one session per window: the bound of a call when it begins, what it used when it has ended.",
    ),
    setting("GATEWAY_RATE_LIMIT_USER_REQUESTS", "requests", "0", "Calls of one user per window, over all sessions."),
    setting("GATEWAY_RATE_LIMIT_USER_TOKENS", "tokens", "0", "Tokens of one user per window."),
    setting("GATEWAY_RATE_LIMIT_APP_REQUESTS", "requests", "0", "Calls of one app per window, over all users."),
    setting("GATEWAY_RATE_LIMIT_APP_TOKENS", "tokens", "0", "Tokens of one app per window."),
    setting(
        "GATEWAY_RATE_LIMIT_ADDRESS_REQUESTS",
        "requests",
        "12000",
        "Requests of one address to the gateway per window, before anybody asks who it is. Loopback is not limited.",
    ),
    setting("GATEWAY_RATE_LIMIT_WINDOW_MS", "milliseconds", "60000", "The window of the gateway's limits."),
    setting(
        "API_RATE_LIMIT_MAX_REQUESTS",
        "requests",
        "1200",
        "Requests of one address to one route of the API per window; 0: no limit. Loopback is not limited.",
    ),
    setting("API_RATE_LIMIT_WINDOW_MS", "milliseconds", "60000", "The window of the API's limit."),
    secret(
        "REDIS_URL",
        "Redis in which instances share their rate limits (flag --redis-url), such as redis://127.0.0.1:6379. Absent, or away: each counts for itself. Off loopback only with rediss:// and REDIS_CA_FILE.",
    ),
    setting("REDIS_CA_FILE", "path", "", "PEM file of the authorities that vouch for a Redis behind rediss://."),
    setting("REDIS_TIMEOUT_MS", "milliseconds", "20", "How long a request waits for Redis."),
    secret(
        "AMQP_URL",
        "RabbitMQ to which `relay`, `projector` and `up` publish the log, such as amqp://user:password@127.0.0.1:5672/%2f. Absent: nothing is published. Off loopback only with amqps:// and AMQP_CA_FILE.",
    ),
    setting("AMQP_CA_FILE", "path", "", "PEM file of the authorities that vouch for a RabbitMQ behind amqps://."),
    setting(
        "PROJECTOR_FEED",
        "",
        "log",
        "Where `projector` takes events from: log, or amqp (needs AMQP_URL; the log is still read for whatever the broker does not bring).",
    ),
    setting(
        "PROJECTOR_QUEUE",
        "",
        "modelfaucet.projector",
        "The queue of projectors that are fed by the broker. Those on one queue take turns: one gets all messages.",
    ),
    setting(
        "TRUSTED_PROXIES",
        "blocks",
        "",
        "Whose X-Forwarded-For is believed, such as 127.0.0.1/32,10.0.0.0/8. Absent: nobody's.",
    ),
    setting(
        "GATEWAY_CORS_ORIGINS",
        "origins",
        "",
        "Whose pages may call the gateway from a browser, such as https://app.example.com,http://localhost:3000. * is everybody, for `up` on loopback only.",
    ),
    setting("API_CORS_ORIGINS", "origins", "", "Whose pages may call the API from a browser; as GATEWAY_CORS_ORIGINS."),
    secret(
        "STRIPE_SECRET_KEY",
        "Stripe's secret key, for checkouts, refunds and sweeps. Absent: checkouts and refunds are refused.",
    ),
    secret(
        "STRIPE_WEBHOOK_SECRET",
        "What Stripe signs its webhooks with (whsec_…). Absent: the endpoint /v1/stripe/webhook does not exist.",
    ),
    setting(
        "STRIPE_API_BASE_URL",
        "URL",
        "https://api.stripe.com",
        "Where Stripe's API is; plain HTTP on loopback only.",
    ),
    setting(
        "STRIPE_LIVEMODE",
        "",
        "",
        "true or false: the mode whose events are taken. Absent: true if the secret key is a live one.",
    ),
    setting(
        "STRIPE_ACCOUNT_ID",
        "",
        "",
        "The connected account (acct_…) whose events are taken; absent: only events of the own account.",
    ),
    setting(
        "PAYOUT_THRESHOLD_USD",
        "USD",
        "1.00000000",
        "What a developer must be owed for a payout run to request a payout.",
    ),
    setting(
        "PAYOUT_PROVIDER",
        "",
        "mock",
        "Who pays developers out unless a request names another: mock (pays nothing), or bank (a file that a person carries to the bank).",
    ),
    setting("SESSION_TOKEN_TTL_SECONDS", "seconds", "3600", "Life of a session, 1 to 2592000."),
    setting(
        "QUEUE_COMMANDS",
        "commands",
        "65536",
        "How many commands may wait for the writer; more are refused with 503.",
    ),
    setting(
        "SNAPSHOT_EVERY_EVENTS",
        "events",
        "100000",
        "How often the writer's state is saved, so that a cold start is short.",
    ),
    setting("QUERY_POOL_SIZE", "connections", "8", "Database connections for reading."),
    setting("MIN_POSITION_WAIT_MS", "milliseconds", "2000", "How long a read waits for its min_position."),
    setting("MAX_CONNECTIONS", "connections", "1024", "Open HTTP connections."),
    setting(
        "MAX_CONNECTIONS_PER_ADDRESS",
        "connections",
        "64",
        "Open HTTP connections of one address; loopback is not limited.",
    ),
    setting(
        "BACKUP_DIR",
        "path",
        "",
        "Repository of backups, on another disk or host and encrypted there (docs/BACKUP.md). With it `up` copies the WAL and witnesses the log's head. Absent: no backups.",
    ),
    setting("BACKUP_KEEP", "base backups", "7", "How many base backups `backup run` keeps at least."),
    setting("BACKUP_KEEP_DAYS", "days", "7", "How long `backup run` keeps every base backup and its WAL."),
    setting(
        "HEADS_DIR",
        "path",
        "",
        "Where seen heads of the log are kept. A writer that is given it refuses a log that ends below them, exit 6. Absent: BACKUP_DIR/heads.",
    ),
    secret(
        "LOG_SIGNING_KEY",
        "What `log head` signs with, at least 32 random characters; absent: the key that `log key` keeps in DATA_DIR/secrets.",
    ),
    setting(
        "LOG_LEVEL",
        "",
        "info",
        "error, warn, info, debug or trace; also directives such as warn,modelfaucet_command=debug.",
    ),
    setting("LOG_FORMAT", "", "text", "text or json, on standard error."),
    setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "URL",
        "",
        "OpenTelemetry collector that takes traces as OTLP over HTTP, for example http://127.0.0.1:4318. Absent: no traces.",
    ),
    setting("OTEL_SERVICE_NAME", "", "", "Name of this process in traces; absent: modelfaucet-ROLE."),
    setting("OTEL_TRACES_SAMPLER_ARG", "share", "1", "Share of requests that are traced, 0 to 1."),
];

/// The text of `modelfaucet help config`.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Settings come from the environment; a flag of the same name wins. A secret may come from a file instead:\nNAME_FILE names it.\n",
    );
    for setting in SETTINGS {
        let mut facts = Vec::new();
        if !setting.unit.is_empty() {
            facts.push(setting.unit.to_owned());
        }
        if !setting.default.is_empty() {
            facts.push(format!("default {}", setting.default));
        }
        if setting.secret {
            facts.push("secret".to_owned());
        }
        let _infallible = writeln!(
            text,
            "\n  {}{}",
            setting.name,
            if facts.is_empty() { String::new() } else { format!("  ({})", facts.join(", ")) }
        );
        let _infallible = writeln!(text, "      {}", setting.about);
    }
    text
}
