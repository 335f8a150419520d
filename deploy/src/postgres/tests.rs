//! Rules of the private server, shown on real ones in temporary directories.
//!
//! Skipped with a line when there is no server, unless `MODELFAUCET_REQUIRE` names `postgres`.

use std::error::Error;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use super::{PostgresError, PrivatePostgres, PrivatePostgresOptions};

type Outcome = Result<(), Box<dyn Error>>;

/// The data directory of the helper process below.
const HELPER_DATA_DIR: &str = "MODELFAUCET_TEST_PRIVATE_POSTGRES";

fn skipped() -> bool {
    let none = Path::new("/nonexistent");
    let found = super::Installation::find(None, &super::Cluster::new(none)).is_ok();
    let required = std::env::var("MODELFAUCET_REQUIRE").is_ok_and(|names| names.contains("postgres"));
    assert!(found || !required, "PostgreSQL is required and missing");
    if !found {
        eprintln!("skipped: PostgreSQL is not installed");
    }
    !found
}

/// A new data directory that other users may pass through, in a parent with `mode`.
fn data_dir(mode: u32) -> std::io::Result<(TempDir, PathBuf)> {
    let temp = tempfile::tempdir()?;
    fs::set_permissions(temp.path(), Permissions::from_mode(mode))?;
    let data_dir = temp.path().join("data");
    Ok((temp, data_dir))
}

fn options(data_dir: &Path) -> PrivatePostgresOptions {
    PrivatePostgresOptions {
        data_dir: data_dir.to_path_buf(),
        settings: vec![("shared_buffers".to_owned(), "16MB".to_owned())],
        bin_dir: None,
        recovery_limit: None,
    }
}

fn start(data_dir: &Path) -> Result<PrivatePostgres, PostgresError> {
    PrivatePostgres::start(options(data_dir))
}

/// The first column of the last row, as text.
fn sql(server: &PrivatePostgres, text: &str) -> Result<Option<String>, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = server.config(server.superuser(), "postgres");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(text).await?;
        drop(client);
        connection.await??;
        Ok(messages.iter().rev().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    })
}

fn server_pid(data_dir: &Path) -> Option<Pid> {
    let file = super::Cluster::new(data_dir).pid_file()?;
    Pid::from_raw(file.pid)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_mins(1), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn runs(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()));
    status.is_ok_and(|status| !status.contains(") Z "))
}

#[test]
fn a_second_start_finds_the_data_again() -> Outcome {
    if skipped() {
        return Ok(());
    }
    // With a parent that the server's user may pass through, and with one like `/root`.
    for mode in [0o755, 0o700] {
        let (_temp, data_dir) = data_dir(mode)?;
        let server = start(&data_dir)?;
        sql(&server, "create table kept as select 42 as answer")?;
        server.stop()?;
        assert!(server_pid(&data_dir).is_none(), "the shutdown was not clean");
        let server = start(&data_dir)?;
        assert_eq!(sql(&server, "select answer from kept")?.as_deref(), Some("42"));
        assert_eq!(server.restarts(), 0);
        for name in ["fsync", "synchronous_commit", "full_page_writes", "data_checksums"] {
            assert_eq!(sql(&server, &format!("show {name}"))?.as_deref(), Some("on"), "{name}");
        }
        assert_eq!(sql(&server, "show listen_addresses")?.as_deref(), Some(""));
        let socket_mode = server.socket_dir().metadata()?.permissions().mode();
        assert_eq!(socket_mode & 0o777, 0o700);
    }
    Ok(())
}

#[test]
fn a_killed_server_is_started_again() -> Outcome {
    if skipped() {
        return Ok(());
    }
    let (_temp, data_dir) = data_dir(0o755)?;
    let server = start(&data_dir)?;
    sql(&server, "create table kept as select 42 as answer")?;
    let pid = server_pid(&data_dir).ok_or("no pid file")?;
    kill_process(pid, Signal::KILL)?;
    eventually("the server answers again", || {
        sql(&server, "select answer from kept").is_ok_and(|answer| answer.as_deref() == Some("42"))
    });
    assert!(server.restarts() >= 1);
    let pid = server_pid(&data_dir).ok_or("no pid file")?;
    server.stop()?;
    assert!(!runs(pid));
    Ok(())
}

#[test]
fn a_second_start_on_the_same_directory_refuses() -> Outcome {
    if skipped() {
        return Ok(());
    }
    let (_temp, data_dir) = data_dir(0o755)?;
    let server = start(&data_dir)?;
    let refusal = start(&data_dir).err().ok_or("it started")?.to_string();
    let expected = format!("is in use by process {}", std::process::id());
    assert!(refusal.contains(&expected), "{refusal}");
    assert!(sql(&server, "select 1").is_ok());
    Ok(())
}

/// A process that another thread starts has all our files, the lock too, until it runs its program.
#[test]
fn a_lock_is_let_go_while_other_threads_start_processes() -> Outcome {
    let (_temp, data_dir) = data_dir(0o755)?;
    fs::create_dir(&data_dir)?;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // With a group of its own, like the server: forked, not spawned in one step.
                let mut program = Command::new("true");
                let _ = std::os::unix::process::CommandExt::process_group(&mut program, 0).status();
            }
        });
        let refused = (0..20_000).filter(|_| super::lock(&data_dir).is_err()).count();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(refused, 0);
    });
    Ok(())
}

#[test]
fn a_server_that_cannot_start_says_why() -> Outcome {
    if skipped() {
        return Ok(());
    }
    let (_temp, data_dir) = data_dir(0o755)?;
    let mut options = options(&data_dir);
    options.settings.push(("shared_buffers".to_owned(), "much".to_owned()));
    let error = PrivatePostgres::start(options).err().ok_or("it started")?.to_string();
    assert!(error.contains("FATAL:") && error.contains("shared_buffers"), "{error}");
    // Nothing is left that would hinder a better start.
    start(&data_dir)?.stop()?;
    fs::write(data_dir.join("postgres/PG_VERSION"), "9\n")?;
    let error = start(&data_dir).err().ok_or("it started")?.to_string();
    assert!(error.contains("holds data of PostgreSQL 9"), "{error}");
    Ok(())
}

#[test]
fn the_server_ends_cleanly_when_we_are_killed() -> Outcome {
    if skipped() {
        return Ok(());
    }
    let (_temp, data_dir) = data_dir(0o755)?;
    let (mut helper, pid) = start_helper(&mut Command::new(std::env::current_exe()?), &data_dir)?;
    helper.kill()?;
    helper.wait()?;
    eventually("the server ends by itself", || !runs(pid));
    let log = fs::read_to_string(data_dir.join("postgres.log"))?;
    assert!(log.contains("received fast shutdown request"), "{log}");
    start(&data_dir)?.stop()?;
    Ok(())
}

#[test]
fn an_orphaned_server_is_stopped_before_the_start() -> Outcome {
    if skipped() {
        return Ok(());
    }
    let (_temp, data_dir) = data_dir(0o755)?;
    let (mut helper, pid) = start_helper(&mut Command::new(std::env::current_exe()?), &data_dir)?;
    // A stopped process gets our death's interrupt only when it continues, which `start` waits for.
    kill_process(pid, Signal::STOP)?;
    helper.kill()?;
    helper.wait()?;
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        kill_process(pid, Signal::CONT)
    });
    let server = start(&data_dir)?;
    waker.join().map_err(|_| "the waker panicked")??;
    assert!(!runs(pid) && server_pid(&data_dir) != Some(pid));
    server.stop()?;

    // Nobody tells this one to end but us.
    let server = start(&data_dir)?;
    let pid = server_pid(&data_dir).ok_or("no pid file")?;
    let cluster = super::Cluster::new(&data_dir);
    let begun = Instant::now();
    cluster.end_orphan()?;
    assert!(begun.elapsed() >= Duration::from_secs(5));
    // It lets go of the directory a moment before it is gone.
    eventually("the server ends", || !runs(pid));
    server.stop()?;
    Ok(())
}

#[test]
fn everything_killed_at_once_is_recovered() -> Outcome {
    if skipped() {
        return Ok(());
    }
    let (_temp, data_dir) = data_dir(0o755)?;
    let (mut helper, pid) = start_helper(&mut Command::new(std::env::current_exe()?), &data_dir)?;
    kill_process(pid, Signal::STOP)?;
    helper.kill()?;
    helper.wait()?;
    kill_process(pid, Signal::KILL)?;
    let pid_file = data_dir.join("postgres/postmaster.pid");
    assert!(pid_file.exists());
    // The number of the dead server now belongs to a stranger.
    let stale = fs::read_to_string(&pid_file)?;
    let stale = stale.replacen(&pid.as_raw_pid().to_string(), &std::process::id().to_string(), 1);
    fs::write(&pid_file, stale)?;
    let server = start(&data_dir)?;
    assert!(sql(&server, "select 1").is_ok());
    server.stop()?;
    Ok(())
}

#[test]
fn a_killed_initdb_leaves_nothing_half_done() -> Outcome {
    if skipped() {
        return Ok(());
    }
    let (_temp, data_dir) = data_dir(0o755)?;
    fs::create_dir(&data_dir)?;
    let mut helper = spawn_helper(&mut Command::new(std::env::current_exe()?), &data_dir)?;
    let unfinished = || {
        let entries = fs::read_dir(&data_dir).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.path().join("global").exists())
    };
    eventually("initdb is at work", unfinished);
    helper.kill()?;
    helper.wait()?;
    let server = start(&data_dir)?;
    assert!(sql(&server, "select 1").is_ok());
    server.stop()?;
    assert!(fs::read_dir(&data_dir)?.flatten().all(|entry| {
        let name = entry.file_name();
        !name.to_string_lossy().starts_with("postgres.new")
    }));
    Ok(())
}

/// Root runs this file's tests as root; this one shows that others need no rights.
#[test]
fn no_rights_are_needed() -> Outcome {
    if skipped() || !geteuid().is_root() {
        return Ok(());
    }
    let (temp, data_dir) = data_dir(0o755)?;
    fs::create_dir(&data_dir)?;
    std::os::unix::fs::chown(&data_dir, Some(65534), Some(65534))?;
    // The test program itself may lie where only root gets.
    let program = temp.path().join("program");
    // By a process of its own: a file that a child of another test still has open for writing cannot be run.
    let copied = Command::new("cp").arg(std::env::current_exe()?).arg(&program).status()?;
    assert!(copied.success());
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    let (mut helper, pid) = start_helper(command.arg(program), &data_dir)?;
    helper.kill()?;
    helper.wait()?;
    eventually("the server ends by itself", || !runs(pid));
    // Root then keeps the owner that it finds.
    start(&data_dir)?.stop()?;
    let owner = std::os::unix::fs::MetadataExt::uid(&data_dir.join("postgres").metadata()?);
    assert_eq!(owner, 65534);
    Ok(())
}

/// Not a rule: the process that other tests kill.
#[test]
#[ignore = "started by other tests"]
fn helper() -> Outcome {
    let data_dir = std::env::var_os(HELPER_DATA_DIR).ok_or("only other tests start this one")?;
    let _server = start(Path::new(&data_dir))?;
    fs::write(Path::new(&data_dir).join("helper-is-ready"), "")?;
    std::thread::sleep(Duration::from_mins(10));
    Ok(())
}

fn spawn_helper(program: &mut Command, data_dir: &Path) -> std::io::Result<Child> {
    program.args(["--exact", "postgres::tests::helper", "--ignored", "--nocapture"]);
    program.env(HELPER_DATA_DIR, data_dir).stdin(Stdio::null());
    program.stdout(Stdio::null()).spawn()
}

/// Returns when its server, whose process id comes second, is ready.
fn start_helper(program: &mut Command, data_dir: &Path) -> Result<(Child, Pid), Box<dyn Error>> {
    let mut helper = spawn_helper(program, data_dir)?;
    let mut ended = None;
    eventually("the helper's server is ready", || {
        ended = helper.try_wait().ok().flatten();
        ended.is_some() || data_dir.join("helper-is-ready").exists()
    });
    if let Some(status) = ended {
        return Err(format!("the helper ended: {status}").into());
    }
    let pid = server_pid(data_dir).ok_or("no pid file")?;
    Ok((helper, pid))
}
