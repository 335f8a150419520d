//! How our server is set: full durability, tuned for a log that only grows.

use std::ffi::OsString;
use std::path::Path;

/// What an insert-only log of 1 kB rows with a few random 16-byte keys likes.
///
/// - `shared_buffers` holds the hot index pages; the log itself is read once, in order.
/// - Rare checkpoints (`max_wal_size`, `checkpoint_timeout`): after each, the first touch of an index
///   page writes all of it to the WAL, and random keys touch many pages.
/// - Nobody may take a processor for half a second while calls wait for a commit. Statistics of rows that only ever grow need no large
///   sample (`default_statistics_target`; what is looked up, is looked up by key), and vacuum has time (`autovacuum_vacuum_cost_delay`).
///   What a backend writes to a table goes on to the disk at once (`backend_flush_after`), not all together with the next commit.
/// - `jit` only delays our short statements.
const TUNING: &[(&str, &str)] = &[
    ("shared_buffers", "256MB"),
    ("huge_pages", "try"),
    ("max_wal_size", "4GB"),
    ("min_wal_size", "256MB"),
    ("checkpoint_timeout", "15min"),
    ("wal_compression", "off"),
    ("default_statistics_target", "10"),
    ("autovacuum_vacuum_cost_delay", "10ms"),
    ("backend_flush_after", "256kB"),
    // A copy of the WAL that stays away must not fill the disk.
    ("max_slot_wal_keep_size", "8GB"),
    ("max_connections", "100"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("cluster_name", "modelfaucet"),
];

/// Not for sale: a reply promises that the money is on disk.
const DURABILITY: &[(&str, &str)] = &[("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on")];

/// The arguments of `postgres`, data directory aside. Of a setting given twice the last wins:
/// `extra` beats our tuning and loses to durability and to where the server listens.
pub(super) fn arguments(extra: &[(String, String)], socket_dir: &Path, port: u16) -> Vec<OsString> {
    let tuning = TUNING.iter().copied();
    let extra = extra.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let durability = DURABILITY.iter().copied();
    let port = port.to_string();
    let place = [
        ("listen_addresses", ""),
        ("unix_socket_permissions", "0700"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("port", &port),
    ];
    let settings = tuning.chain(extra).chain(durability).chain(place);
    let mut arguments: Vec<OsString> =
        settings.flat_map(|(name, value)| ["-c".into(), format!("{name}={value}").into()]).collect();
    // Quoted, because this setting is a list: a comma may be part of the path.
    let mut listed = OsString::from("unix_socket_directories=\"");
    listed.push(socket_dir);
    listed.push("\"");
    arguments.extend(["-c".into(), listed]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_settings_beat_tuning_and_lose_to_durability() {
        let extra = [("fsync", "off"), ("jit", "on")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let arguments = arguments(&extra, Path::new("/run/x"), 5432);
        let last = |name: &str| {
            let given = arguments.iter().filter_map(|argument| argument.to_str());
            given.filter_map(|argument| argument.strip_prefix(name)).next_back()
        };
        assert_eq!(last("fsync="), Some("on"));
        assert_eq!(last("jit="), Some("on"));
        assert_eq!(last("listen_addresses="), Some(""));
    }
}
