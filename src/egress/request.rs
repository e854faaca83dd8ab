//! The head of a request to the proxy, as an installation sent it: bounded, parsed strictly, and rebuilt for whom it is for. What it
//! does not understand in one way only it refuses, so that no two readers understand it differently.
//!
//! A request has no body: only `GET` and `HEAD` are forwarded in plain. So nothing that follows the head belongs to it, and
//! nothing of that is forwarded.

use super::source;

/// The most headers of a request or an answer.
const HEADERS: usize = 64;

/// The ports that may be connected to.
const PORTS: [u16; 2] = [80, 443];

/// The longest method or target that is shown.
const SHOWN: usize = 200;

/// Headers that speak of one connection, or of the proxy, and go no further. `Host` is made anew.
const OWN_HEADERS: [&str; 12] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "expect",
    "content-length",
];

/// A request that is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// In lower case, a name.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Bytes in both directions.
    Tunnel,
    /// The head that is sent to the host.
    Plain { shown: String, head: Vec<u8> },
}

/// A request that is not forwarded: the status that it is answered with, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) reason: String,
}

impl Refused {
    pub(super) fn new(status: u16, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }

    fn malformed(reason: impl Into<String>) -> Self {
        Self::new(400, reason)
    }
}

/// The request that `head`, which ends in an empty line, is.
pub(super) fn parse(head: &[u8]) -> Result<Request, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => {
            return Err(Refused::malformed(
                "the head of the request is no whole one",
            ));
        }
        Err(error) => {
            return Err(Refused::malformed(format!(
                "the head of the request cannot be read: {error}"
            )));
        }
    }
    let (method, target) = (
        request.method.unwrap_or_default(),
        request.path.unwrap_or_default(),
    );
    for header in &*request.headers {
        let name = header.name.to_ascii_lowercase();
        let announces_a_body =
            name == "transfer-encoding" || (name == "content-length" && header.value != b"0");
        if announces_a_body {
            return Err(Refused::new(
                413,
                format!("the request announces a body ({name}), and none is forwarded"),
            ));
        }
        // httparse takes a bare line feed for the end of a line; a value that holds a carriage return is read by some as two.
        if header.value.contains(&b'\r') || header.value.contains(&0) {
            return Err(Refused::malformed(format!(
                "the header {name} holds a control character"
            )));
        }
    }
    match method {
        "CONNECT" => {
            let (host, port) = authority(target, None)?;
            Ok(Request {
                host,
                port,
                what: What::Tunnel,
            })
        }
        "GET" | "HEAD" => plain(method, target, request.headers),
        _ => Err(Refused::new(
            405,
            format!(
                "{} is not forwarded: only GET, HEAD and CONNECT are",
                shown(method)
            ),
        )),
    }
}

fn plain(method: &str, target: &str, headers: &[httparse::Header<'_>]) -> Result<Request, Refused> {
    let absolute = target
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    if absolute.is_none() {
        return Err(Refused::malformed(format!(
            "{} is no http:// URL: this is a proxy; https goes by CONNECT",
            shown(target)
        )));
    }
    let rest = &target[7..];
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, port) = authority(&rest[..end], Some(80))?;
    let path = &rest[end..];
    if path.contains('#') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refused::malformed(format!(
            "{} is no path of a request",
            shown(path)
        )));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let at = if port == 80 {
        host.clone()
    } else {
        format!("{host}:{port}")
    };
    let mut head =
        format!("{method} {slash}{path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n")
            .into_bytes();
    for header in headers
        .iter()
        .filter(|header| !OWN_HEADERS.contains(&header.name.to_ascii_lowercase().as_str()))
    {
        head.extend_from_slice(header.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(header.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let shown = format!("{method} http://{at}{slash}{}", shown(path));
    Ok(Request {
        host,
        port,
        what: What::Plain { shown, head },
    })
}

/// Host and port of `text`, which has no user.
fn authority(text: &str, default_port: Option<u16>) -> Result<(String, u16), Refused> {
    let wrong = || {
        Refused::new(
            403,
            format!(
                "{} is no host's name with a port: addresses are not forwarded to",
                shown(text)
            ),
        )
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let port = if is_number { port.parse().ok() } else { None };
            (host, port.ok_or_else(wrong)?)
        }
        None => (text, default_port.ok_or_else(wrong)?),
    };
    let host = source::host(host).ok_or_else(wrong)?;
    if PORTS.contains(&port) {
        Ok((host, port))
    } else {
        Err(Refused::new(
            403,
            format!("port {port} of {host} is not forwarded to: only 80 and 443 are"),
        ))
    }
}

/// The head of an answer, for a connection that carries one: with its own `Connection: close`. None where `head` is not one, or
/// an answer that another follows (`100 Continue`).
pub(super) fn answer(head: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    if !matches!(response.parse(head), Ok(httparse::Status::Complete(length)) if length == head.len())
    {
        return None;
    }
    let status = response.code?;
    let reason = response.reason.unwrap_or_default();
    let mut rebuilt = format!("HTTP/1.1 {status} {reason}\r\nConnection: close\r\n").into_bytes();
    let own = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "upgrade",
    ];
    for header in response
        .headers
        .iter()
        .filter(|header| !own.contains(&header.name.to_ascii_lowercase().as_str()))
    {
        rebuilt.extend_from_slice(header.name.as_bytes());
        rebuilt.extend_from_slice(b": ");
        rebuilt.extend_from_slice(header.value);
        rebuilt.extend_from_slice(b"\r\n");
    }
    rebuilt.extend_from_slice(b"\r\n");
    Some((status, rebuilt))
}

/// What came from an installation, for people.
fn shown(text: &str) -> String {
    let cut: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_default)
        .collect();
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> Result<Request, Refused> {
        parse(head.as_bytes())
    }

    fn status(head: &str) -> u16 {
        parsed(head).expect_err(head).status
    }

    #[test]
    fn a_plain_request_is_rebuilt_for_its_host() {
        let request = parsed(
            "GET http://Deb.Example.org/a/b?c=d HTTP/1.1\r\nHost: other.example\r\nProxy-Connection: keep-alive\r\nRange: bytes=1-\r\n\r\n",
        )
        .expect("understood");
        assert_eq!(
            (request.host.as_str(), request.port),
            ("deb.example.org", 80)
        );
        let What::Plain { head, .. } = request.what else {
            panic!("{request:?}")
        };
        assert_eq!(
            String::from_utf8(head).expect("text"),
            "GET /a/b?c=d HTTP/1.1\r\nHost: deb.example.org\r\nConnection: close\r\nRange: bytes=1-\r\n\r\n"
        );
    }

    #[test]
    fn a_tunnel_names_host_and_port() {
        let request = parsed("CONNECT a.example.org:443 HTTP/1.1\r\n\r\n").expect("understood");
        assert_eq!(
            request,
            Request {
                host: "a.example.org".into(),
                port: 443,
                what: What::Tunnel
            }
        );
    }

    #[test]
    fn other_ports_methods_and_addresses_are_refused() {
        for (head, expected) in [
            ("CONNECT a.example.org:22 HTTP/1.1\r\n\r\n", 403),
            ("CONNECT a.example.org HTTP/1.1\r\n\r\n", 403),
            ("CONNECT a.example.org:4222 HTTP/1.1\r\n\r\n", 403),
            ("CONNECT 10.0.0.1:443 HTTP/1.1\r\n\r\n", 403),
            ("CONNECT [::1]:443 HTTP/1.1\r\n\r\n", 403),
            ("CONNECT 0x7f.1:443 HTTP/1.1\r\n\r\n", 403),
            ("CONNECT localhost:80 HTTP/1.1\r\n\r\n", 403),
            ("GET http://2130706433/ HTTP/1.1\r\n\r\n", 403),
            ("GET http://user@a.example.org/ HTTP/1.1\r\n\r\n", 403),
            ("GET http://a.example.org:8080/ HTTP/1.1\r\n\r\n", 403),
            ("GET http://a.example.org:+80/ HTTP/1.1\r\n\r\n", 403),
            ("GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n", 400),
            ("GET https://a.example.org/ HTTP/1.1\r\n\r\n", 400),
            ("POST http://a.example.org/ HTTP/1.1\r\n\r\n", 405),
            ("PUT http://a.example.org/ HTTP/1.1\r\n\r\n", 405),
        ] {
            assert_eq!(status(head), expected, "{head}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (head, expected) in [
            (
                "GET http://a.example.org/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                413,
            ),
            (
                "GET http://a.example.org/ HTTP/1.1\r\nContent-Length: 7\r\n\r\n",
                413,
            ),
            (
                "GET http://a.example.org/ HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 7\r\n\r\n",
                413,
            ),
            (
                "GET http://a.example.org/ HTTP/1.1\r\n\r\nGET http://b/ HTTP/1.1\r\n\r\n",
                400,
            ),
            ("GET http://a.example.org/ HTTP/1.1\r\nA b: c\r\n\r\n", 400),
            ("GET  http://a.example.org/ HTTP/1.1\r\n\r\n", 400),
            ("GET http://a.example.org/\tb HTTP/1.1\r\n\r\n", 400),
            ("nonsense\r\n\r\n", 400),
        ] {
            assert_eq!(status(head), expected, "{head:?}");
        }
        let many = "A: b\r\n".repeat(HEADERS + 1);
        assert_eq!(
            status(&format!("GET http://a.example.org/ HTTP/1.1\r\n{many}\r\n")),
            400
        );
    }

    #[test]
    fn an_answer_says_that_the_connection_carries_no_more() {
        let (status, head) =
            answer(b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n")
                .expect("an answer");
        assert_eq!(status, 200);
        assert_eq!(
            String::from_utf8(head).expect("text"),
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
        );
        assert!(answer(b"SSH-2.0-x\r\n\r\n").is_none());
    }
}
