//! A page in a real browser makes the dashboard's calls from another origin, with preflights as browsers make them; a page of an
//! origin that is not listed reads nothing and changes nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use modelfaucet_integration_tests::browser::{Site, chromium};
use modelfaucet_integration_tests::process::{Setting, Up, has_postgres};
use serde_json::{Value, json};

/// What the script `dashboard.js` must have seen: method, path, status, in its order. Ids are left out.
const CALLS: [(&str, &str, u64); 19] = [
    ("GET", "/v1/developer/apps", 200),
    ("POST", "/v1/developer/apps", 201),
    ("PATCH", "/v1/developer/apps/browser-shop", 200),
    ("POST", "/v1/developer/apps/browser-shop/features", 201),
    ("PATCH", "/v1/developer/apps/browser-shop/features/reply", 200),
    ("GET", "/v1/developer/apps/browser-shop/features", 200),
    ("DELETE", "/v1/developer/apps/browser-shop/features/reply", 200),
    ("GET", "/v1/developer/apps/browser-shop/features", 200),
    ("POST", "/v1/developer/provider-keys", 201),
    ("GET", "/v1/developer/provider-keys", 200),
    ("DELETE", "/v1/developer/provider-keys/", 200),
    ("POST", "/v1/user/provider-keys", 201),
    ("POST", "/v1/user/provider-keys", 201),
    ("GET", "/v1/user/provider-keys", 200),
    ("DELETE", "/v1/user/provider-keys/", 200),
    ("DELETE", "/v1/developer/apps/browser-shop", 200),
    ("GET", "/v1/developer/operations", 200),
    ("PATCH", "/v1/developer/apps/none", 404),
    ("GET", "/v1/developer/apps", 401),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_page_makes_the_dashboards_calls_and_another_page_none() {
    if !has_postgres() {
        return;
    }
    let Some(chromium) = chromium() else { return };
    let (mut listed, mut stranger) = (Site::reserve().await, Site::reserve().await);
    let variables = vec![("API_CORS_ORIGINS", listed.origin().to_owned())];
    let up = Up::start_with(Setting { variables, ..Setting::default() }).await;
    let (session, _) = up.open_session("in-a-browser").await;
    let settings = json!({
        "api": format!("http://{}", up.address()), "script": "/script.js", "session": session, "developer": up.secret("developer_token")
    });

    let told = listed.visit(&chromium, settings.clone(), include_str!("../browser/dashboard.js")).await;
    assert_eq!(told["origin"], listed.origin());
    let calls = told["seen"].as_array().unwrap();
    assert_eq!(calls.len(), CALLS.len(), "{told:#}");
    for (call, (method, path, status)) in calls.iter().zip(CALLS) {
        let called = call["path"].as_str().unwrap().split('?').next().unwrap();
        let same = if path.ends_with('/') { called.starts_with(path) } else { called == path };
        assert!(same && call["method"] == method && call["status"] == status, "{method} {path} {status}: {call:#}");
        let header = |name: &str| call["headers"][name].as_str().unwrap_or_else(|| panic!("{name}: {call:#}"));
        assert_eq!(header("content-type"), "application/json; charset=utf-8");
        for exposed in ["x-request-id", "x-ratelimit-remaining", "x-ratelimit-reset"] {
            assert!(!header(exposed).is_empty());
        }
        // The browser hides what is not exposed: the list counts.
        assert_eq!((call["headers"].get("vary"), call.get("blocked")), (None, None));
        if status < 300 && method != "GET" {
            assert!(header("ledger-position").parse::<i64>().is_ok());
        }
    }
    check_bodies(calls);

    let told = stranger.visit(&chromium, settings, include_str!("../browser/stranger.js")).await;
    assert_eq!(told["origin"], stranger.origin());
    let calls = told["seen"].as_array().unwrap();
    assert_eq!(calls.len(), 6, "{told:#}");
    for call in calls {
        assert_eq!((&call["blocked"], call.get("status")), (&json!("TypeError"), None), "{call:#}");
    }
    // Nothing of it has come here.
    let written = up.as_admin("POST", "/v1/admin/developers", "", &json!({ "name": "x", "email": "x@x.test" })).await;
    let path = format!("/v1/developer/apps?min_position={}", written.header("ledger-position").unwrap());
    let apps = up.as_admin("GET", &path, "", &Value::Null).await.json();
    let items = apps["items"].as_array().unwrap();
    let demo = items.iter().find(|app| app["public_app_id"] == "app_pub_demo").unwrap();
    assert_eq!(demo["status"], "active", "{apps}");
    assert!(items.iter().all(|app| app["name"] != "Stolen"), "{apps}");
}

fn check_bodies(calls: &[Value]) {
    let body = |at: usize| &calls[at]["body"];
    assert_eq!(body(0)["items"][0]["public_app_id"], "app_pub_demo");
    assert_eq!(
        (&body(1)["public_app_id"], &body(1)["default_revenue_share_bps"]),
        (&json!("browser-shop"), &json!(4000))
    );
    // The page's own headers have passed the preflight, and the repeat is known as one.
    assert_eq!(calls[1]["headers"]["x-request-id"], "browser-app");
    assert_eq!((calls[11]["headers"].get("idempotent-replayed"), body(12)), (None, body(11)));
    assert_eq!(calls[12]["headers"]["idempotent-replayed"], "true");
    assert_eq!(body(2)["vertical"], "retail");
    assert_eq!(body(3)["pricing"]["markup_bps"], 3_000);
    assert_eq!((&body(5)["items"][0]["display_name"], &body(6)["ok"]), (&json!("Answer"), &json!(true)));
    assert_eq!(body(7)["items"], json!([]));
    for (added, list, deleted) in [(8, 9, 10), (11, 13, 14)] {
        assert_eq!((&body(list)["items"], &body(deleted)["ok"]), (&json!([body(added)]), &json!(true)));
        assert!(body(added)["masked"].as_str().unwrap().starts_with("sk-..."));
    }
    assert_eq!(body(15)["status"], "disabled");
    for list in ["wallets", "topups", "payouts", "audit_logs"] {
        assert!(body(16)[list].is_array(), "{list}");
    }
    assert_eq!(body(17)["error"]["message"], "The app could not be found.");
    assert_eq!(body(18)["error"]["code"], "invalid_session");
}
