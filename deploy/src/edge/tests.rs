use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn;
use axum::routing::{get, patch};
use http::{Method, StatusCode};
use modelfaucet_schema::http::{not_found, observe};
use tower::ServiceExt as _;

use super::*;

fn router(origins: &str, limit: u64) -> Router {
    let window = Duration::from_secs(60);
    let rate = (limit > 0).then_some(Rate { limit, window });
    let side = Side { origins: Origins::read(origins).unwrap(), rate, window };
    let edge = Arc::new(Edge {
        limits: RateLimits::default(),
        trusted: vec!["127.0.0.1/32".parse().unwrap()],
        api: side.clone(),
        gateway: Side { rate: Some(Rate { limit: 2, window }), ..side },
    });
    Router::new()
        .route("/health", get(async || "ok"))
        .route("/v1/apps", get(async || "ok"))
        .route("/v1/apps/{id}", patch(async || "ok").get(async || "ok"))
        .route("/v1/gateway/alive", get(async || "ok"))
        .route("/v1/models", get(async || ([("x-ratelimit-remaining", "7")], "ok")))
        .fallback(not_found)
        .layer(from_fn(move |request, next| guard(Arc::clone(&edge), request, next)))
        .layer(from_fn(|request, next| observe("test", request, next)))
}

async fn send(router: &Router, method: Method, path: &str, headers: &[(&'static str, &str)]) -> Response {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request.extensions_mut().insert(Peer("127.0.0.1:1".parse().unwrap()));
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    router.clone().oneshot(request).await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

const PAGE: &str = "https://app.test";

#[tokio::test]
async fn a_listed_page_may_ask_send_and_read() {
    let router = router(PAGE, 0);
    let asks = [
        ("origin", PAGE),
        ("access-control-request-method", "PATCH"),
        ("access-control-request-headers", "authorization,idempotency-key"),
    ];
    let preflight = send(&router, Method::OPTIONS, "/v1/apps/1", &asks).await;
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    assert_eq!(header(&preflight, "access-control-allow-origin"), Some(PAGE));
    assert_eq!(header(&preflight, "access-control-allow-methods"), Some("GET,HEAD,POST,PATCH,DELETE"));
    assert_eq!(header(&preflight, "access-control-allow-headers"), Some("authorization,idempotency-key"));
    assert_eq!(header(&preflight, "vary"), Some("Origin, Access-Control-Request-Headers"));
    assert!(header(&preflight, "x-request-id").is_some());
    assert!(header(&preflight, "access-control-allow-credentials").is_none());
    let answer = send(&router, Method::PATCH, "/v1/apps/1", &[("origin", PAGE)]).await;
    assert_eq!((answer.status(), header(&answer, "access-control-allow-origin")), (StatusCode::OK, Some(PAGE)));
    let exposed = header(&answer, "access-control-expose-headers").unwrap();
    for name in ["x-request-id", "x-ratelimit-reset-tokens", "x-mf-cost", "retry-after-ms", "ledger-position"] {
        assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}: {exposed}");
    }
    // Errors too, or the page could not tell what is wrong.
    let missing = send(&router, Method::GET, "/nothing", &[("origin", PAGE)]).await;
    assert_eq!((missing.status().as_u16(), header(&missing, "access-control-allow-origin")), (404, Some(PAGE)));
}

#[tokio::test]
async fn another_page_gets_no_permission() {
    for (origins, origin) in
        [(PAGE, "https://evil.test"), (PAGE, "null"), (PAGE, "https://app.test.evil.test"), ("", PAGE)]
    {
        let router = router(origins, 0);
        let asks = [("origin", origin), ("access-control-request-method", "POST")];
        for response in [
            send(&router, Method::OPTIONS, "/v1/models", &asks).await,
            send(&router, Method::GET, "/v1/models", &[("origin", origin)]).await,
        ] {
            assert!(header(&response, "access-control-allow-origin").is_none(), "{origins} {origin}");
        }
    }
    let any = router("*", 0);
    let answer = send(&any, Method::GET, "/v1/apps", &[("origin", "https://evil.test")]).await;
    assert_eq!(header(&answer, "access-control-allow-origin"), Some("https://evil.test"));
    let nothing_asked = send(&any, Method::OPTIONS, "/v1/apps", &[("origin", PAGE)]).await;
    assert_eq!(nothing_asked.status(), StatusCode::BAD_REQUEST);
    assert_eq!(send(&any, Method::OPTIONS, "/v1/apps", &[]).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn an_address_has_its_limit_by_route_and_probes_have_none() {
    let router = router("", 2);
    let from = |address| [("x-forwarded-for", address)];
    for left in ["1", "0"] {
        let answer = send(&router, Method::GET, &format!("/v1/apps/{left}"), &from("192.0.2.1")).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "x-ratelimit-remaining")), (200, Some(left)));
    }
    let refused = send(&router, Method::GET, "/v1/apps/3", &from("192.0.2.1")).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = header(&refused, "retry-after").unwrap().parse().unwrap();
    let milliseconds: u64 = header(&refused, "retry-after-ms").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds) && milliseconds.div_ceil(1_000) == seconds);
    assert_eq!(header(&refused, "x-ratelimit-remaining"), Some("0"));
    assert!(header(&refused, "x-ratelimit-reset").is_some() && header(&refused, "x-request-id").is_some());
    let body = axum::body::to_bytes(refused.into_body(), 1 << 16).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["error"]["code"], &body["error"]["type"]), (&"rate_limited".into(), &"requests".into()));
    // Another route, another address, another part of the API, and probes.
    assert_eq!(send(&router, Method::GET, "/v1/apps", &from("192.0.2.1")).await.status(), StatusCode::OK);
    assert_eq!(send(&router, Method::GET, "/v1/apps/1", &from("192.0.2.2")).await.status(), StatusCode::OK);
    for _ in 0..2 {
        let call = send(&router, Method::GET, "/v1/models", &from("192.0.2.1")).await;
        assert_eq!((call.status().as_u16(), header(&call, "x-ratelimit-remaining")), (200, Some("7")));
    }
    assert_eq!(send(&router, Method::GET, "/v1/models", &from("192.0.2.1")).await.status().as_u16(), 429);
    for _ in 0..9 {
        let gateway = send(&router, Method::GET, "/v1/gateway/alive", &from("192.0.2.1")).await;
        assert_eq!(gateway.status(), StatusCode::OK, "a gateway speaks for many");
        let probe = send(&router, Method::GET, "/health", &from("192.0.2.1")).await;
        assert_eq!((probe.status().as_u16(), header(&probe, "x-ratelimit-remaining")), (200, None));
        let own = send(&router, Method::GET, "/v1/apps", &[]).await;
        assert_eq!((own.status().as_u16(), header(&own, "x-ratelimit-remaining")), (200, Some("Infinity")));
    }
}
