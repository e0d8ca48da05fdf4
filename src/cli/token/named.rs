//! Tokens with names: given out, listed, taken back.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::auth::{Named, Places, Scope};
use crate::cli::{Failure, Result, print, print_progress};

pub(super) fn scope(text: &str) -> Result<Scope, String> {
    let scopes = [Scope::Read, Scope::Generate, Scope::Admin];
    let found = scopes.into_iter().find(|scope| scope.to_string() == text);
    found.ok_or_else(|| "expected read, generate or admin".to_owned())
}

/// `30d`, `12h`, `90m`, `45s`.
pub(super) fn life(text: &str) -> Result<Duration, String> {
    let usage = || "expected a number and d, h, m or s, as in 30d".to_owned();
    let unit = text.chars().next_back().ok_or_else(usage)?;
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return Err(usage()),
    };
    let count: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| usage())?;
    let longest = 100 * 366 * 86_400;
    let life = count.checked_mul(seconds).filter(|life| (1..=longest).contains(life));
    life.map(Duration::from_secs).ok_or_else(|| "a token lasts from a second to a hundred years".to_owned())
}

pub(super) fn issue(places: &Places, name: &str, scope: Scope, life: Option<Duration>) -> Result {
    if !places.have_any() {
        let none = Failure::from(
            "there is no token for the owner yet, so that everybody at this machine may do all",
        );
        return Err(none.hint("`comfyd token new` makes one; then name others"));
    }
    let secret = places.issue(name, scope, life)?;
    print(&format!("{secret}\n"));
    print_progress(&format!("this token of {name} may {scope}; it is not shown again"));
    Ok(())
}

pub(super) fn revoke(places: &Places, name: &str) -> Result {
    places.revoke(name)?;
    print_progress(&format!("the token of {name} opens nothing any more"));
    Ok(())
}

pub(super) fn list(places: &Places, as_json: bool) -> Result {
    let all = places.named()?;
    if as_json {
        print(&format!("{:#}\n", all.iter().map(document).collect::<Json>()));
        return Ok(());
    }
    for named in &all {
        let end = match named.expires {
            None => "until it is revoked".to_owned(),
            Some(end) if named.has_expired() => format!("expired {end}"),
            Some(end) => format!("until {end}"),
        };
        print(&format!("{:20} {:8}  {end}\n", named.name, named.scope.to_string()));
    }
    if all.is_empty() {
        print("there are none; `comfyd token new NAME` makes one\n");
    }
    Ok(())
}

fn document(named: &Named) -> Json {
    json!({
        "name": named.name, "scope": named.scope, "created": named.created, "expires": named.expires,
        "expired": named.has_expired(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        assert_eq!(life("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(life("90m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "d", "30", "-1d", "0s", "1.5h", "30 d", "99999999999999999999d", "999999d", "3é"] {
            assert!(life(bad).is_err(), "{bad}");
        }
    }
}
