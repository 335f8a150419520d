//! The API document in the repository is the one that the program serves.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use modelfaucet_integration_tests::process::binary;

#[test]
fn the_api_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let output = Command::new(binary()).arg("openapi").output().unwrap();
    assert!(output.status.success());
    let served = String::from_utf8(output.stdout).unwrap();
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == served, "docs/openapi.json is stale: run `modelfaucet openapi > docs/openapi.json`");
    let document: serde_json::Value = serde_json::from_str(&served).unwrap();
    let operations =
        document["paths"].as_object().unwrap().values().map(|item| item.as_object().unwrap().len()).sum::<usize>();
    assert!(operations >= 40, "{operations} operations");
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path} has no success");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        }
    }
}
