//! A real `RabbitMQ` of a test: one node of its own on loopback, in a temporary directory, as whoever runs the test. It ends with the
//! process that started it, however that ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::process::{free_port, skip};

/// Where Debian puts the scripts themselves; those in PATH insist on root.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// Runs the port mapper and the node until our end of its input closes; then ends both.
const KEEPER: &str = r#"epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & mapper=$!
"$1/rabbitmq-server" >>"$HOME/out" 2>&1 & script=$!
cat >/dev/null
kill -9 $(cat "$RABBITMQ_PID_FILE") $script $mapper 2>/dev/null; wait"#;

/// A running node.
#[derive(Debug)]
pub struct RabbitMq {
    keeper: Child,
    port: u16,
    dir: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

impl RabbitMq {
    /// Starts one; `None`, with the reason printed, where it is not installed.
    ///
    /// # Panics
    /// If it does not start, or `MODELFAUCET_REQUIRE` names rabbitmq and it is missing.
    pub fn start() -> Option<Self> {
        if !Path::new(SCRIPTS).join("rabbitmq-server").exists() {
            skip("rabbitmq", "rabbitmq-server is not installed");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("modelfaucet-rabbitmq-").tempdir().expect("a temporary directory");
        let port = free_port();
        let environment = environment(dir.path(), port);
        std::fs::write(dir.path().join("rabbitmq.conf"), "loopback_users = none\ndisk_free_limit.absolute = 50MB\n")
            .expect("a file");
        std::fs::write(dir.path().join("plugins"), "[].").expect("a file");
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "sh", SCRIPTS]).envs(environment.iter().map(|(name, value)| (name, value)));
        let keeper =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell");
        let node = Self { keeper, port, dir, environment };
        let began = Instant::now();
        while !node.log().contains("Server startup complete") {
            assert!(began.elapsed() < Duration::from_secs(90), "RabbitMQ does not start:\n{}", node.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(node)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// For `AMQP_URL`.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap_or_default()
    }

    /// One command of `rabbitmqctl`; what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn ask(&self, words: &[&str]) -> String {
        let output = self.try_ask(words);
        let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let problem = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "rabbitmqctl {words:?}: {told} {problem}");
        told
    }

    fn try_ask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(PathBuf::from(SCRIPTS).join("rabbitmqctl"));
        command.arg("--quiet").args(words).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).output().expect("rabbitmqctl runs")
    }

    /// Closes every connection and answers no more.
    pub fn stop(&self) {
        self.ask(&["stop_app"]);
    }

    /// Answers again.
    pub fn start_again(&self) {
        self.ask(&["start_app"]);
    }

    /// Forgets everything: exchanges, queues, messages. Only while it is stopped.
    pub fn wipe(&self) {
        self.ask(&["reset"]);
    }

    /// From now on it takes no messages, because it thinks that it is short of memory; or takes them again.
    pub fn alarm(&self, on: bool) {
        self.ask(&["set_vm_memory_high_watermark", if on { "0.00001" } else { "0.8" }]);
    }

    /// A connection of the test's own.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn connect(&self) -> Stranger {
        Stranger::connect(self.port).await
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _status = self.keeper.wait();
    }
}

fn url(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
}

fn environment(dir: &Path, port: u16) -> Vec<(&'static str, String)> {
    let at = |name: &str| dir.join(name).display().to_string();
    let mapper = free_port();
    let distribution = free_port();
    vec![
        ("HOME", dir.display().to_string()),
        ("RABBITMQ_NODENAME", format!("modelfaucet-{port}@localhost")),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_NODE_PORT", port.to_string()),
        ("RABBITMQ_DIST_PORT", distribution.to_string()),
        ("RABBITMQ_MNESIA_BASE", at("mnesia")),
        ("RABBITMQ_LOG_BASE", at("log")),
        ("RABBITMQ_LOGS", "-".to_owned()),
        ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
        ("RABBITMQ_GENERATED_CONFIG_DIR", at("generated")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins")),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        ("RABBITMQ_PID_FILE", at("pid")),
        ("ERL_EPMD_PORT", mapper.to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1".to_owned()),
        ("RABBITMQ_CTL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
    ]
}

/// A client that is not ours: it does with messages whatever it likes.
#[derive(Debug)]
pub struct Stranger {
    _connection: Connection,
    channel: Channel,
}

/// A message as it lies in a queue.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Properties and headers.
    pub properties: BasicProperties,
    /// The body.
    pub body: Arc<[u8]>,
}

impl Stranger {
    /// Through a port on loopback.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn connect(port: u16) -> Self {
        let connection = Connection::connect(&url(port), ConnectionProperties::default()).await.expect("a broker");
        let channel = connection.create_channel().await.expect("a channel");
        Self { _connection: connection, channel }
    }

    /// A queue of its own with every message of the log from now on.
    ///
    /// # Panics
    /// If the broker refuses.
    pub async fn listen(&self, queue: &str) {
        let (options, none) = (QueueDeclareOptions::default(), FieldTable::default);
        self.channel.queue_declare(queue.into(), options, none()).await.expect("a queue");
        let (exchange, bind) = (modelfaucet_projector::broker::EXCHANGE, QueueBindOptions::default());
        self.channel.queue_bind(queue.into(), exchange.into(), "0.#".into(), bind, none()).await.expect("a binding");
    }

    /// Takes a queue off the exchange: from now on only strangers fill it.
    ///
    /// # Panics
    /// If the broker refuses.
    pub async fn unbind(&self, queue: &str) {
        let exchange = modelfaucet_projector::broker::EXCHANGE;
        let done = self.channel.queue_unbind(queue.into(), exchange.into(), "#".into(), FieldTable::default()).await;
        done.expect("a binding that can be taken away");
    }

    /// The next message of a queue, if there is one; it is gone from there.
    ///
    /// # Panics
    /// If the broker refuses.
    pub async fn take(&self, queue: &str) -> Option<Copy> {
        let got = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.expect("an answer")?;
        got.ack(BasicAckOptions::default()).await.expect("an acknowledgement");
        let delivery = got.delivery;
        Some(Copy { properties: delivery.properties, body: delivery.data.into() })
    }

    /// Puts a message into a queue.
    ///
    /// # Panics
    /// If the broker refuses.
    pub async fn put(&self, queue: &str, copy: &Copy) {
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish("".into(), queue.into(), options, &copy.body, copy.properties.clone());
        sent.await.expect("a message that can be sent");
    }

    /// How many messages lie in a queue; `None` if there is no such queue.
    pub async fn count(&self, queue: &str) -> Option<u32> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await
            .ok()
            .map(|queue| queue.message_count())
    }
}
