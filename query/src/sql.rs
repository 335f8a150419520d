//! The statements by name. Each lives in a file of its own, whose header says what it gives and takes.

macro_rules! statements {
    ($($constant:ident = $file:literal;)+) => {
        $(pub(crate) const $constant: &str = include_str!(concat!("sql/", $file, ".sql"));)+

        /// Every statement: its file's name and its text. A test prepares them all.
        pub const STATEMENTS: &[(&str, &str)] = &[$(($file, $constant)),+];
    };
}

statements! {
    APPS = "apps";
    AUDIT = "audit";
    AUDIT_LOG = "audit_log";
    CHECKPOINTS = "checkpoints";
    DEVELOPER_PROVIDER_KEYS = "developer_provider_keys";
    CLEARING = "clearing";
    CLEARING_ACCOUNTS = "clearing_accounts";
    CLEARING_OPEN = "clearing_open";
    CLEARING_UNITS = "clearing_units";
    DEVELOPER_TOKEN = "developer_token";
    DISPUTES = "disputes";
    FEATURES = "features";
    FREEZES = "freezes";
    JOURNAL_EXPORT = "journal_export";
    JOURNAL_OF_ACCOUNT = "journal_of_account";
    JOURNAL_OF_WALLET_ACCOUNT = "journal_of_wallet_account";
    JOURNAL_PAGE = "journal_page";
    PAYOUTS = "payouts";
    PAYOUTS_EXPORT = "payouts_export";
    PAYOUT_HANDOVER = "payout_handover";
    OPERATIONS_ACTS = "operations_acts";
    OPERATIONS_PAYOUTS = "operations_payouts";
    OPERATIONS_TOP_UPS = "operations_top_ups";
    OPERATIONS_WALLETS = "operations_wallets";
    PROJECTIONS = "projections";
    RATE_CARD = "rate_card";
    RECONCILIATION = "reconciliation";
    REFUNDS = "refunds";
    REVENUE_EXPORT = "revenue_export";
    SESSION = "session";
    SESSIONS = "sessions";
    STAFF_TOKEN = "staff_token";
    STAFF_TOKENS = "staff_tokens";
    STATEMENT = "statement";
    TENANT = "tenant";
    TOKENS = "tokens";
    TOP_UPS = "top_ups";
    TRIAL_BALANCE = "trial_balance";
    USAGE_APP = "usage_app";
    USAGE_EXPORT = "usage_export";
    USAGE_PAGE = "usage_page";
    USAGE_TOTALS = "usage_totals";
    USAGE_TOTALS_OF_RANGE = "usage_totals_of_range";
    USER_PROVIDER_KEYS = "user_provider_keys";
    USER_WALLET = "user_wallet";
    WALLET = "wallet";
    WALLETS = "wallets";
}
