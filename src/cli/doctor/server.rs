//! A running server: whether it is there, takes the token, has the same time, and whom it turned away.

use jiff::Timestamp;
use jiff::fmt::rfc2822;

use crate::auth::{Audit, Denied};
use crate::cli::client::{Client, ServerArgs};
use crate::cli::report::Line;
use crate::cli::{Failure, Result};

/// How far two clocks may differ, in seconds.
const SLACK: i64 = 120;

pub(super) fn lines(asked: &ServerArgs, audit: Option<&Audit>) -> Vec<Line> {
    let token = audit.map(|audit| audit.token.reveal());
    match Client::new(asked) {
        Ok(client) => ask(&client.or_token(token)),
        Err(failure) => vec![failed("server", failure)],
    }
}

/// A failure as a line: what went wrong, and its hint.
fn failed(place: &str, failure: Failure) -> Line {
    Line::fail(place, failure.told(), failure.advice().unwrap_or("see the server's own log"))
}

fn ask(client: &Client) -> Vec<Line> {
    let url = client.url().to_owned();
    let mut lines = Vec::new();
    match client.health() {
        Ok((answer, date)) => {
            let version = answer["version"].as_str().unwrap_or("unknown");
            lines.push(Line::ok(url.as_str(), format!("comfyd {version} answers")));
            lines.extend(date.and_then(|date| clock(&date, Timestamp::now())));
        }
        Err(failure) => return vec![failed(&url, failure)],
    }
    match logs(client) {
        Ok(told) => {
            lines.push(Line::ok("server's token", "it takes the one that is sent from here"));
            lines.extend(refusals(&told));
        }
        Err(failure) => lines.push(failed("server's token", failure)),
    }
    lines
}

fn logs(client: &Client) -> Result<Vec<String>> {
    let logs = client.get("/internal/logs/raw")?;
    let entries = logs["entries"].as_array().into_iter().flatten();
    Ok(entries.filter_map(|entry| entry["m"].as_str().map(str::to_owned)).collect())
}

fn clock(date: &str, now: Timestamp) -> Option<Line> {
    let theirs = rfc2822::parse(date).ok()?.timestamp();
    let off = now.as_second() - theirs.as_second();
    (off.abs() > SLACK).then(|| {
        let found = format!("it differs from the server's by {} s; tokens end by the server's", off.abs());
        Line::warn("clock", found, "set both: `timedatectl set-ntp true`")
    })
}

/// Why requests were refused, as far as the log goes back.
fn refusals(log: &[String]) -> Vec<Line> {
    let mut counts = Denied::ALL.map(|denied| (denied, 0_usize));
    for line in log {
        let Some((_, why)) = line.split_once("refused: ") else { continue };
        if let Some((_, count)) = counts.iter_mut().find(|(denied, _)| is_about(why, *denied)) {
            *count += 1;
        }
    }
    let told = counts.into_iter().filter(|(_, count)| *count > 0).map(|(denied, count)| {
        let found = format!("{count} of late, because {denied}");
        if denied.is_usual() {
            Line::ok("refused requests", format!("{found}; browsers do so before they log in"))
        } else {
            Line::warn("refused requests", found, denied.mend())
        }
    });
    told.collect()
}

/// Whether a line ends in these words, or goes on with where the request came from.
fn is_about(why: &str, denied: Denied) -> bool {
    let rest = why.trim_end().strip_prefix(&denied.to_string());
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c == ',' || c == ';' || c.is_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::Level;

    #[test]
    fn every_reason_is_told_with_its_mend() {
        for denied in Denied::ALL {
            let log = [
                format!("2025 WARN comfyd::api: refused: {denied} from=127.0.0.1 what=\"GET /queue\"\n"),
                "other\n".to_owned(),
            ];
            let lines = refusals(&log);
            assert_eq!(lines.len(), 1, "{denied}");
            assert!(
                lines[0].found.starts_with("1 of late") && lines[0].found.contains(&denied.to_string()),
                "{lines:?}"
            );
            assert_eq!(lines[0].level == Level::Ok, denied.is_usual(), "{denied}");
        }
    }

    #[test]
    fn clocks_may_differ_a_little() {
        let now = rfc2822::parse("Sat, 01 Nov 2025 12:00:00 +0000").expect("a time").timestamp();
        assert!(clock("Sat, 01 Nov 2025 12:01:00 GMT", now).is_none());
        assert!(clock("Sat, 01 Nov 2025 13:00:00 GMT", now).is_some());
        assert!(clock("nonsense", now).is_none());
    }
}
