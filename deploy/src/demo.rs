//! `modelfaucet demo`: a session, a top-up, a paid call and the books, told step by step. Every figure is computed here too and
//! compared; the demo ends well only if everything adds up.

mod books;
mod figures;
mod story;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use modelfaucet_schema::money::Money;
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Call, Client, ClientError, LedgerArgs, Patience};
use crate::exit::{Exit, Failure};
use crate::seed::{DEMO_APP, DEMO_FEATURE};
use figures::{MODEL, PROVIDER, Tokens, minus, plus};
use story::{Story, fact, money, text};

/// How long the demo waits for a ledger that has only just started.
const PATIENCE: Duration = Duration::from_secs(15);
/// What the customer pays in: ten dollars.
const TOP_UP: Money = Money::from_units(1_000_000_000);
/// The most that the call with a hold may use.
const BOUND: Tokens = Tokens::new(1_203, 0, 1_024);
/// What it really uses.
const REAL: Tokens = Tokens::new(178, 1_025, 212);
/// The call without a hold.
const ONE_SHOT: Tokens = Tokens::new(1_000, 0, 500);
/// Items of the batch, and the place of the one that is bad.
const BATCH: (i64, i64) = (100, 41);

/// A ledger to play against.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Plays the demo against a running ledger.
///
/// # Errors
/// A [`Failure`]: nobody answers, a token is missing, or something does not add up.
pub(crate) fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    let (client, tokens) = (args.ledger.client()?, args.ledger.tokens()?);
    let (admin, developer) = (tokens.admin()?, tokens.developer()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Nobody there is known at once; patience is for a ledger that is there and not ready.
        client.send(&Call::get("/health")).await?;
        tell(&client, admin, developer).await
    })?;
    Ok(Exit::Ok)
}

/// Plays the demo against the ledger in this process.
///
/// # Errors
/// A [`Failure`]: nobody answers, or something does not add up.
pub(crate) async fn play(listen: SocketAddr, admin: &SecretString, developer: &SecretString) -> Result<(), Failure> {
    let host = match listen.ip() {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        host => host,
    };
    let client = Client::new(&format!("http://{}", SocketAddr::new(host, listen.port())))?;
    tell(&client, admin, developer).await
}

async fn tell(client: &Client, admin: &SecretString, developer: &SecretString) -> Result<(), Failure> {
    println!("A session, a top-up, a paid call and the books, against {}", client.base());
    println!("Every amount is in USD; what is marked ok was computed here as well.");
    let story = Story::new(client, Patience::of(PATIENCE));
    let mut demo = Demo { story, admin, developer, run: Uuid::new_v4().simple().to_string(), wallet: String::new() };
    let user = demo.begin().await?;
    demo.top_up(&user).await?;
    let held = demo.paid_call(&user).await?;
    let rest = demo.without_holds().await?;
    demo.look_back(&user, plus(held, rest)).await?;
    demo.story.end()
}

/// Who plays, and what is known so far.
struct Demo<'a> {
    story: Story<'a>,
    admin: &'a SecretString,
    developer: &'a SecretString,
    /// Makes this run's users, keys and payments its own.
    run: String,
    wallet: String,
}

impl Demo<'_> {
    /// A session for a user nobody has seen; an empty wallet; a call that it cannot pay. Returns the session's token.
    async fn begin(&mut self) -> Result<SecretString, ClientError> {
        self.story.step("Open a session for a new user");
        let user = format!("demo-{}", &self.run[..12]);
        let call = Call::post(
            "/v1/sessions",
            &json!({ "public_app_id": DEMO_APP, "external_user_id": user, "feature_key": DEMO_FEATURE }),
        );
        let (_, opened) = self.story.write(&call).await?;
        self.story.check("balance", text(&opened, "/wallet_balance_usd"), Money::ZERO);
        let session = SecretString::from(text(&opened, "/session_token"));
        let wallet = self.wallet(&session).await?;
        self.wallet = text(&wallet, "/id");
        fact("wallet", &self.wallet);

        self.story.step("Ask for a call that the empty wallet cannot pay: no provider would be called");
        let call = self.hold("too-early").token(&session);
        let refusal = self.story.refused(&call).await?;
        self.story.check("refusal", text(&refusal, "/code"), "insufficient_balance");
        self.story.check("required", text(&refusal, "/details/required_usd"), BOUND.bound());
        self.story.check("available", text(&refusal, "/details/available_usd"), Money::ZERO);
        Ok(session)
    }

    /// Ten dollars, credited once although the payment arrives twice.
    async fn top_up(&mut self, user: &SecretString) -> Result<(), ClientError> {
        self.story.step("Request a top-up: nothing is credited before the money has come");
        let call = Call::post(format!("/v1/admin/wallets/{}/top-ups", self.wallet), &json!({ "amount_usd": "10.00" }))
            .token(self.admin)
            .key(format!("demo:{}:top-up", self.run));
        let (_, pending) = self.story.write(&call).await?;
        self.story.check("status", text(&pending, "/status"), "pending");
        self.story.check("amount", text(&pending, "/amount_usd"), TOP_UP);

        self.story.step("The payment arrives");
        let path = format!("/v1/admin/top-ups/{}/credit", text(&pending, "/top_up_id"));
        let call = Call::post(path, &json!({ "payment": format!("demo:{}", self.run), "amount_usd": "10.00" }))
            .token(self.admin);
        let (first, credited) = self.story.write(&call).await?;
        self.story.check("balance", text(&credited, "/wallet/balance_usd"), TOP_UP);

        self.story.step("The same payment arrives again, as webhooks do");
        let (again, _) = self.story.write(&call).await?;
        self.story.check("replayed", again.replayed, true);
        self.story.check("same answer", again.body == first.body, true);
        let wallet = self.wallet(user).await?;
        self.story.check("balance", text(&wallet, "/balance_usd"), TOP_UP);
        Ok(())
    }

    /// A hold before the call, the real usage after it. Returns the charge.
    async fn paid_call(&mut self, user: &SecretString) -> Result<Money, ClientError> {
        self.story.step("Before the call: hold the most that it can cost");
        let call = self.hold("call").token(user);
        let (_, hold) = self.story.write(&call).await?;
        self.story.check("held", text(&hold, "/amount_usd"), BOUND.bound());
        let wallet = self.wallet(user).await?;
        self.figures(&wallet, TOP_UP, BOUND.bound());

        self.story.step("After the call: capture what it really used, the rest is free again");
        let cost = REAL.cost();
        let path = format!("/v1/usage/holds/{}/capture", text(&hold, "/hold_id"));
        let call = Call::post(path, &json!({ "usage": REAL.json() })).token(user);
        let (first, captured) = self.story.write(&call).await?;
        self.story.check("charged", text(&captured, "/charged_usd"), cost.charge);
        self.figures(&captured["wallet"], minus(TOP_UP, cost.charge), Money::ZERO);

        self.story.step("The answer was lost, so the client captures again");
        let (again, _) = self.story.write(&call).await?;
        self.story.check("replayed", again.replayed, true);
        self.story.check("same answer", again.body == first.body, true);
        Ok(cost.charge)
    }

    /// Calls that have happened: one, then a hundred with a bad one among them. Returns what they cost.
    async fn without_holds(&mut self) -> Result<Money, ClientError> {
        self.story.step("Report a call that has happened already, as the app's developer");
        let one = ONE_SHOT.cost();
        let call = Call::post("/v1/usage", &self.item("one", ONE_SHOT)).token(self.developer);
        let (_, recorded) = self.story.write(&call).await?;
        self.story.check("charged", text(&recorded, "/charged_usd"), one.charge);
        self.story.check("developer's share", text(&recorded, "/developer_revenue_usd"), one.developer);

        let (count, bad) = BATCH;
        self.story.step("Report a hundred more in one request; one of them is nonsense");
        let (mut lines, mut expected) = (Vec::new(), Money::ZERO);
        for index in 0..count {
            // Odd counts of cached tokens end in half a unit: the ties that rounding is about.
            let tokens = Tokens::new(200 + 7 * index, 3 * index, 20 + index);
            let mut item = self.item(&index.to_string(), tokens);
            if index == bad {
                item["usage"] = json!({ "output_text": -1 });
            } else {
                expected = plus(expected, tokens.cost().charge);
            }
            lines.push(item.to_string());
        }
        let call = Call::post_lines("/v1/usage/batch", Bytes::from(lines.join("\n"))).token(self.developer);
        let tally = self.batch(&call).await?;
        self.story.check("recorded", tally.recorded, count - 1);
        self.story.check("refused", tally.refused.join(", "), format!("#{bad} invalid_request"));
        self.story.check("charged", tally.charged, expected);

        self.story.step("The same request once more");
        let tally = self.batch(&call).await?;
        self.story.check("recorded", tally.recorded, 0);
        self.story.check("replayed", tally.replayed, count - 1);
        Ok(plus(one.charge, expected))
    }

    async fn batch(&mut self, call: &Call<'_>) -> Result<Tally, ClientError> {
        let reply = self.story.write_lines(call, BATCH.0).await?;
        let mut tally = Tally::default();
        for item in reply.lines::<Value>()? {
            match (item["status"].as_i64(), item["replayed"].as_bool()) {
                (Some(201), Some(true)) => tally.replayed += 1,
                (Some(201), _) => {
                    tally.recorded += 1;
                    tally.charged = plus(tally.charged, money(&item, "/usage/charged_usd"));
                }
                _ => tally.refused.push(format!("#{} {}", item["index"], text(&item, "/error/code"))),
            }
        }
        Ok(tally)
    }

    /// Wallet, statement, trial balance, reconciliation: four views of the same events.
    async fn look_back(&mut self, user: &SecretString, spent: Money) -> Result<(), ClientError> {
        let left = minus(TOP_UP, spent);
        self.story.step("Look at the wallet");
        let wallet = self.wallet(user).await?;
        fact("spent", &spent.to_string());
        self.figures(&wallet, left, Money::ZERO);

        self.story.step("Look at the statement");
        let statement =
            self.story.read(&format!("/v1/wallets/{}/statement?limit=200", self.wallet), self.developer).await?;
        let lines = books::statement(&statement);
        lines.print();
        // A top-up, a capture, a call, and the batch without the bad one.
        self.story.check("lines", lines.len(), usize::try_from(BATCH.0).unwrap_or_default() + 2);
        self.story.check("running balance", lines.running(), left);

        self.story.step("Look at the books: every debit has its credit");
        let balance = self.story.read("/v1/admin/trial-balance", self.admin).await?;
        let balance = books::trial_balance(&balance);
        balance.print();
        self.story.check("debits − credits", balance.sum(), Money::ZERO);

        self.story.step("Reconcile: do wallets, postings and events tell the same?");
        let report = self.story.read("/v1/admin/reconciliation/ledger", self.admin).await?;
        fact("wallets", &text(&report, "/summary/wallet_count"));
        self.story.check("mismatches", text(&report, "/summary/mismatch_count"), 0);
        let own = report["items"]
            .as_array()
            .and_then(|items| items.iter().find(|item| text(item, "/wallet_id") == self.wallet));
        let own = own.cloned().unwrap_or_default();
        self.story.check("this wallet", text(&own, "/status"), "balanced");
        self.story.check("by postings", text(&own, "/ledger_balance_usd"), left);
        Ok(())
    }

    /// The request for a hold over [`BOUND`].
    fn hold<'c>(&self, name: &str) -> Call<'c> {
        let body = json!({ "provider": PROVIDER, "model": MODEL, "usage_bound": BOUND.json() });
        Call::post("/v1/usage/holds", &body).key(format!("demo:{}:{name}", self.run))
    }

    /// A call that has happened, paid by the demo's wallet.
    fn item(&self, name: &str, tokens: Tokens) -> Value {
        json!({
            "request_id": format!("demo:{}:{name}", self.run),
            "wallet_id": self.wallet,
            "feature_key": DEMO_FEATURE,
            "provider": PROVIDER,
            "model": MODEL,
            "usage": tokens.json(),
        })
    }

    async fn wallet(&mut self, user: &SecretString) -> Result<Value, ClientError> {
        self.story.read("/v1/user/wallet", user).await
    }

    fn figures(&mut self, wallet: &Value, balance: Money, held: Money) {
        self.story.check("balance", text(wallet, "/balance_usd"), balance);
        self.story.check("held", text(wallet, "/held_usd"), held);
        self.story.check("available", text(wallet, "/available_usd"), minus(balance, held));
    }
}

/// What became of a batch.
#[derive(Default)]
struct Tally {
    recorded: i64,
    replayed: i64,
    /// Places and codes.
    refused: Vec<String>,
    charged: Money,
}
