//! What every handler needs: connections, the operator's token, and how far the projections are.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Pool, PoolError, RecyclingMethod, Runtime};
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::log::AccessLog;
use modelfaucet_schema::log::connection;
use modelfaucet_schema::token::TokenHash;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::QueryError;
use crate::pooled::Pooled;
use crate::progress::{At, Progress};

/// How long a request waits for a free connection. Together with what a statement may take, every request has an answer within 10 s.
const CONNECTION_WAIT: Duration = Duration::from_secs(2);
/// How long a new connection may take to be there.
const CONNECTION_MADE: Duration = Duration::from_secs(5);
/// Settings of every connection. A statement's limit holds for each page of an export, not for the whole.
const SESSION: &str = "-c default_transaction_read_only=on -c statement_timeout=7s -c idle_in_transaction_session_timeout=60s \
                       -c jit=off";

/// How to answer reads.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// The database; the user should be `ledger_query`.
    pub database: tokio_postgres::Config,
    /// Hash of the operator's token.
    pub admin_token: TokenHash,
    /// Connections at most. Half of them, at least one, may be busy with exports.
    pub pool_size: usize,
    /// How long a read waits for the position that it asks for.
    pub max_wait: Duration,
    /// Projections that are further behind, in time, make the service not ready.
    pub max_lag: Duration,
    /// Leaves it to the database's row security to hide other tenants' rows. Only for the test that shows that it does.
    pub without_own_filter: bool,
    /// Where the gateway is; shown by the readiness check.
    pub gateway_base_url: String,
}

impl QueryOptions {
    /// Eight connections, 2 s of waiting, a minute of lag.
    pub fn new(database: tokio_postgres::Config, admin_token: TokenHash, gateway_base_url: impl Into<String>) -> Self {
        Self {
            database,
            admin_token,
            pool_size: 8,
            max_wait: Duration::from_secs(2),
            max_lag: Duration::from_mins(1),
            without_own_filter: false,
            gateway_base_url: gateway_base_url.into(),
        }
    }
}

/// The state of the read API. Cheap to clone.
#[derive(Clone)]
pub struct QueryState(Arc<Inner>);

struct Inner {
    options: QueryOptions,
    pool: Pool,
    exports: Arc<Semaphore>,
    access: AccessLog,
    progress: Progress,
}

impl QueryState {
    /// Connects to the database, once, to see that it answers.
    ///
    /// # Errors
    /// [`QueryError`] if it does not.
    pub async fn connect(options: QueryOptions) -> Result<Self, QueryError> {
        let mut database = options.database.clone();
        let given = database.get_options().map(|given| format!("{given} ")).unwrap_or_default();
        database.options(format!("{given}{SESSION}"));
        if database.get_application_name().is_none() {
            database.application_name("modelfaucet-query");
        }
        let size = options.pool_size.max(1);
        let pool = Pool::builder(connection::manager(database, RecyclingMethod::Fast))
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION_WAIT))
            .create_timeout(Some(CONNECTION_MADE))
            .build()?;
        drop(pool.get().await?);
        metrics::counter!("modelfaucet_db_pool_timeouts_total").increment(0);
        let exports = Arc::new(Semaphore::new((size / 2).max(1)));
        let access = AccessLog::new(options.database.clone());
        Ok(Self(Arc::new(Inner { options, pool, exports, access, progress: Progress::default() })))
    }

    pub(crate) fn options(&self) -> &QueryOptions {
        &self.0.options
    }

    /// A connection.
    pub(crate) async fn client(&self) -> Result<Pooled, QueryError> {
        self.0.pool.get().await.map(Pooled::new).map_err(|error| {
            if matches!(error, PoolError::Timeout(_)) {
                metrics::counter!("modelfaucet_db_pool_timeouts_total").increment(1);
            }
            error.into()
        })
    }

    /// Shows how busy the database connections are.
    pub fn show_pool(&self) {
        let status = self.0.pool.status();
        for (state, count) in [
            ("busy", status.size.saturating_sub(status.available)),
            ("idle", status.available),
            ("waiting", status.waiting),
        ] {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            metrics::gauge!("modelfaucet_db_pool_connections", "state" => state).set(f64::from(count));
        }
    }

    /// A connection, as soon as `projections` are where the reader wants them.
    pub(crate) async fn client_at(&self, at: &At, projections: &[&str]) -> Result<Pooled, QueryError> {
        at.wait(self, projections).await?;
        self.client().await
    }

    /// Where reads of exports and uses of tokens are recorded.
    pub(crate) fn access(&self) -> &AccessLog {
        &self.0.access
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.0.progress
    }

    /// The right to keep a connection for an export.
    pub(crate) fn export_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let busy = || ApiError::unavailable("too_many_exports", "Too many exports are running.").retry_after(5);
        Arc::clone(&self.0.exports).try_acquire_owned().map_err(|_| busy())
    }
}
