//! What matters in the end: listeners on the inside count connections, and there are none.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::{Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const PUBLIC: &str = "93.184.215.14";

/// Answers from a script: the first question about a name gets the first list, the last list stays.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<HashMap<String, Vec<Vec<IpAddr>>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn with(self, name: &str, answers: &[&[&str]]) -> Self {
        let lists = answers.iter().map(|list| list.iter().map(|text| text.parse().unwrap()).collect()).collect();
        self.answers.lock().unwrap().insert(format!("{name}."), lists);
        self
    }
}

impl Lookup for Script {
    fn lookup(&self, absolute: String) -> Answers {
        let mut all = self.answers.lock().unwrap();
        self.asked.lock().unwrap().push(absolute.clone());
        let answer = match all.get_mut(&absolute) {
            Some(lists) if lists.len() > 1 => Ok(lists.remove(0)),
            Some(lists) => Ok(lists[0].clone()),
            None => Err(std::io::Error::other("no such name")),
        };
        Box::pin(async move { answer })
    }
}

/// A listener that counts, and says the same to everybody.
pub(crate) async fn listener(answer: String) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 4_096];
            let _read = socket.read(&mut request).await;
            let _written = socket.write_all(answer.as_bytes()).await;
        }
    });
    (port, count)
}

fn ok() -> String {
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".to_owned()
}

fn provider() {
    let _already = rustls::crypto::ring::default_provider().install_default();
}

fn allowing(port: u16) -> Policy {
    Policy { ports: [port].into(), ..Policy::default() }
}

/// Loopback counts as public, so that something can answer at all.
fn loopback_is_public(port: u16) -> Policy {
    Policy { public_in_tests: vec!["127.0.0.1".parse().unwrap()], ..allowing(port) }
}

fn get(url: &str) -> Request {
    Request::new(Method::GET, url.parse().unwrap())
}

#[tokio::test]
async fn a_name_that_changes_its_mind_reaches_nothing() {
    provider();
    let (port, count) = listener(ok()).await;
    for _ in 0..1_000 {
        let script = Script::default().with("rebind.test", &[&[PUBLIC], &["127.0.0.1"]]);
        let client = GuardedClient::new(reqwest::Client::builder, allowing(port), script).unwrap();
        let url = format!("https://rebind.test:{port}/v1");
        assert!(client.admit(&url).await.is_ok(), "public when it is saved");
        let refused = client.execute(get(&url)).await.unwrap_err();
        assert!(matches!(refused, GuardedError::Refused(Refused::Address)), "{refused:?}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn one_private_answer_refuses_all() {
    provider();
    let (port, count) = listener(ok()).await;
    let answers: [&[&str]; 9] = [
        &["127.0.0.1"],
        &[PUBLIC, "127.0.0.1"],
        &["127.0.0.1", PUBLIC],
        &["::1"],
        &["2606:4700::1111", "::1"],
        &["::ffff:127.0.0.1"],
        &["169.254.169.254"],
        &["10.0.0.1", "10.0.0.2"],
        &[],
    ];
    for list in answers {
        let script = Script::default().with("mixed.test", &[list]);
        let asked = Arc::clone(&script.asked);
        let client = GuardedClient::new(reqwest::Client::builder, allowing(port), script).unwrap();
        let url = format!("https://mixed.test:{port}/");
        let refused = client.admit(&url).await.unwrap_err();
        assert!(matches!(refused, Refused::Address | Refused::NotFound(_)), "{list:?}: {refused}");
        let error = client.execute(get(&url)).await.unwrap_err();
        assert!(matches!(&error, GuardedError::Refused(same) if *same == refused), "{list:?}: {error:?}");
        assert_eq!(*asked.lock().unwrap(), ["mixed.test.", "mixed.test."], "absolute names, once per connection");
    }
    // Not even asked about.
    for url in
        [format!("https://127.0.0.1:{port}/"), format!("https://[::1]:{port}/"), format!("https://localhost:{port}/")]
    {
        let script = Script::default().with("localhost", &[&["127.0.0.1"]]);
        let asked = Arc::clone(&script.asked);
        for policy in [allowing(port), Policy { addresses: true, ..allowing(port) }] {
            let client = GuardedClient::new(reqwest::Client::builder, policy, script.clone()).unwrap();
            assert!(matches!(client.execute(get(&url)).await, Err(GuardedError::Refused(_))), "{url}");
        }
        assert!(asked.lock().unwrap().is_empty(), "{url}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn plain_text_is_refused_by_the_client_too() {
    provider();
    let (port, count) = listener(ok()).await;
    let script = Script::default().with("plain.test", &[&["127.0.0.1"]]);
    let policy = loopback_is_public(port);
    let client = GuardedClient::new(reqwest::Client::builder, policy, script).unwrap();
    let error = client.execute(get(&format!("http://plain.test:{port}/"))).await.unwrap_err();
    assert!(matches!(error, GuardedError::Http(_)), "{error:?}");
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    provider();
    let (inside, count) = listener(ok()).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!(
            "HTTP/1.1 {status} x\r\nlocation: http://inside.test:{inside}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let (port, outside) = listener(location).await;
        let script = Script::default().with("outside.test", &[&["127.0.0.1"]]).with("inside.test", &[&["127.0.0.1"]]);
        let client = GuardedClient::over_plain_text(loopback_is_public(port), loopback_is_public(port), script);
        let response = client.execute(get(&format!("http://outside.test:{port}/"))).await.unwrap();
        assert_eq!((response.status().as_u16(), outside.load(Ordering::SeqCst)), (status, 1));
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_from_the_inside_is_a_tripwire() {
    provider();
    let (port, _) = listener(ok()).await;
    let error = astray(port).execute(get(&format!("http://odd.test:{port}/"))).await.unwrap_err();
    assert!(matches!(&error, GuardedError::Tripwire(address) if address == "127.0.0.1"), "{error:?}");
}

/// The environment of a process cannot be changed safely from within, so this is a process of its own.
#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let (port, outside) = listener(ok()).await;
    let (proxy, count) = listener(ok()).await;
    let run = move || {
        let url = format!("http://127.0.0.1:{proxy}");
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "guard::tests::sockets::in_an_environment_with_proxies"]);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            child.env(name, &url).env(name.to_lowercase(), &url);
        }
        child.env_remove("REQUEST_METHOD").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{port}\n").as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!((outside.load(Ordering::SeqCst), count.load(Ordering::SeqCst)), (1, 0));
}

#[tokio::test]
#[ignore = "run by proxies_of_the_environment_are_not_used, which names the port on standard input"]
async fn in_an_environment_with_proxies() {
    provider();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().unwrap();
    let script = Script::default().with("outside.test", &[&["127.0.0.1"]]);
    let client = GuardedClient::over_plain_text(loopback_is_public(port), loopback_is_public(port), script);
    let response = client.execute(get(&format!("http://outside.test:{port}/"))).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
}

#[tokio::test]
async fn the_system_is_asked_for_absolute_names() {
    // A name that every system knows; what it leads to is refused.
    let answers = SystemLookup.lookup("localhost.".to_owned()).await;
    assert!(answers.is_err() || answers.unwrap().iter().all(|answer| strict().address(*answer).is_err()));
}

#[tokio::test]
async fn an_operators_exception_on_loopback_is_that_address_and_port_and_nothing_else() {
    provider();
    let (named, reached) = listener(ok()).await;
    let (other, missed) = listener(ok()).await;
    let policy = || Policy { loopback: [format!("127.0.0.1:{named}").parse().unwrap()].into(), ..Policy::default() };
    let script = Script::default().with("inside.test", &[&["127.0.0.1"]]);
    let client = GuardedClient::new(reqwest::Client::builder, policy(), script.clone()).unwrap();
    let url = format!("http://127.0.0.1:{named}/v1");
    assert_eq!(client.admit(&url).await.unwrap().as_str(), url);
    assert_eq!(client.execute(get(&url)).await.unwrap().status().as_u16(), 200);
    for url in [
        format!("http://127.0.0.1:{other}/"),
        format!("https://127.0.0.1:{other}/"),
        format!("http://127.0.0.2:{named}/"),
        format!("http://[::1]:{named}/"),
        format!("http://localhost:{named}/"),
        format!("http://inside.test:{named}/"),
        format!("https://inside.test:{named}/"),
        format!("ftp://127.0.0.1:{named}/"),
        format!("http://user@127.0.0.1:{named}/"),
        format!("http://127.0.0.1:{named}/#x"),
    ] {
        assert!(client.admit(&url).await.is_err(), "{url}");
        assert!(matches!(client.execute(get(&url)).await, Err(GuardedError::Refused(_))), "{url}");
    }
    assert!(matches!(client.admit(&format!("http://127.0.0.1:{named}/v1?key=x")).await, Err(Refused::Query)));
    let strict = GuardedClient::new(reqwest::Client::builder, Policy::default(), script).unwrap();
    assert!(strict.admit(&url).await.is_err() && strict.execute(get(&url)).await.is_err());
    assert_eq!((reached.load(Ordering::SeqCst), missed.load(Ordering::SeqCst)), (1, 0));
}

#[test]
fn names_inside_are_not_told_from_names_that_are_not() {
    assert_eq!(Refused::Address.outside(), Refused::NotFound("no such name".into()).outside());
}

/// A client whose connections go elsewhere than the resolver said, for tests of what is done about that.
pub(crate) fn astray(port: u16) -> GuardedClient {
    provider();
    let script = Script::default().with("odd.test", &[&["127.0.0.1"]]);
    let mut outer = loopback_is_public(port);
    outer.public_in_tests = vec![PUBLIC.parse().unwrap()];
    GuardedClient::over_plain_text(outer, loopback_is_public(port), script)
}
