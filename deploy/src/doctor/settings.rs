//! Settings and secrets: what is missing, what could be guessed, what is meant for tests.

use modelfaucet_gateway::limit::RateLimits;

use super::report::{Level, Report};
use crate::config::Config;
use crate::secrets::Secrets;

/// Looks at the settings of this environment and at the secrets of the data directory.
pub(super) fn examine(config: &Config, report: &mut Report) {
    report.ok("settings", "can be read");
    let guessable = config.guessable_secrets();
    report.judge(
        "secrets",
        guessable.is_empty(),
        Level::Refuse,
        if guessable.is_empty() {
            "none can be guessed".to_owned()
        } else {
            format!("{} can be guessed", guessable.join(", "))
        },
        "make it of 32 random characters",
    );
    let open = config.open_origins();
    let near = config.listen().is_ok_and(|listen| listen.ip().is_loopback());
    if open.is_empty() {
        report.ok("origins", "no wildcard");
    } else {
        let level = if near { Level::Warn } else { Level::Refuse };
        report.add("origins", level, format!("{} is *", open.join(" and ")), "name the origins");
    }
    if let Err(error) = config.edge(RateLimits::default(), near) {
        report.add("edge", Level::Refuse, error.to_string(), "correct the setting");
    }
    kept(config, report);
    stripe(config, report);
    if !near {
        let level = if config.is_set("REDIS_URL") { Level::Ok } else { Level::Warn };
        let what = if level == Level::Ok { "instances share their limits" } else { "each instance limits for itself" };
        report.add("limits", level, what, if level == Level::Ok { "" } else { "set REDIS_URL where several run" });
    }
}

/// What has to be there before something needs it. `up` makes and keeps it; single roles get it from the environment.
fn kept(config: &Config, report: &mut Report) {
    let data_dir = config.data_dir();
    let place = data_dir.join("secrets");
    let secrets = place.is_dir().then(|| Secrets::open(&data_dir).ok()).flatten();
    if let Some(problem) = place.is_dir().then(|| open_to_others(&place)).flatten() {
        report.add("secrets", Level::Fail, problem, "chmod 700 the folder and 600 the files");
    }
    let has = |setting: &'static str, file: &str| {
        config.is_set(setting)
            || secrets.as_ref().is_some_and(|secrets| secrets.get(file).is_ok_and(|kept| kept.is_some()))
    };
    for (setting, file, why) in [
        ("ADMIN_TOKEN", "admin_token", "nobody administers"),
        ("USER_ID_HMAC_KEY", "user_id_hmac_key", "no session can be opened"),
        ("SECRET_ENCRYPTION_KEY", "secret_encryption_key", "no provider keys are taken or used"),
        ("GATEWAY_ANSWERS_KEY", "gateway_answers_key", "answers for repeats are kept in memory only"),
    ] {
        let there = has(setting, file);
        let what = if there { format!("{setting} is there") } else { format!("{setting} is not here: {why}") };
        report.judge("keys", there, Level::Warn, what, "run this with the environment of the service, or set it");
    }
}

/// A secret's file or folder that others may look into.
fn open_to_others(place: &std::path::Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_open = |path: &std::path::Path| {
        let mode = path.metadata().map_or(0, |found| found.permissions().mode());
        (mode & 0o077 != 0).then(|| format!("{} has mode {:03o}", path.display(), mode & 0o777))
    };
    // What begins with a dot is a note of ours, not a secret.
    let is_note = |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
    let files = std::fs::read_dir(place).ok()?.filter_map(Result::ok);
    let files = files.filter(|entry| !is_note(entry)).map(|entry| entry.path());
    is_open(place).or_else(|| files.into_iter().find_map(|path| is_open(&path)))
}

fn stripe(config: &Config, report: &mut Report) {
    let (key, webhook) = (config.is_set("STRIPE_SECRET_KEY"), config.is_set("STRIPE_WEBHOOK_SECRET"));
    match (key, webhook) {
        (true, true) if config.stripe_livemode().unwrap_or(false) => report.ok("stripe", "live, with webhooks"),
        (true, true) => {
            report.add("stripe", Level::Warn, "is in test mode: no real money", "use a live key in production");
        }
        (true, false) => {
            let todo = "set STRIPE_WEBHOOK_SECRET, or sweep often";
            report.add("stripe", Level::Fail, "payments are taken, but webhooks are not", todo);
        }
        (false, _) => {
            let todo = "set STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET";
            report.add("stripe", Level::Warn, "is not set here: checkouts and refunds are refused", todo);
        }
    }
}
