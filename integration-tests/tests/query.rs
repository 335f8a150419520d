//! The read API over read tables that the projector made: what it shows, whom it shows it, and how it says that it cannot.
#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, reason = "each module of a test is used by this file only")]

#[path = "query/database.rs"]
mod database;
#[path = "query/ledger.rs"]
mod ledger;

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::{Router, middleware};
use database::TestDatabase;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use ledger::{CHARGE, COST, Ledger, SHARE, session};
use modelfaucet_integration_tests::report;
use modelfaucet_projector::Projector;
use modelfaucet_query::{QueryOptions, QueryState, STATEMENTS, probe_router, readiness, router};
use modelfaucet_schema::event::{FreezeScope, Frozen};
use modelfaucet_schema::http::observe;
use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::TokenHash;
use serde_json::{Value, json};

const ADMIN: &str = "mf_admin_of-the-test";

/// A ledger with two tenants, projected, and the read API in front of it.
struct World {
    database: TestDatabase,
    ledger: Ledger,
    projector: Projector,
    state: QueryState,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Reply {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    fn position(&self) -> i64 {
        self.headers["ledger-position"].to_str().unwrap().parse().unwrap()
    }
}

impl World {
    async fn new() -> Option<Self> {
        Self::with(false).await
    }

    /// With or without the query side's own filter by tenant.
    async fn with(without_own_filter: bool) -> Option<Self> {
        let database = TestDatabase::create().await?;
        let mut client = database.connect("ledger_projector").await;
        modelfaucet_projector::setup(&mut client).await.unwrap();
        let ledger = Ledger::begin(&database).await;
        let projector = Projector::connect(database.role("ledger_projector"), vec![ShardId(0)]).await.unwrap();
        let mut options =
            QueryOptions::new(database.role("ledger_query"), TokenHash::of_text(ADMIN), "http://gateway.test/v1");
        options.max_wait = Duration::from_millis(700);
        options.pool_size = 4;
        options.without_own_filter = without_own_filter;
        let state = QueryState::connect(options).await.unwrap();
        let world = Self { database, ledger, projector, state };
        world.project().await;
        Some(world)
    }

    async fn project(&self) {
        self.projector.catch_up().await.unwrap();
    }

    fn app(&self) -> Router {
        let (routes, _) = router(self.state.clone()).split_for_parts();
        routes.layer(middleware::from_fn(|request, next| observe("test", request, next)))
    }

    async fn send(&self, path: &str, token: &str) -> hyper::Response<Body> {
        let mut request = Request::get(path).header("x-request-id", "same-for-all");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        TowerToHyperService::new(self.app()).call(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn get(&self, path: &str, token: &str) -> Reply {
        let response = self.send(path, token).await;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Reply { status, headers, body: serde_json::from_slice(&bytes).unwrap() }
    }

    /// A JSON answer to the operator that must be a success.
    async fn shown(&self, path: &str) -> Value {
        let reply = self.get(path, ADMIN).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.body
    }

    /// A CSV answer to the operator: its rows, and the trailers.
    async fn csv(&self, path: &str) -> (Vec<Vec<String>>, HeaderMap) {
        let response = self.send(path, ADMIN).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap();
        let bytes = collected.to_bytes();
        assert!(bytes.ends_with(b"\n") && !bytes.contains(&b'\r'));
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&bytes[..]);
        let rows = reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
        (rows, trailers)
    }

    /// Tampers with the read tables, as nobody but a superuser can.
    async fn tamper(&self, sql: &str) {
        self.database.superuser().await.batch_execute(sql).await.unwrap();
    }
}

fn usd(units: i64) -> String {
    Money::from_units(units).to_string()
}

macro_rules! world {
    () => {
        match World::new().await {
            Some(world) => world,
            None => return,
        }
    };
}

#[tokio::test]
async fn every_statement_is_one_that_the_role_may_run() {
    let world = world!();
    let client = world.database.connect("ledger_query").await;
    for (name, sql) in STATEMENTS {
        if let Err(error) = client.prepare(sql).await {
            panic!("{name}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_user_sees_the_wallet_and_what_changed_it() {
    let mut world = world!();
    let alpha = world.ledger.alpha;
    let mut events = world.ledger.top_up(alpha, 1_000_000_000);
    events.push(world.ledger.usage(alpha));
    world.ledger.append(events).await;
    world.project().await;

    let wallet = world.get("/v1/user/wallet", &alpha.token("session")).await;
    let expected = json!({
        "id": alpha.wallet, "owner_scope": "end_user", "owner_id": alpha.user,
        "balance_usd": usd(1_000_000_000 - CHARGE), "available_usd": usd(1_000_000_000 - CHARGE), "held_usd": usd(0),
    });
    assert_eq!((wallet.status, wallet.body), (StatusCode::OK, expected.clone()));
    assert_eq!(wallet.headers["ledger-position"], world.ledger.position().to_string().as_str());

    let statement = world.get("/v1/user/wallet/statement", &alpha.token("session")).await.body;
    let lines = statement["items"].as_array().unwrap();
    let line = |index: usize| {
        [&lines[index]["type"], &lines[index]["amount_usd"], &lines[index]["balance_usd"]].map(|v| v.as_str().unwrap())
    };
    assert_eq!(lines.len(), 2);
    assert_eq!(line(0), ["UsageRecorded", &usd(-CHARGE), &usd(1_000_000_000 - CHARGE)]);
    assert_eq!(line(1), ["TopUpCredited", "10.00000000", "10.00000000"]);

    let seen = world.get(&format!("/v1/wallets/{}", alpha.wallet), &alpha.token("all")).await.body;
    for member in ["id", "owner_id", "balance_usd", "available_usd"] {
        assert_eq!(seen[member], expected[member]);
    }
    assert_eq!(seen["public_app_id"], "alpha-app");
    assert_eq!(seen["position"], world.ledger.position());
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_while_rows_arrive() {
    let mut world = world!();
    let alpha = world.ledger.alpha;
    let mut events = world.ledger.top_up(alpha, 1_000_000_000);
    events.extend((0..20).map(|_| world.ledger.usage(alpha)));
    world.ledger.append(events).await;
    world.project().await;
    let paths = [
        format!("/v1/wallets/{}/statement", alpha.wallet),
        "/v1/apps/alpha-app/usage".to_owned(),
        "/v1/admin/journal".to_owned(),
    ];
    for (path, limit) in paths.iter().flat_map(|path| [1, 3, 7, 200].map(|limit| (path, limit))) {
        // Whatever was recorded since the first 21 events is usage as well.
        let newest = world.ledger.position();
        let first = newest - 20 + i64::from(path.contains("usage"));
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        while seen.last().is_none_or(|last| *last > first) {
            let page = world.shown(&format!("{path}?limit={limit}{cursor}")).await;
            let items = page["items"].as_array().or(page["usage"].as_array()).unwrap().clone();
            // Usage shows no positions, but the request's name ends with it.
            let position = |item: &Value| {
                item["position"].as_i64().unwrap_or_else(|| item["request_id"].as_str().unwrap()[5..].parse().unwrap())
            };
            seen.extend(items.iter().map(position).filter(|position| *position <= newest));
            let usage = world.ledger.usage(alpha);
            world.ledger.append(vec![usage]).await;
            world.project().await;
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(
            seen.iter().copied().filter(|at| *at >= first).collect::<Vec<_>>(),
            (first..=newest).rev().collect::<Vec<_>>(),
            "{path} by {limit}"
        );
    }
}

#[tokio::test]
async fn pages_by_time_neither_skip_nor_repeat_what_is_of_one_moment() {
    let world = world!();
    for path in ["/v1/developer/tokens", "/v1/developer/apps"] {
        let all = world.shown(&format!("{path}?limit=200")).await["items"].as_array().unwrap().clone();
        let times: Vec<_> = all.iter().map(|item| item["created_at"].clone()).collect();
        let of_one_moment = times.windows(2).any(|two| two[0] == two[1]);
        assert!(of_one_moment || path.ends_with("apps"), "tokens of a tenant are issued together: {times:?}");
        for limit in 1..=all.len() {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = world.shown(&format!("{path}?limit={limit}{cursor}")).await;
                seen.extend(page["items"].as_array().unwrap().iter().cloned());
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(seen, all, "{path} by {limit}");
        }
    }
}

#[tokio::test]
async fn another_tenants_things_are_as_unknown_as_those_that_do_not_exist() {
    let mut world = world!();
    let (alpha, beta) = (world.ledger.alpha, world.ledger.beta);
    let events = world.ledger.top_up(beta, 1_000_000);
    world.ledger.append(events).await;
    world.project().await;
    let nobody = "0199ffff-ffff-7fff-8fff-ffffffffffff";
    for (theirs, unknown) in [
        (format!("/v1/wallets/{}", beta.wallet), format!("/v1/wallets/{nobody}")),
        (format!("/v1/wallets/{}/statement", beta.wallet), format!("/v1/wallets/{nobody}/statement")),
        ("/v1/apps/beta-app/usage".to_owned(), "/v1/apps/no-app/usage".to_owned()),
        ("/v1/developer/apps/beta-app/features".to_owned(), "/v1/developer/apps/no-app/features".to_owned()),
    ] {
        let own = world.get(&theirs, &beta.token("all")).await;
        assert_eq!(own.status, 200, "{theirs}: {}", own.body);
        let (theirs, unknown) =
            (world.get(&theirs, &alpha.token("all")).await, world.get(&unknown, &alpha.token("all")).await);
        assert_eq!((theirs.status, &theirs.body), (unknown.status, &unknown.body));
        assert_ne!(theirs.body, own.body);
    }
    for (path, member) in [("/v1/developer/apps", "developer_id"), ("/v1/developer/tokens", "developer_id")] {
        let own = world.get(path, &alpha.token("all")).await.body;
        let owners: Vec<_> = own["items"].as_array().unwrap().iter().map(|item| item[member].clone()).collect();
        assert!(!owners.is_empty() && owners.iter().all(|owner| *owner == json!(alpha.developer)), "{path}");
        assert!(world.shown(path).await["items"].as_array().unwrap().len() > owners.len(), "the operator sees all");
        assert!(!own.to_string().contains("sha256:"));
    }
}

/// Every route of the read API, with the ids of either tenant in its path.
fn paths(alpha: &ledger::Tenant, beta: &ledger::Tenant) -> Vec<String> {
    let document: Value = serde_json::from_str(&modelfaucet_query::openapi().to_json().unwrap()).unwrap();
    let routes = document["paths"].as_object().unwrap().iter().filter(|(_, route)| route["get"].is_object());
    let fill = |route: &str, tenant: &ledger::Tenant| {
        route.replace("{wallet_id}", &tenant.wallet.to_string()).replace("{public_app_id}", &tenant.public_app_id())
    };
    let paths: Vec<String> = routes.flat_map(|(route, _)| [fill(route, alpha), fill(route, beta)]).collect();
    assert!(paths.len() > 30 && !paths.iter().any(|path| path.contains('{')), "{paths:?}");
    paths
}

/// I14: whatever a tenant asks for, no answer shows anything that is another's.
#[tokio::test]
async fn no_answer_to_a_tenant_shows_anything_of_another() {
    show_nothing_of_another(world!()).await;
}

/// The net holds by itself: the same without the filter of our own statements.
#[tokio::test]
async fn row_security_hides_what_a_statement_would_show() {
    let Some(world) = World::with(true).await else { return };
    show_nothing_of_another(world).await;
}

/// And the filter by itself: the same without the net.
#[tokio::test]
async fn the_filter_of_our_statements_hides_what_the_tables_would_show() {
    let world = world!();
    let tables = "DO $$ DECLARE named regclass; BEGIN
        FOR named IN SELECT oid FROM pg_class WHERE relrowsecurity LOOP
            EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', named);
        END LOOP; END $$";
    world.tamper(tables).await;
    let nets = "SELECT count(*) FILTER (WHERE relrowsecurity), count(*) FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'p\\_%'";
    let row = world.database.superuser().await.query_one(nets, &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) == 0 && row.get::<_, i64>(1) > 10, "no net under the read tables");
    show_nothing_of_another(world).await;
}

async fn show_nothing_of_another(mut world: World) {
    let (alpha, beta) = (world.ledger.alpha, world.ledger.beta);
    for tenant in [alpha, beta] {
        let mut events = world.ledger.top_up(tenant, 1_000_000_000);
        events.push(world.ledger.usage(tenant));
        world.ledger.append(events).await;
    }
    world.project().await;
    let canaries = [
        beta.developer.to_string(),
        beta.app.to_string(),
        beta.user.to_string(),
        beta.wallet.to_string(),
        beta.public_app_id(),
        "App of beta".to_owned(),
        "beta@x.test".to_owned(),
        beta.token("all")[..15].to_owned(),
    ];
    let body = async |path: &str, token: &str| {
        let response = world.send(path, token).await;
        let status = response.status();
        (status, String::from_utf8_lossy(&response.into_body().collect().await.unwrap().to_bytes()).into_owned())
    };
    let (mut shown, mut real) = (0, std::collections::BTreeSet::new());
    for path in paths(&alpha, &beta) {
        for token in [alpha.token("all"), alpha.token("session"), String::new()] {
            let (status, text) = body(&path, &token).await;
            shown += u32::from(status == StatusCode::OK);
            let found = canaries.iter().find(|canary| text.contains(*canary));
            assert_eq!(found, None, "I14: {path} shows alpha what is beta's: {text}");
        }
        let (_, text) = body(&path, ADMIN).await;
        real.extend(canaries.iter().filter(|canary| text.contains(*canary)));
    }
    assert!(shown >= 8, "only {shown} answers were successes");
    report::judged("query", &[("I14", shown.into(), 0)]);
    println!("{} paths, {shown} answers to a tenant, 0 show another's", paths(&alpha, &beta).len());
    assert!(real.len() >= canaries.len() - 1, "the operator sees them: {real:?}");
}

#[tokio::test]
async fn a_credential_opens_what_it_is_for() {
    let world = world!();
    let (alpha, wallet) = (world.ledger.alpha, "/v1/user/wallet");
    let (apps, usage, admin) = ("/v1/developer/apps", "/v1/apps/alpha-app/usage", "/v1/admin/trial-balance");
    for (path, token, status, code, message) in [
        (wallet, String::new(), 401, "invalid_session", "Missing bearer session token."),
        (wallet, "mf_sess_nonsense".to_owned(), 401, "invalid_session", "The session token is invalid."),
        (wallet, alpha.token("all"), 401, "invalid_session", "The session token is invalid."),
        (wallet, alpha.token("session-revoked"), 401, "invalid_session", "The session token is invalid."),
        (wallet, alpha.token("session-old"), 401, "expired_session", "The session token is expired."),
        (wallet, alpha.token("session"), 200, "", ""),
        (apps, String::new(), 401, "invalid_session", "Missing or invalid developer token."),
        (apps, alpha.token("session"), 401, "invalid_session", "Missing or invalid developer token."),
        (apps, alpha.token("old"), 401, "invalid_session", "Missing or invalid developer token."),
        (apps, alpha.token("apps"), 200, "", ""),
        (apps, ADMIN.to_owned(), 200, "", ""),
        (
            usage,
            alpha.token("apps"),
            403,
            "forbidden",
            "Developer token is missing required scope: developer:operations:read.",
        ),
        (usage, alpha.token("all"), 200, "", ""),
        (admin, alpha.token("all"), 401, "invalid_session", "Missing or invalid admin token."),
        (admin, format!("{ADMIN}x"), 401, "invalid_session", "Missing or invalid admin token."),
        (admin, ADMIN.to_owned(), 200, "", ""),
        // Who asks comes before what is asked.
        ("/v1/wallets/nonsense?x=1", String::new(), 401, "invalid_session", "Missing or invalid developer token."),
    ] {
        let reply = world.get(path, &token).await;
        let message_of = reply.body["error"]["message"].as_str().unwrap_or_default();
        assert_eq!((reply.status.as_u16(), reply.code(), message_of), (status, code, message), "{path} {token}");
    }
}

#[tokio::test]
async fn a_session_works_as_soon_as_its_opening_was_acknowledged() {
    let mut world = world!();
    let alpha = world.ledger.alpha;
    let opened = session(alpha, "session-new", Timestamp::now().plus(Duration::from_mins(1)));
    world.ledger.append(vec![opened.into()]).await;
    let projector = world.projector.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        projector.catch_up().await.unwrap();
    });
    assert_eq!(world.get("/v1/user/wallet", &alpha.token("session-new")).await.status, 200);
}

#[tokio::test]
async fn a_reader_may_wait_for_a_position() {
    let mut world = world!();
    let alpha = world.ledger.alpha;
    let before = world.ledger.position();
    let events = world.ledger.top_up(alpha, 1_000_000);
    world.ledger.append(events).await;
    let now = world.ledger.position();
    let path = |position: i64, more: &str| format!("/v1/wallets/{}?min_position={position}{more}", alpha.wallet);

    let early = world.get(&path(now, ""), ADMIN).await;
    assert_eq!((early.status.as_u16(), early.code()), (503, "projection_behind"));
    assert!(early.headers.contains_key("retry-after"));
    let stale = world.get(&path(now, "&stale=allow"), ADMIN).await;
    assert_eq!((stale.status.as_u16(), stale.position()), (200, before));
    assert_eq!(world.get(&path(before, ""), ADMIN).await.status, 200);

    let projector = world.projector.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        projector.catch_up().await.unwrap();
    });
    let waited = world.get(&path(now, ""), ADMIN).await;
    assert_eq!((waited.status.as_u16(), waited.position()), (200, now));
    assert_eq!(waited.body["balance_usd"], "0.01000000");
    assert_eq!(world.get(&path(now + 1, ""), ADMIN).await.status, 503, "no log has that position");
}

#[tokio::test]
async fn bad_input_is_refused_and_never_fails() {
    let world = world!();
    let wallet = format!("/v1/wallets/{}", world.ledger.alpha.wallet);
    let bad_limits =
        ["?limit=0", "?limit=201", "?limit=x", "?limit=-1", "?cursor=x", "?cursor=", "?limit=1&limit=2", "?nonsense=1"];
    let lists = [
        &format!("{wallet}/statement"),
        "/v1/apps/alpha-app/usage",
        "/v1/admin/top-ups",
        "/v1/admin/audit-log",
        "/v1/admin/journal",
        "/v1/developer/tokens",
        "/v1/developer/apps",
    ];
    let mut paths: Vec<String> =
        lists.iter().flat_map(|path| bad_limits.iter().map(move |query| format!("{path}{query}"))).collect();
    paths.extend(
        [
            "/v1/wallets/nonsense",
            "/v1/wallets/%00",
            "/v1/wallets/%FF",
            "/v1/apps/a%20b/usage",
            "/v1/apps/alpha-app/usage?from=yesterday",
            "/v1/admin/journal?account=9999",
            "/v1/admin/journal?account=2010:nobody",
            "/v1/admin/journal?shard=99999",
            "/v1/admin/top-ups?status=lost",
            "/v1/admin/reconciliation/ledger?mismatches_only=1",
            "/v1/admin/reports/usage.csv?limit=1",
            "/v1/admin/trial-balance?min_position=x",
            "/v1/admin/trial-balance?stale=perhaps",
        ]
        .map(str::to_owned),
    );
    for path in paths {
        let reply = world.get(&path, ADMIN).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (400, "invalid_request"), "{path}");
    }
}

#[tokio::test]
async fn the_operator_sees_what_is_there() {
    let mut world = world!();
    let (alpha, beta) = (world.ledger.alpha, world.ledger.beta);
    for _ in 0..3 {
        let mut events = world.ledger.top_up(alpha, 1_000_000_000);
        events.push(world.ledger.usage(alpha));
        events.push(world.ledger.usage(alpha));
        world.ledger.append(events).await;
    }
    world
        .ledger
        .append(vec![Frozen { scope: FreezeScope::Wallet(beta.wallet), reason: "test".to_owned() }.into()])
        .await;
    world.project().await;

    let usage = world.shown("/v1/apps/alpha-app/usage?limit=1").await;
    assert_eq!((&usage["total_calls"], &usage["total_input_tokens"]), (&json!(6), &json!(600)));
    assert_eq!(usage["total_retail_price_usd"], usd(6 * CHARGE));
    assert_eq!(usage["total_developer_revenue_usd"], usd(6 * SHARE));
    assert_eq!(usage["usage"][0]["retail_price_usd"], usd(CHARGE));
    assert_eq!(usage["usage"][0]["channel_revenue_usd"], usd(SHARE));
    let later = world.shown("/v1/apps/alpha-app/usage?from=2100-01-01T00:00:00Z").await;
    assert_eq!((&later["total_calls"], &later["usage"]), (&json!(0), &json!([])));
    let earlier = world.shown("/v1/apps/alpha-app/usage?to=2100-01-01T00:00:00%2B02:00").await;
    assert_eq!(earlier["total_retail_price_usd"], usd(6 * CHARGE));

    let features = world.shown("/v1/developer/apps/alpha-app/features").await;
    assert_eq!(features["items"][0]["pricing"]["markup_bps"], 3_000);
    assert_eq!(features["items"][0]["policy"], json!({}));
    let apps = world.shown("/v1/developer/apps?limit=1").await;
    assert_eq!(apps["items"][0]["public_app_id"], "beta-app", "newest first");
    let next = apps["next_cursor"].as_str().unwrap();
    let apps = world.shown(&format!("/v1/developer/apps?limit=1&cursor={next}")).await;
    assert_eq!((apps["items"][0]["public_app_id"].as_str(), apps.get("next_cursor")), (Some("alpha-app"), None));

    let first = world.shown("/v1/admin/top-ups?status=credited&limit=2").await;
    let next = first["next_cursor"].as_str().unwrap();
    let second = world.shown(&format!("/v1/admin/top-ups?status=credited&limit=2&cursor={next}")).await;
    assert_eq!((first["items"].as_array().unwrap().len(), second["items"].as_array().unwrap().len()), (2, 1));
    assert_eq!(world.shown("/v1/admin/top-ups?status=failed").await["items"], json!([]));

    let acts = world.shown("/v1/admin/audit-log?limit=1").await;
    assert_eq!(acts["items"][0]["action"], "Frozen");
    let freezes = world.shown("/v1/admin/freezes").await;
    assert_eq!(freezes["items"][0]["id"], json!(beta.wallet));
    assert_eq!(world.shown("/v1/admin/rate-card").await["models"][0]["provider"], "openai");
    let projections = world.shown("/v1/admin/projections").await;
    assert!(projections["items"].as_array().unwrap().iter().all(|item| item["lag_events"] == 0));

    let journal = world.shown(&format!("/v1/admin/journal?account=2010:{}", alpha.wallet)).await;
    assert_eq!(journal["items"].as_array().unwrap().len(), 9);
    let posting = &journal["items"][0]["postings"][0];
    assert_eq!(posting["debit_usd"], usd(CHARGE));
    assert_eq!(posting["balance_usd"], usd(6 * CHARGE - 3_000_000_000), "debits minus credits");
    assert_eq!(world.shown(&format!("/v1/admin/journal?account=2010:{}", beta.wallet)).await["items"], json!([]));
    assert_eq!(world.shown("/v1/admin/journal?account=1110").await["items"].as_array().unwrap().len(), 3);

    // What was recorded from a time on and what before it is all of it, whichever account is looked at.
    for account in [String::new(), "&account=1110".to_owned(), format!("&account=2010:{}", alpha.wallet)] {
        let of = async |range: &str| {
            let page = world.shown(&format!("/v1/admin/journal?limit=100{account}{range}")).await;
            page["items"].as_array().unwrap().iter().map(|item| item["position"].clone()).collect::<Vec<_>>()
        };
        let whole = world.shown(&format!("/v1/admin/journal?limit=100{account}")).await;
        let at = whole["items"][1]["recorded_at"].as_str().unwrap().to_owned();
        let (later, earlier) = (of(&format!("&from={at}")).await, of(&format!("&to={at}")).await);
        assert!(later.len() >= 2 && !earlier.is_empty(), "{later:?} {earlier:?}");
        assert_eq!([later, earlier].concat(), of("").await);
    }

    let books = world.shown("/v1/admin/trial-balance").await;
    assert_eq!((&books["balanced"], &books["totals"]["balance_usd"]), (&json!(true), &json!("0.00000000")));
    assert_eq!(books["position"], json!({ "s00": world.ledger.position() }));
    let row = |code: &str| books["items"].as_array().unwrap().iter().find(|row| row["code"] == code).unwrap().clone();
    assert_eq!((&row("5010")["balance_usd"], &row("5010")["normal_side"]), (&json!(usd(6 * COST)), &json!("debit")));
    assert_eq!(row("2010")["balance_usd"], usd(6 * CHARGE - 3_000_000_000));
}

#[tokio::test]
async fn reconciliation_finds_what_does_not_agree() {
    let mut world = world!();
    let (alpha, beta) = (world.ledger.alpha, world.ledger.beta);
    let mut events = world.ledger.top_up(alpha, 1_000_000);
    events.extend(world.ledger.top_up(beta, 2_000_000));
    world.ledger.append(events).await;
    world.project().await;
    let path = "/v1/admin/reconciliation/ledger";

    let good = world.shown(path).await;
    assert_eq!(good["summary"], json!({ "wallet_count": 2, "balanced_count": 2, "mismatch_count": 0 }));
    assert_eq!(good["position"], json!({ "s00": world.ledger.position() }));
    let first = json!({
        "wallet_id": alpha.wallet, "owner_scope": "end_user", "owner_id": alpha.user, "wallet_balance_usd": "0.01000000",
        "ledger_balance_usd": "0.01000000", "fold_balance_usd": "0.01000000", "delta_usd": "0.00000000", "status": "balanced",
    });
    assert_eq!(good["items"][0], first);

    let tampered = format!("UPDATE p_wallets_v1.wallet SET posted = posted - 1 WHERE wallet_id = '{}'", beta.wallet);
    world.tamper(&tampered).await;
    let bad = world.shown(&format!("{path}?mismatches_only=true")).await;
    assert_eq!(bad["summary"], json!({ "wallet_count": 2, "balanced_count": 1, "mismatch_count": 1 }));
    let items = bad["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["wallet_id"]), (1, &json!(beta.wallet)));
    assert_eq!((&items[0]["status"], &items[0]["delta_usd"]), (&json!("mismatch"), &json!("-0.00000001")));
    assert_eq!(items[0]["causes"], json!(["ledger", "fold"]));

    world.tamper(&format!("DELETE FROM p_wallets_v1.wallet WHERE wallet_id = '{}'", beta.wallet)).await;
    let lost = world.shown(&format!("{path}?mismatches_only=true")).await;
    assert_eq!(
        lost["items"][0]["causes"],
        json!(["missing", "ledger", "fold"]),
        "a wallet that was lost is not overlooked"
    );

    world.tamper("UPDATE projection.checkpoint SET position = position - 1 WHERE name = 'journal'").await;
    let apart = world.get(path, ADMIN).await;
    assert_eq!((apart.status.as_u16(), apart.code()), (503, "projections_apart"));
}

#[tokio::test]
async fn reports_hold_every_row_and_no_formula() {
    let mut world = world!();
    let alpha = world.ledger.alpha;
    let mut events = world.ledger.top_up(alpha, 1_000_000_000);
    events.extend((0..2_500).map(|_| world.ledger.usage(alpha)));
    world.ledger.append(events).await;
    world.project().await;
    let newest = world.ledger.position();

    let (usage, trailers) = world.csv("/v1/admin/reports/usage.csv").await;
    assert_eq!((usage.len(), &trailers["ledger-rows"]), (2_501, &"2500".parse().unwrap()));
    assert_eq!(
        usage[0].join(","),
        "created_at,request_id,public_app_id,feature_key,route_mode,provider,model,input_tokens,\
        output_tokens,upstream_cost_usd,retail_price_usd,channel_revenue_usd,platform_revenue_usd"
    );
    assert_eq!(usage[1][1], format!("'=req-{newest}"), "newest first, and no formula");
    assert_eq!(usage[1][2..9], ["alpha-app", "chat", "platform", "openai", "'@model, \"quoted\"", "100", "20"]);
    assert_eq!(usage[1][9..], [COST, CHARGE, SHARE, CHARGE - COST - SHARE].map(usd));
    assert_eq!(world.csv("/v1/admin/reports/usage.csv?from=2100-01-01T00:00:00Z").await.0.len(), 1);

    let (revenue, _) = world.csv("/v1/admin/reports/revenue.csv").await;
    let developer = alpha.developer.to_string();
    assert_eq!(revenue[1][..4], ["alpha-app", &developer, "'=alpha@x.test", "2500"]);
    assert_eq!(revenue[1][5], usd(2_500 * CHARGE));
    assert_eq!((&revenue[2][0], &revenue[2][3], &revenue[2][4]), (&"beta-app".to_owned(), &"0".to_owned(), &usd(0)));

    let (journal, trailers) = world.csv("/v1/admin/reports/journal.csv").await;
    assert_eq!((journal.len(), &trailers["ledger-rows"]), (1 + 2 + 2_500 * 6, &"2501".parse().unwrap()));
    let units = |text: &String| if text.is_empty() { 0 } else { text.parse::<Money>().unwrap().units() };
    let sum: i64 = journal[1..].iter().map(|line| units(&line[8]) - units(&line[9])).sum();
    assert_eq!(sum, 0, "debits are credits");
    let last = journal.iter().rfind(|line| line[6] == "2010").unwrap();
    assert_eq!(last[10], usd(2_500 * CHARGE - 1_000_000_000), "a negative amount stays a number");
    assert_eq!(last[7], format!("Liabilities:CustomerCredits:Paid:W-{}", alpha.wallet));
}

#[tokio::test]
async fn an_export_that_breaks_off_does_not_look_complete() {
    let mut world = world!();
    let alpha = world.ledger.alpha;
    for _ in 0..3 {
        let events = (0..4_000).map(|_| world.ledger.usage(alpha)).collect();
        world.ledger.append(events).await;
    }
    world.project().await;
    let response = world.send("/v1/admin/reports/usage.csv", ADMIN).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    world
        .tamper("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'modelfaucet-query'")
        .await;
    let rest = body.collect().await;
    assert!(rest.is_err(), "the server must abort the connection");
    // Until the pool has noticed that its sessions are gone, readers are told to come again.
    let began = Instant::now();
    while world.send("/v1/admin/reports/usage.csv", ADMIN).await.status() == 503 {
        assert!(began.elapsed() < Duration::from_secs(10), "exports do not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.csv("/v1/admin/reports/usage.csv").await.0.len(), 12_001, "and the next export works");
}

#[tokio::test]
async fn half_of_the_connections_stay_free_of_exports() {
    let mut world = world!();
    let alpha = world.ledger.alpha;
    let events = (0..4_000).map(|_| world.ledger.usage(alpha)).collect();
    world.ledger.append(events).await;
    world.project().await;
    let path = "/v1/admin/reports/journal.csv";
    let (one, two) = (world.send(path, ADMIN).await, world.send(path, ADMIN).await);
    let third = world.get(path, ADMIN).await;
    assert_eq!((third.status.as_u16(), third.code()), (503, "too_many_exports"));
    world.shown("/v1/admin/trial-balance").await;
    drop((one, two));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.send(path, ADMIN).await.status(), 200, "clients that went away give their connections back");
}

#[tokio::test]
async fn readiness_names_what_is_wrong() {
    let mut world = world!();
    let ready = readiness(&world.state).await;
    assert!(ready.ok, "{ready:?}");
    let events = world.ledger.top_up(world.ledger.alpha, 1_000_000);
    world.ledger.append(events).await;
    assert_eq!(readiness(&world.state).await.checks.lag.events, 2);

    world.tamper("UPDATE projection.checkpoint SET halted = 'test' WHERE name = 'journal'").await;
    let probe = TowerToHyperService::new(probe_router(world.state.clone()));
    let answer = probe.call(Request::get("/ready").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 503);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["ok"], &body["checks"]["database"]["ok"]), (&json!(false), &json!(true)));
    assert_eq!(body["checks"]["projections"]["detail"], "journal has halted");
    let health = probe.call(Request::get("/health").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(health.status(), 200);
}

#[tokio::test]
async fn before_the_projector_has_run_reads_say_so() {
    let Some(database) = TestDatabase::create().await else { return };
    let options = QueryOptions::new(database.role("ledger_query"), TokenHash::of_text(ADMIN), "http://gateway.test/v1");
    let state = QueryState::connect(options).await.unwrap();
    assert!(!readiness(&state).await.ok);
    let (routes, _) = router(state).split_for_parts();
    let routes = routes.layer(middleware::from_fn(|request, next| observe("test", request, next)));
    let request = Request::get("/v1/admin/freezes").header("authorization", format!("Bearer {ADMIN}"));
    let answer = TowerToHyperService::new(routes).call(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 503);
}
