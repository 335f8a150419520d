//! The faults that are neither a death nor a full disk: none at all, lost sessions, partitions, connections and servers that say
//! nothing, bytes that are not what was written, too little memory. Each shows that it happened; afterwards the judge has its say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, missing_docs, reason = "each module of a test is used by this file only")]

#[path = "faults/bytes.rs"]
mod bytes;
#[path = "faults/calm.rs"]
mod calm;
#[path = "faults/memory.rs"]
mod memory;
#[path = "faults/partitions.rs"]
mod partitions;
#[path = "faults/sessions.rs"]
mod sessions;
#[path = "faults/silence.rs"]
mod silence;

use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::proxy::{Proxy, Target};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// A number of the environment, or the usual one.
fn asked_for(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A proxy before the server of a database, and how somebody connects through it.
async fn through_a_proxy(database: &TestDatabase, user: &str) -> (Proxy, Config) {
    let direct = database.superuser();
    let Some(Host::Unix(folder)) = direct.get_hosts().first() else { panic!("a server of ours") };
    let proxy = Proxy::before_target(Target::Socket(folder.join(".s.PGSQL.5432"))).await;
    let mut config = Config::new();
    config.host("127.0.0.1").port(proxy.port()).user(user).dbname(direct.get_dbname().unwrap());
    (proxy, config)
}
