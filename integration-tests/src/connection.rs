//! A few lines of HTTP/1.1 on raw TCP: cheap enough for load, and able to send what a library would refuse to.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The error's code; empty for a success.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A keep-alive connection that carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: String,
    authorization: String,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Connection {
    /// Connects; requests carry `Authorization: Bearer token` unless the token is empty.
    ///
    /// # Errors
    /// The socket's.
    pub async fn open(address: &str, token: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let authorization = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
        Ok(Self {
            stream,
            address: address.to_owned(),
            authorization,
            input: Vec::with_capacity(1 << 14),
            output: Vec::new(),
        })
    }

    /// Sends a request with further header lines (each ending in CR LF) and waits for the whole answer. An empty body is sent
    /// without a content type.
    ///
    /// # Errors
    /// The socket's, or `InvalidData` for what is not HTTP.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        kind: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        let kind = if body.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
        self.output.clear();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{}{kind}{headers}content-length: {}\r\n\r\n",
            self.address,
            self.authorization,
            body.len()
        );
        self.output.extend_from_slice(head.as_bytes());
        self.output.extend_from_slice(body);
        self.stream.write_all(&self.output).await?;
        self.answer().await
    }

    /// Sends bytes as they are and waits for the whole answer.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(bytes).await?;
        self.answer().await
    }

    /// Sends JSON (null: no body) and waits for the whole answer.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn json(&mut self, method: &str, path: &str, headers: &str, body: &Value) -> io::Result<Answer> {
        let text = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send(method, path, headers, "application/json", &text).await
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn answer(&mut self) -> io::Result<Answer> {
        self.input.clear();
        let end = loop {
            self.more().await?;
            if let Some(end) = find(&self.input, b"\r\n\r\n") {
                break end;
            }
        };
        let (status, headers) = parse_head(&self.input[..end])?;
        let mut answer = Answer { status, headers, body: Vec::new() };
        let start = end + 4;
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.chunks(start).await?;
            return Ok(answer);
        }
        let length: usize = answer.header("content-length").unwrap_or("0").parse().map_err(|_| malformed())?;
        while self.input.len() < start + length {
            self.more().await?;
        }
        answer.body = self.input[start..start + length].to_vec();
        Ok(answer)
    }

    async fn chunks(&mut self, mut at: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match find(&self.input[at..], b"\r\n") {
                    Some(end) => break at + end,
                    None => self.more().await?,
                }
            };
            let size = std::str::from_utf8(&self.input[at..line]).map_err(|_| malformed())?;
            let size = usize::from_str_radix(size, 16).map_err(|_| malformed())?;
            let end = line + 2 + size + 2;
            while self.input.len() < end {
                self.more().await?;
            }
            body.extend_from_slice(&self.input[line + 2..line + 2 + size]);
            if size == 0 {
                return Ok(body);
            }
            at = end;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer")
}

fn parse_head(head: &[u8]) -> io::Result<(u16, Vec<(String, String)>)> {
    let text = std::str::from_utf8(head).map_err(|_| malformed())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok((status.ok_or_else(malformed)?, headers))
}
