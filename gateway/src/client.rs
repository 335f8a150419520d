//! The client's side of a call: a listener. The task that owns the hold sends; dropping the listener drops no money.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::error::CallError;

/// What a client gets first.
#[derive(Debug)]
pub(crate) enum Head {
    /// A failure.
    Failed(CallError),
    /// An answer in one piece.
    Whole {
        /// Headers, content type included.
        headers: HeaderMap,
        /// The body.
        body: Bytes,
    },
    /// A stream.
    Stream {
        /// Headers, content type included.
        headers: HeaderMap,
        /// What follows.
        body: StreamBody,
    },
}

/// A piece of a stream, counted against what may be on its way.
#[derive(Debug)]
enum Piece {
    Data(Bytes, OwnedSemaphorePermit),
    End,
}

/// The sending side. After the client has gone it takes everything and keeps nothing.
#[derive(Debug)]
pub(crate) struct Client {
    head: Option<oneshot::Sender<Head>>,
    stream: Option<mpsc::UnboundedSender<Piece>>,
    room: Arc<Semaphore>,
    relay: usize,
    stall: Duration,
    gone: bool,
}

/// A client and where its first answer comes out.
pub(crate) fn listen(relay: usize, stall: Duration) -> (Client, oneshot::Receiver<Head>) {
    let (head, answer) = oneshot::channel();
    let room = Arc::new(Semaphore::new(relay));
    (Client { head: Some(head), stream: None, room, relay, stall, gone: false }, answer)
}

impl Client {
    /// Has it gone?
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
            || self.head.as_ref().is_some_and(oneshot::Sender::is_closed)
            || self.stream.as_ref().is_some_and(mpsc::UnboundedSender::is_closed)
    }

    /// Waits until it has gone.
    pub(crate) async fn left(&mut self) {
        if self.gone {
            return;
        }
        match (&mut self.head, &self.stream) {
            (Some(head), _) => head.closed().await,
            (None, Some(stream)) => stream.closed().await,
            (None, None) => std::future::pending().await,
        }
    }

    /// Has nothing been answered yet?
    pub(crate) fn waits(&self) -> bool {
        self.head.is_some()
    }

    /// Answers with a failure, if nothing was answered yet.
    pub(crate) fn fail(&mut self, error: CallError) {
        self.answer(Head::Failed(error));
    }

    /// Answers in one piece.
    pub(crate) fn whole(&mut self, headers: HeaderMap, body: Bytes) {
        self.answer(Head::Whole { headers, body });
    }

    /// Begins a stream.
    pub(crate) fn begin_stream(&mut self, headers: HeaderMap) {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.stream = Some(sender);
        self.answer(Head::Stream { headers, body: StreamBody { receiver, ended: false } });
    }

    fn answer(&mut self, head: Head) {
        if let Some(sender) = self.head.take() {
            self.gone |= sender.send(head).is_err();
        }
    }

    /// Sends a piece of the stream. Waits while too much is on its way; a client that takes nothing for long counts as gone.
    pub(crate) async fn send(&mut self, bytes: Bytes) {
        let Some(stream) = &self.stream else { return };
        if self.gone || bytes.is_empty() {
            return;
        }
        let size = bytes.len().min(self.relay);
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let room = tokio::time::timeout(self.stall, Arc::clone(&self.room).acquire_many_owned(size));
        let sent = tokio::select! {
            room = room => match room {
                Ok(Ok(permit)) => stream.send(Piece::Data(bytes, permit)).is_ok(),
                _ => false,
            },
            () = stream.closed() => false,
        };
        self.gone |= !sent;
    }

    /// Ends the stream well. Without it the client sees a connection that broke.
    pub(crate) fn end(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.gone |= stream.send(Piece::End).is_err();
        }
    }
}

/// The receiving side of a stream.
#[derive(Debug)]
pub(crate) struct StreamBody {
    receiver: mpsc::UnboundedReceiver<Piece>,
    ended: bool,
}

/// A stream whose sender was lost.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the stream broke off")]
pub(crate) struct BrokenOff;

impl Body for StreamBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.receiver.poll_recv(context).map(|piece| match piece {
            Some(Piece::Data(bytes, _room)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err(BrokenOff))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn streaming(relay: usize, stall: Duration) -> (Client, StreamBody) {
        let (mut client, head) = listen(relay, stall);
        client.begin_stream(HeaderMap::new());
        let Head::Stream { body, .. } = head.await.unwrap() else { panic!("a stream") };
        (client, body)
    }

    #[tokio::test]
    async fn a_stream_ends_well_only_if_it_was_ended() {
        let (mut client, body) = streaming(8, Duration::from_secs(30)).await;
        client.send(Bytes::from_static(b"abc")).await;
        client.end();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
        let (mut client, body) = streaming(8, Duration::from_secs(30)).await;
        client.send(Bytes::from_static(b"abc")).await;
        drop(client);
        assert!(body.collect().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_counts_as_gone() {
        let (mut client, body) = streaming(8, Duration::from_secs(30)).await;
        client.send(Bytes::from_static(b"12345678")).await;
        assert!(!client.is_gone());
        client.send(Bytes::from_static(b"9")).await;
        assert!(client.is_gone());
        drop(body);
    }

    #[tokio::test]
    async fn a_dropped_listener_is_noticed() {
        let (mut client, head) = listen(8, Duration::from_secs(30));
        drop(head);
        client.left().await;
        assert!(client.is_gone());
        let (mut client, body) = streaming(8, Duration::from_secs(30)).await;
        drop(body);
        client.left().await;
        client.send(Bytes::from_static(b"x")).await;
        assert!(client.is_gone());
    }
}
