//! Who sends a request, as far as its headers and its connection tell: the session cookie, the address, whether a
//! page of another site is behind it.
//!
//! A proxy's headers are believed only where a false one harms nobody but its sender.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method, header};

/// The cookie's name in ComfyUI-Login.
pub(super) const COOKIE: &str = "AIOHTTP_SESSION";

/// A header as text; `None` as well if it is none.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The value of the session cookie.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.trim_matches('"'))
}

/// Whether the sender is a browser, which says where its requests come from. Scripts do not.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

/// Whether the browser spoke TLS with a proxy before us. Only that browser loses by a false header.
pub(super) fn is_secure(headers: &HeaderMap) -> bool {
    let first = text(headers, "x-forwarded-proto").and_then(|list| list.split(',').next());
    first.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"))
}

/// Whether the sender takes a page for an answer. ComfyUI-Login looks at it just so, without weights and wildcards.
pub(super) fn accepts_pages(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    accepted.any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")))
}

/// The other end of the connection.
fn peer(request: &Request) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(address)| address.ip().to_canonical())
}

/// Where the request comes from. A proxy on this machine is believed about its clients: what it adds to the list
/// stands last.
pub(super) fn address(request: &Request) -> IpAddr {
    let peer = peer(request);
    if !peer.is_loopback() {
        return peer;
    }
    let lines = request.headers().get_all("x-forwarded-for").iter();
    let last = lines.filter_map(|line| line.to_str().ok()?.rsplit(',').next()).next_back();
    last.and_then(|last| host_of(last.trim()).0.parse().ok()).unwrap_or(peer)
}

/// Whether the sender certainly sits at this machine: the connection comes from it, by one of its own names, on
/// behalf of nobody else, and no page of another site is behind it.
pub(super) fn is_at_this_machine(request: &Request) -> bool {
    const OF_PROXIES: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];
    let headers = request.headers();
    let host = text(headers, "host").map(|host| host_of(host).0);
    peer(request).is_loopback()
        && host.is_some_and(|host| is_loopback(&host))
        && !OF_PROXIES.iter().any(|name| headers.contains_key(*name))
        && !is_cross_site(&Method::POST, headers, None)
}

/// Whether a page of another site sends a request to this machine's own address. ComfyUI's rule.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let (Some(host), Some(origin)) = (text(headers, "host"), text(headers, "origin")) else { return false };
    // `null` and other origins without a host pass.
    let Some(origin) = authority(origin) else { return false };
    is_loopback(&host_of(host).0) && differ(host, origin)
}

/// Whether a session cookie must not count because a page of another site had the browser send it.
///
/// These are the rules of `SameSite=Lax`, kept here too: the cookie's attribute binds neither other ports of this
/// host nor every browser. Following a link is fine. `allowed` is the origin whose pages may use the server.
pub(super) fn is_cross_site(method: &Method, headers: &HeaderMap, allowed: Option<&str>) -> bool {
    let origin = text(headers, "origin");
    if origin.is_some() && origin == allowed {
        return false;
    }
    if let Some(site) = text(headers, "sec-fetch-site") {
        let follows_a_link = *method == Method::GET && text(headers, "sec-fetch-mode") == Some("navigate");
        return !matches!(site, "same-origin" | "none") && !follows_a_link;
    }
    // An older browser, or one that did not ask for TLS. Proxies may have changed the host.
    let host = text(headers, "x-forwarded-host").or_else(|| text(headers, "host"));
    origin.is_some_and(|origin| authority(origin).zip(host).is_none_or(|(origin, host)| differ(host, origin)))
}

/// Host and port of an origin; none for `null`.
fn authority(origin: &str) -> Option<&str> {
    let (_, rest) = origin.split_once("://")?;
    rest.split('/').next().filter(|authority| !authority.is_empty())
}

/// Whether two authorities differ. Some browsers leave the port out on one side; then it counts on neither.
fn differ(one: &str, other: &str) -> bool {
    let ((one, one_port), (other, other_port)) = (host_of(one), host_of(other));
    one != other || (one_port.is_some() && other_port.is_some() && one_port != other_port)
}

/// Host in lower case without brackets, and the port.
fn host_of(authority: &str) -> (String, Option<&str>) {
    let (host, port) = match authority.rsplit_once(':') {
        // An IPv6 address without brackets has no port.
        Some((host, port))
            if !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (host.ends_with(']') || !host.contains(':')) =>
        {
            (host, Some(port))
        }
        _ => (authority, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase(), port)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn from(peer: &str, pairs: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::new(Body::empty());
        *request.headers_mut() = headers(pairs);
        let peer: SocketAddr = peer.parse().expect("an address");
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    }

    #[test]
    fn pages_of_other_sites_are_foreign_only_to_this_machine() {
        for (host, origin, foreign) in [
            ("127.0.0.1:8188", "http://evil.example", true),
            ("127.0.0.1:8188", "http://127.0.0.1:8188", false),
            ("127.0.0.1:8188", "http://127.0.0.1:9000", true),
            ("127.0.0.1:8188", "http://127.0.0.1", false),
            ("LOCALHOST:8188", "http://localhost:8188", false),
            ("[::1]:8188", "http://[::1]:8188", false),
            ("localhost", "http://localhost:8188", false),
            ("127.0.0.1:8188", "null", false),
            ("gpu.example:8188", "http://evil.example", false),
        ] {
            assert_eq!(
                is_foreign(&headers(&[("host", host), ("origin", origin)])),
                foreign,
                "{host} {origin}"
            );
        }
    }

    #[test]
    fn the_session_cookie_is_found_among_others() {
        for (line, found) in [
            ("AIOHTTP_SESSION=abc", Some("abc")),
            ("a=b; AIOHTTP_SESSION=\"abc\"; c", Some("abc")),
            ("XAIOHTTP_SESSION=abc", None),
            ("AIOHTTP_SESSION", None),
            ("", None),
        ] {
            assert_eq!(cookie(&headers(&[("cookie", line)])), found, "{line}");
        }
    }

    #[test]
    fn cookies_do_not_count_for_pages_of_other_sites() {
        let host = ("host", "gpu.example:8188");
        for (pairs, cross) in [
            (&[host][..], false),
            (&[host, ("origin", "http://gpu.example:8188")], false),
            (&[host, ("origin", "http://gpu.example:9000")], true),
            (&[host, ("origin", "http://evil.example")], true),
            (&[host, ("origin", "null")], true),
            (&[host, ("origin", "http://friend.example")], false),
            (&[host, ("origin", "https://public.example"), ("x-forwarded-host", "public.example")], false),
            (&[host, ("origin", "https://public.example"), ("sec-fetch-site", "same-origin")], false),
            (&[host, ("sec-fetch-site", "none")], false),
            (&[host, ("sec-fetch-site", "same-site")], true),
            (&[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], true),
        ] {
            let found = is_cross_site(&Method::GET, &headers(pairs), Some("http://friend.example"));
            assert_eq!(found, cross, "{pairs:?}");
        }
        let link = headers(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]);
        assert!(!is_cross_site(&Method::GET, &link, None));
        assert!(is_cross_site(&Method::POST, &link, None));
    }

    #[test]
    fn only_who_certainly_sits_here_is_at_this_machine() {
        let here = ("host", "127.0.0.1:8188");
        for (peer, pairs, at) in [
            ("127.0.0.1:1", &[here][..], true),
            ("[::1]:1", &[("host", "localhost")], true),
            ("[::ffff:127.0.0.1]:1", &[here, ("origin", "http://127.0.0.1:8188")], true),
            ("10.0.0.1:1", &[here], false),
            ("127.0.0.1:1", &[], false),
            ("127.0.0.1:1", &[("host", "rebound.example")], false),
            ("127.0.0.1:1", &[here, ("x-forwarded-for", "127.0.0.1")], false),
            ("127.0.0.1:1", &[here, ("origin", "http://evil.example")], false),
            ("127.0.0.1:1", &[here, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], false),
        ] {
            assert_eq!(is_at_this_machine(&from(peer, pairs)), at, "{peer} {pairs:?}");
        }
    }

    #[test]
    fn a_proxy_on_this_machine_tells_the_address() {
        for (peer, line, expected) in [
            ("127.0.0.1:1", "1.1.1.1, 10.0.0.7", "10.0.0.7"),
            ("127.0.0.1:1", "[2001:db8::1]:99", "2001:db8::1"),
            ("127.0.0.1:1", "2001:db8::1", "2001:db8::1"),
            ("127.0.0.1:1", "nonsense", "127.0.0.1"),
            ("10.0.0.1:1", "10.0.0.7", "10.0.0.1"),
        ] {
            let found = address(&from(peer, &[("x-forwarded-for", line)]));
            assert_eq!(found.to_string(), expected, "{peer} {line}");
        }
    }
}
