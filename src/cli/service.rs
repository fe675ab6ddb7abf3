//! Requests `/readyz` from the service with this configuration.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::Listener;
use crate::escape::one_line;
use crate::model::ListenAddress;

/// Timeout for the answer of the service, which itself waits up to two seconds for the database.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The maximum size of the answer in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Returns the problems that the service reports. If the service does not answer, that is the only
/// problem. Returns nothing without `metrics.listen`.
pub(super) async fn service_problems(listener: Option<&Listener>) -> Vec<String> {
    let Some(address) = listener.and_then(|listener| connect_address(&listener.address)) else {
        return Vec::new();
    };
    match timeout(ANSWER_TIMEOUT, ready_page(&address)).await {
        Ok(Ok(answer)) => match problems(&answer) {
            Some(problems) => problems,
            None => vec![format!("another program answers at {address} (metrics.listen)")],
        },
        Ok(Err(error)) => vec![format!(
            "no service on this host answers at {address} (metrics.listen): {error}; if it should \
             run, start it"
        )],
        Err(_) => {
            let within = humantime::format_duration(ANSWER_TIMEOUT);
            vec![format!(
                "the service at {address} (metrics.listen) does not answer within {within}: it \
                 hangs; see its log, and restart it"
            )]
        }
    }
}

/// Returns the address to connect to: loopback for a listener on all addresses. `None` if the
/// configuration has port 0.
fn connect_address(address: &ListenAddress) -> Option<ListenAddress> {
    let ListenAddress::Tcp(mut address) = *address else { return Some(address.clone()) };
    match address.ip() {
        IpAddr::V4(all) if all.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(all) if all.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    (address.port() != 0).then_some(ListenAddress::Tcp(address))
}

async fn ready_page(address: &ListenAddress) -> io::Result<String> {
    match address {
        ListenAddress::Tcp(address) => get(TcpStream::connect(address).await?, Some(*address)).await,
        ListenAddress::Unix(path) => get(UnixStream::connect(path).await?, None).await,
    }
}

/// Sends the request and returns the response. Uses no HTTP client, because that would apply proxy
/// settings and load CA certificates.
async fn get(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    address: Option<SocketAddr>,
) -> io::Result<String> {
    let host = address.map_or_else(|| "localhost".to_owned(), |address| address.to_string());
    let request = format!("GET /readyz HTTP/1.0\r\nHost: {host}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Returns the lines of the service's answer, without `ready`. `None` if another program answered.
fn problems(answer: &str) -> Option<Vec<String>> {
    let (_, lines) = answer.split_once("\r\n\r\n")?;
    let first = lines.lines().next()?;
    let is_service = first == "ready" || first.starts_with("not ready: ");
    let problem = |line| one_line(line).into_owned();
    is_service.then(|| lines.lines().filter(|line| *line != "ready").map(problem).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_of_the_service_counts() {
        let answer = |body: &str| problems(&format!("HTTP/1.0 200 OK\r\nx: y\r\n\r\n{body}"));
        assert_eq!(answer("ready\n"), Some(Vec::new()));
        assert_eq!(answer("ready\napp prod: \x1b[2J\n"), Some(vec!["app prod: \\u{1b}[2J".to_owned()]));
        assert_eq!(answer("not ready: no\n"), Some(vec!["not ready: no".to_owned()]));
        assert_eq!(answer("<html>"), None);
        assert_eq!(problems(""), None);
    }

    #[test]
    fn a_listener_on_all_addresses_is_queried_on_loopback() {
        let queried = |address: &str| connect_address(&ListenAddress::Tcp(address.parse().unwrap()));
        assert_eq!(queried("0.0.0.0:9878").unwrap().to_string(), "127.0.0.1:9878");
        assert_eq!(queried("[::]:9878").unwrap().to_string(), "[::1]:9878");
        assert_eq!(queried("192.0.2.7:9878").unwrap().to_string(), "192.0.2.7:9878");
        assert_eq!(queried("127.0.0.1:0"), None);
    }
}
