use super::*;

fn config(values: &[(&'static str, &str)]) -> Config {
    Config { values: values.iter().map(|(name, value)| (*name, (*value).to_owned())).collect() }
}

#[test]
fn the_defaults_are_right() {
    let config = config(&[]);
    config.check().unwrap();
    assert_eq!(config.listen().unwrap().port(), 8_080);
    assert_eq!(config.session_ttl().unwrap(), Duration::from_secs(3_600));
    assert!(config.database().unwrap().is_none());
    assert!(config.admin_token().unwrap().is_none());
}

#[test]
fn a_wrong_value_is_one_clear_line() {
    for (name, value) in [
        ("LISTEN", "8080"),
        ("DATABASE_URL", "mysql://x"),
        ("DATABASE_URL", "postgres://ledger@db.example.com/ledger"),
        ("ADMIN_TOKEN", "short"),
        ("GATEWAY_ANSWERS_KEY", "short"),
        ("GATEWAY_TOKEN", "short"),
        ("COMMAND_URL", "http://ledger.example.com"),
        ("COMMAND_URL", "127.0.0.1:8080"),
        ("COMMAND_URL", "https://user@ledger.example.com"),
        ("GATEWAY_STORED_ANSWERS_HOURS", "0"),
        ("USER_ID_HMAC_KEY", "has blanks in it but is long enough otherwise"),
        ("GATEWAY_BASE_URL", "ftp://x"),
        ("LITELLM_BASE_URL", "localhost:4000"),
        ("LITELLM_BASE_URL", "http://user:secret@localhost"),
        ("SECRET_ENCRYPTION_KEY", "change-me"),
        ("SECRETS_DATABASE_URL", "postgres://ledger_secrets@db.example.com/ledger"),
        ("PROVIDER_URL_PORTS", "443,0"),
        ("PROVIDER_URL_REFUSED_NETWORKS", "10.0.0.1/8"),
        ("PROVIDER_URL_LOOPBACK", "10.0.0.1:443"),
        ("PROVIDER_URL_LOOPBACK", "localhost:4010"),
        ("PROVIDER_MAX_RETRIES", "3"),
        ("GATEWAY_MAX_ATTEMPTS", "0"),
        ("GATEWAY_MARK_INTERVAL_MS", "0"),
        ("GATEWAY_ABSORB_LOST_ROUTES", "platform, moon"),
        ("PROVIDER_TIMEOUT_MS", "0"),
        ("GATEWAY_IDLE_TIMEOUT_MS", "soon"),
        ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "-1"),
        ("GATEWAY_RATE_LIMIT_WINDOW_MS", "0"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://:password@redis.example.com"),
        ("REDIS_URL", "http://127.0.0.1:6379"),
        ("REDIS_TIMEOUT_MS", "0"),
        ("AMQP_URL", "rabbit:5672"),
        ("AMQP_URL", "amqp://ledger:password@broker.example.com"),
        ("PROJECTOR_FEED", "amqp"),
        ("PROJECTOR_FEED", "pigeon"),
        ("PROJECTOR_QUEUE", "two words"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        ("GATEWAY_CORS_ORIGINS", "app.example.com"),
        ("API_CORS_ORIGINS", "https://app.example.com/path"),
        ("STRIPE_SECRET_KEY", "sk_test_short"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_with a blank in it"),
        ("STRIPE_API_BASE_URL", "http://api.stripe.com"),
        ("STRIPE_API_BASE_URL", "https://key@api.stripe.com"),
        ("STRIPE_LIVEMODE", "yes"),
        ("PAYOUT_THRESHOLD_USD", "0"),
        ("PAYOUT_THRESHOLD_USD", "-1"),
        ("PAYOUT_PROVIDER", "cheque"),
        ("SESSION_TOKEN_TTL_SECONDS", "0"),
        ("SESSION_TOKEN_TTL_SECONDS", "an hour"),
        ("QUEUE_COMMANDS", "-1"),
        ("SNAPSHOT_EVERY_EVENTS", "0"),
        ("QUERY_POOL_SIZE", "0"),
        ("MIN_POSITION_WAIT_MS", "1e3"),
        ("MAX_CONNECTIONS", ""),
        ("LOG_LEVEL", "=loud="),
        ("LOG_FORMAT", "xml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
    ] {
        if value.is_empty() {
            continue;
        }
        let error = config(&[(name, value)]).check().unwrap_err().to_string();
        assert!(error.starts_with(name) && !error.contains('\n'), "{error}");
        let secret = SETTINGS.iter().any(|setting| setting.name == name && setting.secret);
        assert!(!secret || !error.contains(value), "a secret is not quoted: {error}");
    }
}

#[test]
fn off_this_machine_the_database_is_reached_with_tls_only() {
    let far = ("DATABASE_URL", "postgres://ledger_query@db.example.com/ledger");
    assert!(config(&[far]).database().is_err());
    let database = config(&[far, ("DATABASE_CA_FILE", "/ca.pem")]).database().unwrap().unwrap();
    assert_eq!(database.get_ssl_mode(), SslMode::Require);
    let near = ("DATABASE_URL", "postgres://ledger_query@%2Frun%2Fpostgresql/ledger");
    let database = config(&[near, ("DATABASE_CA_FILE", "/ca.pem")]).database().unwrap().unwrap();
    assert_eq!(database.get_ssl_mode(), SslMode::Prefer, "a Unix socket has no TLS");
}

#[test]
fn off_this_machine_redis_is_reached_with_tls_only() {
    let url = ("REDIS_URL", "rediss://ledger:password@redis.example.com:6379");
    let error = config(&[url]).check().unwrap_err().to_string();
    assert!(error.starts_with("REDIS_CA_FILE: is not set"), "{error}");
    let error = config(&[url, ("REDIS_CA_FILE", "/nowhere/ca.pem")]).check().unwrap_err().to_string();
    assert!(error.starts_with("REDIS_CA_FILE: /nowhere/ca.pem cannot be read"), "{error}");
    let near = config(&[("REDIS_URL", "redis://127.0.0.1:6379")]).redis("").unwrap().unwrap();
    assert!(near.authorities.is_none());
}

#[test]
fn authorities_that_cannot_be_read_stop_the_start() {
    let error = config(&[("DATABASE_CA_FILE", "/nowhere/ca.pem")]).trust().unwrap_err().to_string();
    assert!(error.starts_with("DATABASE_CA_FILE: /nowhere/ca.pem cannot be read"), "{error}");
}

#[test]
fn everybodys_pages_are_welcome_on_a_developers_machine_only() {
    let config = config(&[("API_CORS_ORIGINS", "*")]);
    assert!(config.edge(RateLimits::default(), true).is_ok());
    let error = config.edge(RateLimits::default(), false).unwrap_err().to_string();
    assert!(error.starts_with("API_CORS_ORIGINS: is *"), "{error}");
}

#[test]
fn providers_on_loopback_are_for_servers_on_loopback() {
    let named = ("PROVIDER_URL_LOOPBACK", "127.0.0.1:4010, [::1]:4011");
    assert_eq!(config(&[named]).provider_urls().unwrap().loopback.len(), 2);
    let error = config(&[named, ("LISTEN", "0.0.0.0:8080")]).check().unwrap_err().to_string();
    assert!(error.starts_with("PROVIDER_URL_LOOPBACK"), "{error}");
    assert!(config(&[("LISTEN", "0.0.0.0:8080")]).check().is_ok());
}

#[test]
fn every_setting_is_documented() {
    let text = help();
    for setting in SETTINGS {
        assert!(text.contains(setting.name) && setting.about.ends_with('.'), "{}", setting.name);
    }
}
