//! The port, and the proxies between programs on this machine and the server.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use crate::cli::client::{Client, ServerArgs};
use crate::cli::report::Line;
use crate::http_client;

/// What was found at the port.
pub(super) struct Port {
    pub(super) lines: Vec<Line>,
    /// The address of a comfyd that listens there.
    pub(super) running: Option<String>,
}

pub(super) fn port(addresses: &[SocketAddr]) -> Port {
    let mut found = Port { lines: Vec::new(), running: None };
    for address in addresses {
        let place = format!("port {address}");
        // A port that the system chooses is always free.
        let line = match TcpListener::bind(address) {
            Ok(_) => Line::ok(place, "free"),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let url =
                    format!("http://{address}").replace("0.0.0.0", "127.0.0.1").replace("[::]", "127.0.0.1");
                match whose(&url, address.port()) {
                    None => {
                        found.running = Some(url);
                        Line::ok(place, "comfyd listens there")
                    }
                    Some(whose) => {
                        Line::fail(place, format!("taken by {whose}"), "end that, or choose another --port")
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Line::fail(place, format!("may not be used: {error}"), "choose a --port above 1023")
            }
            Err(error) => Line::fail(
                place,
                format!("cannot be used: {error}"),
                "`--listen` takes addresses of this machine",
            ),
        };
        found.lines.push(line);
    }
    found
}

/// Who listens at the port; `None` for a comfyd.
fn whose(url: &str, port: u16) -> Option<String> {
    let asked = ServerArgs { url: Some(url.to_owned()), token_file: None };
    let health = Client::new(&asked).and_then(|client| client.health());
    if health.is_ok_and(|(answer, _)| answer["status"] == "ok" && answer["version"].is_string()) {
        return None;
    }
    Some(listener(port).unwrap_or_else(|| "another program".to_owned()))
}

/// The program with a socket that listens at a port, where the system lets us see.
fn listener(port: u16) -> Option<String> {
    const LISTENS: &str = "0A";
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let local = format!(":{port:04X}");
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words.get(1)?.ends_with(&local) && *words.get(3)? == LISTENS).then(|| words.get(9).copied())?
    })?;
    let socket = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let numbered = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let mut holders = numbered.map(|entry| entry.path()).filter(|process| {
        let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|file| file.as_os_str() == &*socket)
    });
    let holder = holders.next()?;
    let name = std::fs::read_to_string(holder.join("comm")).unwrap_or_default();
    Some(format!("{} (process {})", name.trim(), holder.file_name()?.to_string_lossy()))
}

/// The variables that send programs to a proxy.
pub(super) fn proxies(variable: &dyn Fn(&str) -> Option<String>) -> Vec<Line> {
    let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let either = |name: &str| {
        let lower = name.to_ascii_lowercase();
        [name, &lower].into_iter().find_map(|name| Some((name.to_owned(), set(name)?)))
    };
    let mut lines = Vec::new();
    let mut plain = None;
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        let Some((name, value)) = either(name) else { continue };
        let has_scheme = value.contains("://");
        let address = if has_scheme { value.clone() } else { format!("http://{value}") };
        match url::Url::parse(&address) {
            Ok(url) if url.has_host() => {
                if !name.eq_ignore_ascii_case("HTTPS_PROXY") {
                    plain = plain.or(Some((name, http_client::shown(&url))));
                }
            }
            _ => lines.push(Line::fail(
                name,
                "it is not the address of a proxy",
                "it looks like http://host:port",
            )),
        }
    }
    let spared = either("NO_PROXY").map(|(_, value)| value).unwrap_or_default();
    let spares_us =
        spared.split(',').map(str::trim).any(|host| ["*", "127.0.0.1", "localhost"].contains(&host));
    if let Some((name, proxy)) = plain.filter(|_| !spares_us) {
        let found =
            format!("programs on this machine would ask the proxy {proxy} for the server on this machine");
        lines.push(Line::warn(name, found, "set NO_PROXY=127.0.0.1,localhost"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::Level;

    #[test]
    fn proxies_have_addresses_and_spare_this_machine() {
        for (set, levels) in [
            (&[][..], &[][..]),
            (&[("https_proxy", "http://proxy:3128")], &[]),
            (&[("http_proxy", "proxy:3128"), ("no_proxy", "localhost")], &[]),
            (&[("HTTP_PROXY", "http://me:secret@proxy:3128")], &[Level::Warn]),
            (&[("HTTP_PROXY", "http://"), ("NO_PROXY", "*")], &[Level::Fail]),
        ] {
            let set: Vec<(&str, &str)> = set.to_vec();
            let variable = |name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            let lines = proxies(&variable);
            let found: Vec<_> = lines.iter().map(|line| line.level).collect();
            assert_eq!(found, levels, "{set:?}");
            assert!(!format!("{lines:?}").contains("secret"), "{lines:?}");
        }
    }

    #[test]
    fn whoever_listens_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let found = super::listener(address.port()).expect("a program");
        assert!(found.contains(&std::process::id().to_string()), "{found}");
    }
}
