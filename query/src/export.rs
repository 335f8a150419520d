//! Answers of any length in bounded memory: a cursor in the server, a page of rows at a time, the next one fetched when the
//! client has taken the last.
//!
//! An export sees one moment from its first row to its last. One that breaks off aborts the connection: a truncated answer never
//! looks complete. What it holds at most: two pages of rows and one connection of the pool, the latter for half of the pool only.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use modelfaucet_schema::http::ApiError;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::answer::stamp;
use crate::error::QueryError;
use crate::progress::{AsOf, At};
use crate::snapshot::Snapshot;
use crate::state::QueryState;
use crate::tenant::Tenant;

/// Rows per round trip.
const ROWS: i32 = 1_000;
/// How long a client may take for one page before the export ends: a sleeping client must not keep a snapshot open.
const STALL: Duration = Duration::from_secs(30);
/// How long to wait between two looks for a moment at which the projections stand at one position.
const LEVEL_POLL: Duration = Duration::from_millis(20);
/// Trailer with the number of rows, for clients that ask for trailers.
const LEDGER_ROWS: &str = "ledger-rows";

/// How rows become bytes.
pub(crate) trait Format: Send + 'static {
    /// Content type of the answer.
    fn content_type(&self) -> &'static str;

    /// What stands before the rows.
    fn begin(&mut self, as_of: &AsOf) -> Result<Vec<u8>, QueryError>;

    /// Some rows.
    fn rows(&mut self, rows: &[Row]) -> Result<Vec<u8>, QueryError>;

    /// What stands behind them.
    fn end(&mut self) -> Result<Vec<u8>, QueryError> {
        Ok(Vec::new())
    }
}

/// A statement whose rows are streamed.
pub(crate) struct Export<F> {
    /// The projections behind it.
    pub(crate) projections: &'static [&'static str],
    /// Must they stand at one position?
    pub(crate) level: bool,
    /// The statement.
    pub(crate) sql: &'static str,
    /// Its parameters.
    pub(crate) params: Vec<Box<dyn ToSql + Send + Sync>>,
    /// The form of the answer.
    pub(crate) format: F,
}

enum Piece {
    Chunk(Bytes),
    /// All rows were sent; how many.
    End(u64),
}

/// The client went away or takes nothing any more; nobody is left to tell.
struct Gone;

impl<F: Format> Export<F> {
    /// Begins the answer. What goes wrong before its first page is an error with a status of its own.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) async fn answer(self, state: &QueryState, at: &At) -> Result<Response, QueryError> {
        let permit = state.export_permit()?;
        at.wait(state, self.projections).await?;
        let content_type = self.format.content_type();
        let (began, beginning) = oneshot::channel();
        let (pieces, mut chunks) = mpsc::channel(1);
        tokio::spawn(self.run(state.clone(), permit, began, pieces));
        // The sender is gone without a word only if the task panicked.
        let as_of = beginning.await.map_err(|_| ApiError::internal())??;
        let body = stream::poll_fn(move |context| chunks.poll_recv(context));
        let body = stream::unfold((body, false), |(mut body, ended)| async move {
            use futures_util::StreamExt as _;
            match body.next().await {
                Some(Piece::Chunk(chunk)) => Some((Ok(Frame::data(chunk)), (body, false))),
                Some(Piece::End(rows)) => Some((Ok(Frame::trailers(trailers(rows))), (body, true))),
                None if ended => None,
                None => Some((Err(std::io::Error::other("the export broke off")), (body, true))),
            }
        });
        let mut response = Body::new(StreamBody::new(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(TRAILER, HeaderValue::from_static(LEDGER_ROWS));
        stamp(headers, &as_of);
        Ok(response)
    }

    async fn run(
        mut self,
        state: QueryState,
        _permit: OwnedSemaphorePermit,
        began: oneshot::Sender<Result<AsOf, QueryError>>,
        pieces: mpsc::Sender<Piece>,
    ) {
        let mut began = Some(began);
        match self.send(&state, &mut began, &pieces).await {
            Ok(Ok(()) | Err(Gone)) => {}
            Err(error) => {
                if let Some(began) = began.take() {
                    // Nobody waits any more if this fails.
                    drop(began.send(Err(error)));
                } else {
                    tracing::error!(%error, "an export broke off");
                }
            }
        }
    }

    async fn send(
        &mut self,
        state: &QueryState,
        began: &mut Option<oneshot::Sender<Result<AsOf, QueryError>>>,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<Result<(), Gone>, QueryError> {
        let mut client = state.client().await?;
        let deadline = Instant::now() + state.options().max_wait;
        let snapshot = loop {
            let snapshot = Snapshot::begin(&mut client, Tenant::House, self.projections).await?;
            if !self.level || snapshot.is_level() {
                break snapshot;
            }
            drop(snapshot);
            if Instant::now() >= deadline {
                return Err(apart().into());
            }
            tokio::time::sleep(LEVEL_POLL).await;
        };
        snapshot.take_time().await?;
        let params: Vec<&(dyn ToSql + Sync)> = self.params.iter().map(|param| &**param as _).collect();
        let cursor = snapshot.open(self.sql, &params).await?;
        let mut rows = snapshot.fetch(&cursor, ROWS).await?;
        let mut chunk = self.format.begin(&snapshot.as_of())?;
        let mut count = 0_u64;
        loop {
            chunk.append(&mut self.format.rows(&rows)?);
            count += u64::try_from(rows.len()).unwrap_or_default();
            let is_last = rows.len() < usize::try_from(ROWS).unwrap_or_default();
            if is_last {
                chunk.append(&mut self.format.end()?);
            }
            if let Some(began) = began.take()
                && began.send(Ok(snapshot.as_of())).is_err()
            {
                return Ok(Err(Gone));
            }
            if let Err(gone) = hand_over(pieces, Piece::Chunk(chunk.into())).await {
                return Ok(Err(gone));
            }
            if is_last {
                return Ok(hand_over(pieces, Piece::End(count)).await);
            }
            rows = snapshot.fetch(&cursor, ROWS).await?;
            chunk = Vec::new();
        }
    }
}

async fn hand_over(pieces: &mpsc::Sender<Piece>, piece: Piece) -> Result<(), Gone> {
    match tokio::time::timeout(STALL, pieces.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Gone),
        Err(_) => {
            tracing::warn!("an export ended: its client takes nothing any more");
            Err(Gone)
        }
    }
}

fn trailers(rows: u64) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(LEDGER_ROWS), rows.into())])
}

fn apart() -> ApiError {
    ApiError::unavailable("projections_apart", "The projections to compare stand at different positions.")
}
