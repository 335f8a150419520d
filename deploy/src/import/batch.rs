//! Rows on their way to the ledger: one request per batch, repeated under the same keys until every row has an answer that lasts.

use bytes::Bytes;
use http::StatusCode;
use modelfaucet_schema::error::ErrorDetail;
use modelfaucet_schema::ids::WalletId;
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::usage::Usage;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::rows::{BadRow, Row, Rows};
use super::tally::Tally;
use crate::client::{Call, Client, ClientError, Patience, Reply, is_temporary};
use crate::exit::Failure;

const PATH: &str = "/v1/usage/batch";
/// Texts of one batch in bytes, so that a body stays far below the API's limit.
const MAX_TEXT: usize = 2 << 20;

/// Neighbouring rows of a file.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) rows: Vec<Row>,
    bad: Vec<BadRow>,
    /// The last row's place.
    last: u64,
}

impl Batch {
    /// Takes up to `size` rows; empty at the end of the file.
    ///
    /// # Errors
    /// A [`Failure`] if the file cannot be read.
    pub(crate) fn fill(rows: &mut Rows<'_>, size: usize) -> Result<Self, Failure> {
        let (mut batch, mut text) = (Self::default(), 0);
        while batch.rows.len() + batch.bad.len() < size && text < MAX_TEXT {
            match rows.next()? {
                None => break,
                Some(Ok(row)) => {
                    text += row.model.len() + row.provider_request_id.as_ref().map_or(0, String::len);
                    batch.last = row.number;
                    batch.rows.push(row);
                }
                Some(Err(bad)) => {
                    batch.last = bad.number;
                    batch.bad.push(bad);
                }
            }
        }
        Ok(batch)
    }

    /// Nothing in it?
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.bad.is_empty()
    }
}

/// What to do with usage that a wallet cannot pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnShortfall {
    /// Refuse it
    Refuse,
    /// Record it; what is missing becomes a receivable
    Receivable,
}

/// Brings batches to the ledger.
pub(crate) struct Courier {
    pub(crate) client: Client,
    pub(crate) patience: Patience,
    pub(crate) token: SecretString,
    pub(crate) feature: String,
    pub(crate) on_shortfall: OnShortfall,
    /// The file's hash: part of every key.
    pub(crate) digest: String,
}

/// What became of a batch.
pub(crate) struct Delivery {
    /// The last row's place.
    pub(crate) last: u64,
    pub(crate) tally: Tally,
    /// An error if some rows have no answer that lasts.
    pub(crate) end: Result<(), ClientError>,
}

/// A call as the API takes it.
#[derive(Serialize)]
struct Item<'a> {
    /// The key: file and row, so that a row is charged once, whatever is repeated.
    request_id: String,
    wallet_id: WalletId,
    feature_key: &'a str,
    model: &'a str,
    usage: Usage,
    on_shortfall: OnShortfall,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<Timestamp>,
}

/// What became of a row.
#[derive(Deserialize)]
struct ItemReply {
    index: usize,
    status: u16,
    #[serde(default)]
    replayed: bool,
    usage: Option<Charge>,
    error: Option<ErrorDetail>,
}

#[derive(Deserialize)]
struct Charge {
    charged_usd: Money,
    #[serde(default)]
    receivable_usd: Money,
}

impl Courier {
    /// Sends until every row has an answer that lasts, or the patience is over.
    pub(crate) async fn deliver(&self, batch: Batch, wallets: Vec<WalletId>) -> Delivery {
        let mut tally = Tally::default();
        for bad in &batch.bad {
            tally.refuse(bad.number, "bad_row", &bad.problem);
        }
        let rows: Vec<(&Row, WalletId)> = batch.rows.iter().zip(wallets).collect();
        let end = self.send_all(rows, &mut tally).await;
        Delivery { last: batch.last, tally, end }
    }

    async fn send_all(&self, mut rows: Vec<(&Row, WalletId)>, tally: &mut Tally) -> Result<(), ClientError> {
        let mut pauses = self.patience.begin();
        while !rows.is_empty() {
            let call = Call::post_lines(PATH, self.lines(&rows)).token(&self.token);
            let reply = match self.client.send(&call).await {
                Err(error) if error.is_temporary() && pauses.pause().await => continue,
                result => result?,
            };
            let open = sort(&reply, &rows, tally)?;
            let Some(cause) = open.cause else { return Ok(()) };
            if open.rows.len() < rows.len() {
                pauses = self.patience.begin();
            }
            if !cause.is_temporary() || !pauses.pause().await {
                return Err(cause);
            }
            rows = open.rows;
        }
        Ok(())
    }

    fn lines(&self, rows: &[(&Row, WalletId)]) -> Bytes {
        let mut lines = Vec::with_capacity(rows.len() * 384);
        for (row, wallet_id) in rows {
            let item = Item {
                request_id: format!("import:{}:{}", self.digest, row.number),
                wallet_id: *wallet_id,
                feature_key: &self.feature,
                model: &row.model,
                usage: row.usage,
                on_shortfall: self.on_shortfall,
                provider_request_id: row.provider_request_id.as_deref(),
                occurred_at: row.occurred_at,
            };
            // A row that is sent broken comes back refused; this one cannot break.
            lines.extend(serde_json::to_vec(&item).unwrap_or_default());
            lines.push(b'\n');
        }
        lines.into()
    }
}

/// Rows without an answer that lasts.
struct Open<'a> {
    rows: Vec<(&'a Row, WalletId)>,
    /// Why, for one of them; a freeze before anything temporary.
    cause: Option<ClientError>,
}

/// Counts the rows that have their answer; the others stay open.
fn sort<'a>(reply: &Reply, rows: &[(&'a Row, WalletId)], tally: &mut Tally) -> Result<Open<'a>, ClientError> {
    let items: Vec<ItemReply> = reply.lines()?;
    if items.len() != rows.len() || items.iter().enumerate().any(|(index, item)| item.index != index) {
        return Err(reply.unexpected(format!("{} answers to {} lines", items.len(), rows.len())));
    }
    let mut open = Open { rows: Vec::new(), cause: None };
    for (item, (row, wallet)) in items.into_iter().zip(rows) {
        match (item.usage, item.error) {
            (Some(charge), None) => tally.record(&row.usage, charge.charged_usd, charge.receivable_usd, item.replayed),
            (_, Some(error)) => {
                let status = StatusCode::from_u16(item.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let frozen = error.code == "frozen";
                // A fault of the server is the row's no more than an outage is.
                if !frozen && !is_temporary(status, &error.code) && !status.is_server_error() {
                    tally.refuse(row.number, &error.code, &error.message);
                    continue;
                }
                open.rows.push((row, *wallet));
                if frozen || open.cause.is_none() {
                    open.cause = Some(ClientError::Refused {
                        call: format!("row {}", row.number),
                        status,
                        detail: Box::new(error),
                    });
                }
            }
            (None, None) => return Err(reply.unexpected(format!("neither usage nor error for row {}", row.number))),
        }
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    fn row(number: u64) -> Row {
        Row {
            number,
            user: "u".to_owned(),
            model: "gpt-4o-mini".to_owned(),
            usage: Usage::text(10, 1),
            occurred_at: Some(Timestamp::from_micros(0)),
            provider_request_id: None,
        }
    }

    /// Answers each request with these lines and returns the bodies that came.
    async fn server(answers: Vec<String>) -> (Courier, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let bodies = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut stream, mut bodies) = (BufReader::new(stream), Vec::new());
            for answer in answers {
                let (mut line, mut length) = (String::new(), 0);
                while stream.read_line(&mut line).await.unwrap() > 2 {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                bodies.push(String::from_utf8(body).unwrap());
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            bodies
        });
        let courier = Courier {
            client: Client::new(&url).unwrap(),
            patience: Patience::of(Duration::from_secs(5)),
            token: SecretString::from("t"),
            feature: "customer_reply".to_owned(),
            on_shortfall: OnShortfall::Refuse,
            digest: "0123456789abcdef".to_owned(),
        };
        (courier, bodies)
    }

    fn recorded(index: usize, replayed: bool) -> String {
        format!(
            "{{\"index\":{index},\"status\":201,\"replayed\":{replayed},\"usage\":{{\"charged_usd\":\"0.00000003\"}}}}\n"
        )
    }

    fn refused(index: usize, status: u16, code: &str) -> String {
        let error =
            format!("{{\"code\":\"{code}\",\"message\":\"No.\",\"type\":\"t\",\"param\":null,\"request_id\":\"r\"}}");
        format!("{{\"index\":{index},\"status\":{status},\"error\":{error}}}\n")
    }

    fn batch(numbers: std::ops::RangeInclusive<u64>) -> (Batch, Vec<WalletId>) {
        let last = *numbers.end();
        let rows: Vec<Row> = numbers.map(row).collect();
        let wallets = rows.iter().map(|_| WalletId::generate()).collect();
        let bad = vec![BadRow { number: last + 1, problem: "input is missing".to_owned() }];
        (Batch { rows, bad, last: last + 1 }, wallets)
    }

    #[tokio::test]
    async fn only_rows_in_doubt_are_sent_again_under_their_keys() {
        let first = [recorded(0, false), refused(1, 503, "in_doubt"), refused(2, 402, "insufficient_balance")].concat();
        let (courier, bodies) = server(vec![first, recorded(0, true)]).await;
        let (batch, wallets) = batch(7..=9);
        let delivery = courier.deliver(batch, wallets).await;
        assert!(delivery.end.is_ok() && delivery.last == 10);
        let tally = delivery.tally;
        assert_eq!((tally.recorded, tally.replayed, tally.charged.units(), tally.charged_before.units()), (1, 1, 3, 3));
        let codes: Vec<_> = tally.refused.iter().map(|(code, count)| (code.as_str(), *count)).collect();
        assert_eq!(codes, [("bad_row", 1), ("insufficient_balance", 1)]);
        let bodies = bodies.await.unwrap();
        let keys = |body: &str| {
            body.lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["request_id"].to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&bodies[0]).len(), 3);
        assert_eq!(keys(&bodies[1]), ["\"import:0123456789abcdef:8\""]);
        assert!(bodies[0].contains(r#""usage":{"input_uncached":10,"output_text":1},"on_shortfall":"refuse","occurred_at":"1970-01-01T00:00:00.000000Z""#), "{}", bodies[0]);
    }

    #[tokio::test]
    async fn a_freeze_ends_the_import_and_refuses_no_row() {
        let (courier, _) =
            server(vec![[refused(0, 503, "overloaded"), refused(1, 503, "frozen"), recorded(2, false)].concat()]).await;
        let (batch, wallets) = batch(1..=3);
        let delivery = courier.deliver(batch, wallets).await;
        let failure = Failure::from(delivery.end.unwrap_err());
        assert_eq!(failure.exit, crate::exit::Exit::Refused);
        assert!(failure.message.contains("frozen") && failure.message.contains("row 2"), "{}", failure.message);
        assert_eq!((delivery.tally.recorded, delivery.tally.refused.len()), (1, 1));
    }

    #[tokio::test]
    async fn an_answer_for_other_rows_is_not_believed() {
        for answer in [recorded(0, false), [recorded(1, false), recorded(0, false)].concat(), "<html>".to_owned()] {
            let (courier, _) = server(vec![answer]).await;
            let (batch, wallets) = batch(1..=2);
            let delivery = courier.deliver(batch, wallets).await;
            assert!(matches!(delivery.end, Err(ClientError::Unexpected { .. })));
            assert_eq!(delivery.tally.recorded, 0);
        }
    }
}
