//! The sockets of listeners: TCP, and Unix sockets for a reverse proxy on the same machine.

use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::either::Either;

use crate::model::ListenAddress;

/// Maximum number of TCP connections that wait to be accepted. If the queue is full, the kernel
/// drops the SYN of a client. The client sends it again only a second later. The default of 128 is
/// too small for 300 clients that reconnect at once.
const BACKLOG: u32 = 1024;
/// Timeout for the check whether a process listens on an existing Unix socket. After a timeout the
/// socket counts as in use.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Mode of a Unix socket's file. The owner and the group may connect, which requires write
/// permission.
const SOCKET_MODE: u32 = 0o660;

/// An open socket that accepts connections. Dropping it removes the file of a Unix socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

#[derive(Debug)]
pub(super) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file. If they have changed, the file belongs to another process and
    /// is not removed.
    file: Option<(u64, u64)>,
}

pub(super) type Stream = Either<TcpStream, UnixStream>;

impl Socket {
    pub(super) async fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => bind_tcp(*address).map(Self::Tcp),
            ListenAddress::Unix(path) => UnixSocket::bind(path).await.map(Self::Unix),
        }
    }

    /// Returns the address, with the port that the system chose if the configuration has port 0.
    pub(super) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(socket) => Ok(ListenAddress::Unix(socket.path.clone())),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Ok(Either::Left(listener.accept().await?.0)),
            Self::Unix(socket) => Ok(Either::Right(socket.listener.accept().await?.0)),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Otherwise a restart fails while connections of the previous process are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl UnixSocket {
    async fn bind(path: &Path) -> io::Result<Self> {
        let bound = match UnixListener::bind(path) {
            // A killed process leaves its socket behind.
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_abandoned(path).await => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let socket = Self { listener: bound?, path: path.to_owned(), file: identity(path) };
        std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
        Ok(socket)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            // The next start removes it if this fails.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Returns device and inode of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Returns whether the file is a socket on which no process listens.
async fn is_abandoned(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let connected = timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await;
    is_socket && matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}
