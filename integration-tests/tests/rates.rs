//! `modelfaucet rates`: a price map becomes the rate card of a running ledger, and calls are priced by it to the last digit.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Output;

use modelfaucet_integration_tests::process::{Up, has_postgres};
use serde_json::{Value, json};

const MAP: &str = r#"{
    "sample_spec": {"input_cost_per_token": 0.0},
    "gpt-4o-mini": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1.5e-07,
        "cache_read_input_token_cost": 7.500000000000001e-08, "output_cost_per_token": 6e-07,
        "input_cost_per_token_above_200k_tokens": 3e-07, "output_cost_per_token_above_200k_tokens": 9e-07,
        "input_cost_per_token_priority": 2.5e-07, "output_cost_per_token_priority": 1e-06},
    "free": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0},
    "odd": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1, "output_cost_per_token": 1,
        "input_cost_per_hologram": 1}
}"#;

fn rates(up: &Up, arguments: &[&str]) -> Output {
    let (url, data_dir) = (format!("http://{}", up.address()), up.data_dir().display().to_string());
    let mut words = vec!["rates"];
    words.extend(arguments);
    words.extend(["--url", &url, "--data-dir", &data_dir]);
    up.run(&words)
}

/// What it prints, if it ends well.
#[track_caller]
fn prints(output: &Output, lines: &[&str]) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for line in lines {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

/// The active card, as soon as the read tables have one.
async fn card(up: &Up) -> Value {
    for _ in 0..500 {
        let answer = up.as_admin("GET", "/v1/admin/rate-card", "", &Value::Null).await;
        if answer.status == 200 {
            return answer.json();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("there is no card");
}

#[tokio::test]
async fn a_price_map_becomes_the_rate_card() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let file = up.data_dir().join("map.json");
    let path = file.display().to_string();
    std::fs::write(&file, MAP).unwrap();
    let seeded = card(&up).await;

    // A dry run says what would change, and changes nothing.
    let dry = rates(&up, &["import", &path, "--dry-run"]);
    let lines = [
        "1 models priced (1 chat, 0 responses, 0 completion, 0 embedding)",
        "gone      11",
        "changed   1\n          openai gpt-4o-mini",
        "refused   2",
        "input and output cost 0; name it with --free if it is free: free",
        "the field input_cost_per_hologram is not known and could be a price: odd",
        "gpt-4o-mini cache_read_input_token_cost: 0.00000007500000000000001 → 0.000000075",
        "nothing was changed; without --dry-run this is card ",
    ];
    prints(&dry, &lines);
    assert_eq!(card(&up).await, seeded);

    // The same map twice is the same card.
    prints(&rates(&up, &["import", &path]), &["is active: new holds and usage are priced by it"]);
    let (_, wallet) = up.wallet_with("ada", "10.00").await;
    let imported = card(&up).await;
    assert_eq!(imported["models"].as_array().unwrap().len(), 1);
    prints(&rates(&up, &["import", &path]), &["same      1", "is active already; nothing to do"]);
    assert_eq!(card(&up).await, imported);

    // A changed price is shown by how much; what the map does not have is kept if asked for, and free is what is said to be.
    std::fs::write(&file, MAP.replace("1.5e-07", "1.8e-07")).unwrap();
    let dry = rates(&up, &["import", &path, "--dry-run", "--free", "free"]);
    prints(&dry, &["input_uncached: 0.00000015 → 0.00000018 (+20 %)", "new       1", "refused   1"]);
    std::fs::write(&file, MAP.replace("gpt-4o-mini", "other")).unwrap();
    prints(&rates(&up, &["import", &path, "--dry-run", "--keep"]), &["new       1", "gone      0", "same      1"]);

    // Calls are priced by the table that holds: 200,001 input tokens are long, priority has its own prices.
    let used = |tier: &str, input: u64| {
        json!({"wallet_id": wallet, "model": "gpt-4o-mini", "service_tier": tier,
            "usage": {"input_uncached": input, "output_text": 1}})
    };
    for (key, body, cost) in [
        ("1", used("standard", 200_000), "0.0300006"),
        ("2", used("standard", 200_001), "0.0600012"),
        ("3", used("priority", 200_000), "0.050001"),
    ] {
        let answer = up.as_admin("POST", "/v1/usage", &format!("idempotency-key: tier-{key}\r\n"), &body).await;
        assert_eq!(answer.json()["rating"]["exact_cost_usd"], cost, "{answer:?}");
    }
    for (body, code) in [
        (used("priority", 200_001), "model_not_priced"),
        (used("flex", 1), "model_not_priced"),
        (json!({"wallet_id": wallet, "model": "free", "usage": {"output_text": 1}}), "model_not_found"),
    ] {
        let answer = up.as_admin("POST", "/v1/usage", "idempotency-key: none\r\n", &body).await;
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str().unwrap()), (404, code), "{answer:?}");
    }

    // A hold is placed for a tier and captured by the one that served.
    let hold = json!({"wallet_id": wallet, "model": "gpt-4o-mini", "service_tier": "priority",
        "usage_bound": {"input_uncached": 1000, "output_text": 1000}});
    let placed = up.as_admin("POST", "/v1/usage/holds", "idempotency-key: hold\r\n", &hold).await;
    assert_eq!(placed.json()["requested_usd"], "0.00162500", "{placed:?}");
    let path = format!("/v1/usage/holds/{}/capture", placed.json()["hold_id"].as_str().unwrap());
    let served = json!({"usage": {"input_uncached": 1000, "output_text": 1000}, "service_tier": "standard"});
    let captured = up.as_admin("POST", &path, "", &served).await;
    assert_eq!(captured.json()["rating"]["exact_cost_usd"], "0.00075", "{captured:?}");

    let shown = rates(&up, &["show", "gpt-4o-mini"]);
    prints(&shown, &["gpt-4o-mini · openai · chat", "standard, more than 200000 input tokens", "0.3 per million"]);
    let unknown = rates(&up, &["show", "free"]);
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("model_not_found"), "{unknown:?}");
}

#[tokio::test]
async fn a_card_of_every_known_model_is_taken_and_a_larger_one_is_not() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let models = |count: usize| -> Vec<Value> {
        let rates = json!({"input_uncached": "0.00000015", "cache_read": "0.000000075", "output_text": "0.0000006"});
        (0..count).map(|n| json!({"provider": "acme", "model": format!("model-{n:0200}"), "rates": rates})).collect()
    };
    // 2.5 MB and 9 MB.
    for (count, status, code) in [(8_000, 201, Value::Null), (30_000, 413, json!("request_too_large"))] {
        let body = json!({"source": "test", "models": models(count)});
        let answer = up.as_admin("POST", "/v1/admin/rate-cards", "", &body).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &code));
    }
    let answer = up.as_admin("POST", "/v1/admin/wallets/x/adjustments", "", &json!({"x": "y".repeat(2 << 20)})).await;
    assert_eq!(answer.status, 413, "other bodies stay small");
}
