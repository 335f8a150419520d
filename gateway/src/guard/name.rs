//! Which host names may be looked up. By whole labels, never by the beginning of a name: `fdic.gov` is no unique-local address.

/// Names that mean something inside a network or machine. A name that ends with one of them, at a label, is refused.
const INSIDE: [&str; 16] = [
    "localhost",
    "local",
    "localdomain",
    "internal",
    "intranet",
    "lan",
    "home",
    "home.arpa",
    "corp",
    "svc",
    "cluster.local",
    "private",
    "metadata.goog",
    "metadata.azure.com",
    "metadata.tencentyun.com",
    "host.docker.internal",
];
/// The longest name, without its final dot.
const MAX_NAME: usize = 253;
/// The longest label.
const MAX_LABEL: usize = 63;

/// Is it a name that the public can have? The text is a host as the URL parser gives it: lower case, ASCII.
pub(super) fn is_public(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let labels: Vec<&str> = name.split('.').collect();
    name.len() <= MAX_NAME
        && labels.len() >= 2
        && labels.iter().all(|label| is_label(label))
        // A number there makes an address of it for some readers.
        && labels.last().is_some_and(|last| last.bytes().any(|byte| byte.is_ascii_alphabetic()))
        && !INSIDE.iter().any(|inside| ends_with_labels(name, inside))
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn ends_with_labels(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
