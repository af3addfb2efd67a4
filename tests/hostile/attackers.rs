//! Servers that answer whatever they are asked by what they were told to.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use harness::Duration;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use tokio_rustls::TlsAcceptor;

/// What a server does once it has heard a first word.
#[derive(Clone)]
pub(crate) struct Attack {
    /// What it says, ...
    begin: Vec<u8>,
    then: Then,
}

/// ... and what then.
#[derive(Clone)]
enum Then {
    Close,
    Hang,
    Repeat(Vec<u8>, Duration),
}

/// A server, until dropped.
pub(crate) struct Attacker {
    /// How long each connection was held, of those that have ended.
    held: Arc<Mutex<Vec<Duration>>>,
    task: JoinHandle<()>,
}

impl Attack {
    /// Says this and closes the connection.
    pub(crate) fn close(begin: impl AsRef<[u8]>) -> Self {
        Self { begin: begin.as_ref().to_vec(), then: Then::Close }
    }

    /// Says this and nothing more.
    pub(crate) fn hang(begin: impl AsRef<[u8]>) -> Self {
        Self { begin: begin.as_ref().to_vec(), then: Then::Hang }
    }

    /// Says this, and then something else again and again, as fast as it is taken.
    pub(crate) fn flood(begin: impl AsRef<[u8]>, again: impl AsRef<[u8]>) -> Self {
        Self::drip(begin, again, Duration::ZERO)
    }

    /// The same with a pause before each time.
    pub(crate) fn drip(begin: impl AsRef<[u8]>, again: impl AsRef<[u8]>, pause: Duration) -> Self {
        let then = Then::Repeat(again.as_ref().to_vec(), pause);
        Self { begin: begin.as_ref().to_vec(), then }
    }

    /// A server of it, behind TLS if there is one to accept it.
    pub(crate) fn serve(self, listener: TcpListener, tls: Option<TlsAcceptor>) -> Attacker {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let held: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let ended = Arc::clone(&held);
        let task = tokio::spawn(async move {
            // They belong to this task, and go with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (attack, tls, ended) = (self.clone(), tls.clone(), Arc::clone(&ended));
                connections.spawn(async move {
                    let began = Instant::now();
                    match tls {
                        None => attack.on(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                attack.on(stream).await;
                            }
                        }
                    }
                    ended.lock().unwrap().push(began.elapsed());
                });
            }
        });
        Attacker { held, task }
    }

    async fn on(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut bytes = [0; 4096];
        if !matches!(stream.read(&mut bytes).await, Ok(1..)) {
            return;
        }
        if stream.write_all(&self.begin).await.is_err() {
            return;
        }
        // Behind TLS it would wait in a buffer otherwise.
        let _ = stream.flush().await;
        match &self.then {
            Then::Close => {
                let _ = stream.shutdown().await;
            }
            Then::Hang => while matches!(stream.read(&mut bytes).await, Ok(1..)) {},
            Then::Repeat(again, pause) => loop {
                if !pause.is_zero() {
                    sleep(*pause).await;
                }
                if stream.write_all(again).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            },
        }
    }
}

impl Attacker {
    /// How long its connections were held.
    pub(crate) fn held(&self) -> Vec<Duration> {
        self.held.lock().unwrap().clone()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.task.abort();
    }
}
