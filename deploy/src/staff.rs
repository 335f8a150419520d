//! `modelfaucet staff`: tokens for the people who run the ledger.

use std::io::Write as _;

use http::Method;
use modelfaucet_schema::ids::TokenId;
use modelfaucet_schema::staff::StaffRole;
use modelfaucet_schema::time::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::client::{Call, LedgerArgs};
use crate::exit::{Exit, Failure};

/// What to do with staff tokens.
#[derive(clap::Subcommand)]
pub(crate) enum StaffVerb {
    /// Issue a token; it is printed once, to standard output
    Issue(IssueArgs),
    /// List all tokens, newest first
    List {
        #[command(flatten)]
        ledger: LedgerArgs,
    },
    /// Refuse a token from now on
    Revoke {
        /// The token's id, as `list` shows it
        #[arg(value_name = "TOKEN_ID")]
        token: TokenId,
        #[command(flatten)]
        ledger: LedgerArgs,
    },
}

/// A token to issue.
#[derive(clap::Args)]
pub(crate) struct IssueArgs {
    /// Whose it is: one person or one machine, never a team
    #[arg(value_name = "NAME")]
    name: String,
    /// `auditor` reads everything but secrets, `operator` freezes and revokes but moves no money, `admin` does everything but issue
    /// tokens
    #[arg(long, value_name = "ROLE")]
    role: StaffRole,
    /// When it ends, as ISO 8601 with offset; without it the token lives until it is revoked
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
    #[command(flatten)]
    ledger: LedgerArgs,
}

#[derive(Deserialize)]
struct Issued {
    token: String,
    item: Issue,
}

#[derive(Deserialize)]
struct Issue {
    id: TokenId,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    id: TokenId,
    name: String,
    role: StaffRole,
    token_prefix: String,
    status: String,
    expires_at: Option<String>,
    created_at: String,
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(verb: &StaffVerb) -> Result<Exit, Failure> {
    let runtime = crate::runtime()?;
    match verb {
        StaffVerb::Issue(args) => runtime.block_on(issue(args)),
        StaffVerb::List { ledger } => runtime.block_on(list(ledger)),
        StaffVerb::Revoke { token, ledger } => runtime.block_on(revoke(*token, ledger)),
    }
}

/// Not sent a second time by itself: each time it would make another token.
async fn issue(args: &IssueArgs) -> Result<Exit, Failure> {
    let (client, tokens) = (args.ledger.client()?, args.ledger.tokens()?);
    let mut body = json!({ "name": args.name, "role": args.role });
    if let Some(end) = args.expires_at {
        body["expires_at"] = json!(end);
    }
    let call = Call::post("/v1/admin/tokens", &body).token(tokens.admin()?);
    let issued: Issued = client.send(&call).await?.json()?;
    eprintln!("token {} for {} ({}), shown this once:", issued.item.id, args.name, args.role);
    println!("{}", issued.token);
    Ok(Exit::Ok)
}

async fn list(ledger: &LedgerArgs) -> Result<Exit, Failure> {
    let (client, tokens) = (ledger.client()?, ledger.tokens()?);
    let mut out = std::io::stdout().lock();
    let mut path = "/v1/admin/tokens?limit=200".to_owned();
    loop {
        let page: Page = client.send(&Call::get(path).token(tokens.admin()?)).await?.json()?;
        for item in page.items {
            let ends = item.expires_at.as_deref().unwrap_or("never");
            writeln!(
                out,
                "{}  {:8}  {:7}  {}…  since {}  ends {ends}  {}",
                item.id,
                item.role.text(),
                item.status,
                item.token_prefix,
                item.created_at,
                item.name
            )?;
        }
        let Some(cursor) = page.next_cursor else { return Ok(Exit::Ok) };
        path = format!("/v1/admin/tokens?limit=200&cursor={cursor}");
    }
}

async fn revoke(token: TokenId, ledger: &LedgerArgs) -> Result<Exit, Failure> {
    let (client, tokens) = (ledger.client()?, ledger.tokens()?);
    let call = Call::new(Method::DELETE, format!("/v1/admin/tokens/{token}")).token(tokens.admin()?);
    client.send(&call).await?;
    println!("{token} is refused from now on");
    Ok(Exit::Ok)
}
