//! What has no price is refused before anything is sent, and is never free.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use modelfaucet_integration_tests::calls::{booked, provider_book};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use serde_json::{Value, json};

#[tokio::test]
async fn what_has_no_price_is_refused_and_never_free() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("unpriced", "5.00").await;
    let both = json!({ "input_uncached": "0.000001", "output_text": "0.000002" });
    let input_only = json!({ "input_uncached": "0.000001" });
    let output_only = json!({ "output_text": "0.000002" });
    let card = json!({ "source": "test", "models": [
        { "provider": "openai", "model": "whole", "rates": both },
        { "provider": "openai", "model": "talks", "rates": both, "mode": "chat" },
        { "provider": "openai", "model": "responds", "rates": both, "mode": "responses" },
        { "provider": "openai", "model": "completes", "rates": both, "mode": "completion" },
        { "provider": "openai", "model": "embeds", "rates": input_only, "mode": "embedding" },
        { "provider": "openai", "model": "no-output-price", "rates": input_only },
        { "provider": "openai", "model": "no-input-price", "rates": output_only },
    ]});
    let activated = up.as_admin("POST", "/v1/admin/rate-cards", "", &card).await;
    assert!(activated.status < 300, "{activated:?}");
    // A card that would give something away is no card.
    let free = json!({ "source": "test", "models": [{ "provider": "openai", "model": "free", "rates": {} }] });
    assert_eq!(up.as_admin("POST", "/v1/admin/rate-cards", "", &free).await.code(), "invalid_rate_card");

    let chat = |model: &str| json!({ "model": model, "messages": [{ "role": "user", "content": "Hi [[tokens=2]]" }] });
    let with = |member: &str, value: Value| {
        let mut body = chat("whole");
        body[member] = value;
        body
    };
    let content = |part: Value| with("messages", json!([{ "role": "user", "content": [part] }]));
    let input = |model: &str| json!({ "model": model, "input": "Hi [[tokens=2]]" });
    let (chats, responses, embeddings) = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings");
    let mut client = up.connect(&token).await.unwrap();
    for (path, body, status, code) in [
        (chats, chat("unheard-of"), 404, "model_not_found"),
        (chats, chat("no-output-price"), 404, "model_not_priced"),
        (chats, chat("no-input-price"), 404, "model_not_priced"),
        (embeddings, input("no-input-price"), 404, "model_not_priced"),
        (chats, chat("embeds"), 404, "model_not_priced"),
        (chats, chat("responds"), 404, "model_not_priced"),
        (chats, chat("completes"), 404, "model_not_priced"),
        (responses, input("embeds"), 404, "model_not_priced"),
        (responses, input("completes"), 404, "model_not_priced"),
        (embeddings, input("talks"), 404, "model_not_priced"),
        (embeddings, input("responds"), 404, "model_not_priced"),
        (chats, with("modalities", json!(["text", "audio"])), 400, "unsupported_parameter"),
        (chats, with("audio", json!({ "voice": "alloy", "format": "wav" })), 400, "unsupported_parameter"),
        (chats, with("web_search_options", json!({})), 400, "unsupported_parameter"),
        (chats, with("prediction", json!({ "type": "content", "content": "x" })), 400, "unsupported_parameter"),
        (chats, with("best_of", json!(3)), 400, "unsupported_parameter"),
        (chats, with("tools", json!([{ "type": "web_search" }])), 400, "unsupported_parameter"),
        (
            chats,
            content(json!({ "type": "input_audio", "input_audio": { "data": "", "format": "wav" } })),
            400,
            "unbounded_cost",
        ),
        (chats, content(json!({ "type": "file", "file": { "file_id": "f" } })), 400, "unbounded_cost"),
        (responses, json!({ "model": "whole", "input": "Hi", "previous_response_id": "r" }), 400, "unbounded_cost"),
        (responses, json!({ "model": "whole", "input": "Hi", "background": true }), 400, "unsupported_parameter"),
    ] {
        let answer = client.json("POST", path, "", &body).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path} {body}");
    }
    assert_eq!(booked(&up.database("ledger_audit")).await.len(), 0, "nothing was held");
    assert_eq!(provider_book(&up.provider_book()).len(), 0, "nothing was sent");
    for (path, body) in [(chats, chat("talks")), (responses, input("responds")), (embeddings, input("embeds"))] {
        let answer = client.json("POST", path, "", &body).await.unwrap();
        assert_eq!(answer.status, 200, "{path} {body} {answer:?}");
        assert_ne!(answer.header("x-mf-cost"), Some("0.00000000"), "{path} {body}");
    }
}
