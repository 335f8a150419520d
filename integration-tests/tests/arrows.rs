//! Which crate may know which, and which words must stay absent where (ARCHITECTURE.md, "Codemap" and "Invariants").
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every `.rs` file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The lines of a file that are neither comments nor documentation.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn crates_know_only_what_they_may() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let allowed: &[&str] = match name {
            "modelfaucet-schema" => &[],
            "modelfaucet-command"
            | "modelfaucet-projector"
            | "modelfaucet-query"
            | "modelfaucet-gateway"
            | "modelfaucet-secrets" => &["modelfaucet-schema"],
            "modelfaucet-deploy" | "modelfaucet-integration-tests" => &[
                "modelfaucet-schema",
                "modelfaucet-command",
                "modelfaucet-projector",
                "modelfaucet-query",
                "modelfaucet-gateway",
                "modelfaucet-secrets",
            ],
            other => panic!("which crates may {other} know? Add it here and to ARCHITECTURE.md"),
        };
        let known: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dependency| dependency["name"].as_str().unwrap())
            .filter(|dependency| dependency.starts_with("modelfaucet-"))
            .collect();
        let too_many: Vec<_> = known.iter().filter(|known| !allowed.contains(*known)).collect();
        assert!(too_many.is_empty(), "{name} must not depend on {too_many:?}");
        seen += 1;
    }
    assert_eq!(seen, 8);
}

/// The tests speak to it as strangers do.
#[test]
fn only_the_projector_speaks_to_the_broker() {
    for folder in ["schema", "command", "query", "gateway", "secrets", "deploy"] {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        assert!(!manifest.contains("lapin"), "{folder} must not depend on lapin");
    }
    let speaks = |path: &PathBuf| code(path).contains("lapin::");
    let speakers: Vec<_> = sources(&root().join("projector/src")).into_iter().filter(speaks).collect();
    let allowed = [
        "broker.rs",
        "broker/message.rs",
        "relay.rs",
        "relay/publisher.rs",
        "relay/resend.rs",
        "relay/shard.rs",
        "subscription.rs",
    ];
    let strangers: Vec<_> = speakers.iter().filter(|path| !allowed.iter().any(|name| path.ends_with(name))).collect();
    assert!(strangers.is_empty() && speakers.len() == allowed.len(), "{speakers:?}");
}

#[test]
fn the_domain_does_no_io() {
    let files = sources(&root().join("command/src/domain"));
    assert!(files.len() > 10, "the domain has moved: {files:?}");
    for path in files {
        let code = code(&path);
        for word in [
            "tokio",
            "axum",
            "hyper",
            "tokio_postgres",
            "async fn",
            "std::fs",
            "std::env",
            "SystemTime",
            "Instant::now",
            "Timestamp::now",
            "generate()",
            "rand::",
            "getrandom",
        ] {
            let in_tests = path.to_string_lossy().contains("tests");
            assert!(in_tests || !code.contains(word), "{} says {word}", path.display());
        }
    }
}

#[test]
fn the_environment_is_read_in_deploy_only() {
    for folder in ["schema/src", "command/src", "projector/src", "query/src", "gateway/src", "secrets/src"] {
        for path in sources(&root().join(folder)) {
            assert!(!code(&path).contains("env::var"), "{} reads the environment", path.display());
        }
    }
}

#[test]
fn money_never_meets_a_float() {
    for folder in ["schema/src", "command/src/domain", "projector/src", "gateway/src", "deploy/src/rates"] {
        for path in sources(&root().join(folder)) {
            let code = code(&path);
            let rates =
                ["series.rs", "runtime.rs", "runtime/rate.rs", "runtime/run.rs", "run/pending.rs", "rebuild.rs"];
            let rates = rates.iter().any(|name| path.ends_with(name));
            for word in ["f64", "f32"] {
                assert!(rates || !code.contains(word), "{} says {word}", path.display());
            }
        }
    }
}

#[test]
fn the_gateway_touches_no_database() {
    for path in sources(&root().join("gateway/src")) {
        let code = code(&path);
        for word in ["postgres", "SELECT ", "INSERT ", "modelfaucet_command"] {
            assert!(!code.contains(word), "{} says {word}", path.display());
        }
    }
    let manifest = std::fs::read_to_string(root().join("gateway/Cargo.toml")).unwrap();
    assert!(!manifest.contains("postgres") && !manifest.contains("sqlx"));
}

#[test]
fn only_the_migrations_write_the_log() {
    let folders = ["schema/src", "command/src", "projector/src", "query/src", "gateway/src", "deploy/src"];
    for path in folders.iter().flat_map(|folder| sources(&root().join(folder))) {
        let code = code(&path).to_lowercase();
        for table in ["ledger.event", "ledger.batch", "ledger.idempotency", "ledger.log "] {
            for verb in ["insert into ", "update ", "delete from ", "truncate "] {
                assert!(!code.contains(&format!("{verb}{table}")), "{} writes {table}", path.display());
            }
        }
    }
}

/// So that no connection forgets whom the process trusts: docs/decisions/0019-trust-is-of-the-process.md.
#[test]
fn connections_to_postgresql_are_opened_in_one_place() {
    let mut seen = 0;
    for path in ["schema/src", "command/src", "projector/src", "query/src", "gateway/src", "secrets/src", "deploy/src"]
        .iter()
        .flat_map(|folder| sources(&root().join(folder)))
        .filter(|path| !path.ends_with("tests.rs"))
    {
        let here = path.ends_with("log/connection.rs");
        assert!(here || !code(&path).contains("NoTls"), "{} connects by itself; use log::connection", path.display());
        seen += usize::from(here);
    }
    assert_eq!(seen, 1);
}

#[test]
fn one_crate_alone_opens_secrets_and_reads_their_table() {
    let folders = ["schema/src", "command/src", "projector/src", "query/src", "gateway/src", "deploy/src"];
    for path in folders.iter().flat_map(|folder| sources(&root().join(folder))) {
        let code = code(&path);
        let refuses = path.ends_with("log/boot.rs") || path.to_string_lossy().contains("verify");
        assert!(refuses || !code.contains("secret.credential"), "{} knows the table of secrets", path.display());
    }
    // What is secret there has no form that could be printed or sent.
    for file in ["envelope.rs", "keyring.rs", "store.rs"] {
        let code = code(&root().join("secrets/src").join(file));
        assert!(!code.contains("Serialize") && !code.contains("println!") && !code.contains("dbg!"), "{file}");
    }
}
