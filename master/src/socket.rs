//! The data directory's own socket: who uses the directory can be asked through it,
//! by commands that are given the directory and find it in use.
//!
//! Only the directory's user and root can connect, and only who has its lock makes it.
//! A socket that a killed process left behind means nothing, and is replaced.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};
use trawl_proto::v1::control_server::ControlServer;

use crate::{api::ControlApi, listen::ListenError};

/// Its name in the data directory.
pub const NAME: &str = "control.sock";

/// Connections at a time; further ones wait.
const CONNECTIONS_MAX: usize = 16;

/// Wait after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How long calls under way may go on when the master stops.
const GRACE: Duration = Duration::from_secs(3);

/// The socket of a data directory, ready to be listened on.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// By which it is known among others at that path.
    inode: u64,
}

impl Socket {
    /// Makes the socket of a data directory that the caller has the lock of.
    ///
    /// # Errors
    /// If the system or the file system does not let it.
    pub(crate) fn bind(data: &Path) -> io::Result<Self> {
        // In a directory that is ours alone until the socket is, too. A kill may have left it.
        let private = data.join(".control");
        let _ = fs::remove_dir_all(&private);
        DirBuilder::new().mode(0o700).create(&private)?;
        let (_directory, short) = short(&private)?;
        let listener = UnixListener::bind(short.join(NAME))?;
        let made = private.join(NAME);
        fs::set_permissions(&made, Permissions::from_mode(0o600))?;
        let path = data.join(NAME);
        let inode = fs::metadata(&made)?.ino();
        fs::rename(made, &path)?;
        fs::remove_dir(private)?;
        Ok(Self { listener, path, inode })
    }

    /// Answers operators until `stop` is cancelled; calls under way may then go on for
    /// a moment.
    pub(crate) async fn serve(
        self,
        control: ControlServer<ControlApi>,
        stop: CancellationToken,
    ) -> Result<(), ListenError> {
        let Self { listener, path, inode } = self;
        let router = Server::builder().add_service(control);
        let served = router.serve_with_incoming_shutdown(incoming(listener), stop.cancelled());
        let late = async {
            stop.cancelled().await;
            sleep(GRACE).await;
        };
        let ended = tokio::select! {
            ended = served => ended.map_err(|error| ListenError::Server(error.to_string())),
            () = late => Ok(()),
        };
        // Who finds it would only hear that nobody listens. The next owner of the directory
        // may have put its own in its place already.
        if fs::metadata(&path).is_ok_and(|found| found.ino() == inode) {
            let _ = fs::remove_file(path);
        }
        ended
    }
}

/// Connects to whoever uses a data directory.
///
/// # Errors
/// If nobody listens there.
pub async fn connect(data: &Path) -> io::Result<UnixStream> {
    let (_directory, short) = short(data)?;
    UnixStream::connect(short.join(NAME)).await
}

/// A short name of a directory, good as long as the file is open: the path of a socket
/// must not have more than some hundred bytes.
fn short(directory: &Path) -> io::Result<(File, PathBuf)> {
    let file = File::open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok((file, short))
}

/// Connections as they come, as far as there is room.
fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<Connection>> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    futures::stream::unfold((listener, room), |(listener, room)| async move {
        let place = Arc::clone(&room).acquire_owned().await.ok()?;
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        };
        Some((Ok(Connection { stream, _place: place }), (listener, room)))
    })
}

/// A connection, which has a place as long as it is there.
struct Connection {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_path_and_a_socket_that_was_left_behind_are_no_hindrance() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("d".repeat(150));
        fs::create_dir(&data).unwrap();
        for _ in 0..2 {
            let socket = Socket::bind(&data).unwrap();
            let (heard, _) = tokio::join!(socket.listener.accept(), connect(&data));
            heard.unwrap();
        }
        let mode = fs::metadata(data.join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "nothing else is left");
        assert!(connect(&data).await.is_err(), "nobody listens any more");
    }
}
