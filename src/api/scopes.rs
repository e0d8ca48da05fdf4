//! How much a token has to open before a route answers it: one table for all routes.
//!
//! The main token, sessions, and servers without a token open everything; guests have rules of their own in `gate.rs`.

use axum::http::{Method, StatusCode};

use super::App;
use super::reply::{Error, Result};
use crate::auth::{Pass, Scope};
use crate::queue::Job;

/// Routes for which the method does not tell; their twins below `/api` are the same. Whatever is not here needs
/// [`Scope::Read`] to be read, and else [`Scope::Admin`].
const EXCEPTIONS: &[(Method, &str, Scope)] = &[
    (Method::POST, "/prompt", Scope::Generate),
    (Method::POST, "/comfyd/validate", Scope::Generate),
    (Method::POST, "/upload/image", Scope::Generate),
    (Method::POST, "/upload/mask", Scope::Generate),
    // These look into the job themselves: everybody may stop their own.
    (Method::POST, "/queue", Scope::Generate),
    (Method::POST, "/interrupt", Scope::Generate),
    (Method::POST, "/jobs/cancel", Scope::Generate),
    (Method::POST, "/jobs/{id}/cancel", Scope::Generate),
    // The inside of the server.
    (Method::GET, "/internal/logs", Scope::Admin),
    (Method::GET, "/internal/logs/raw", Scope::Admin),
    (Method::GET, "/internal/folder_paths", Scope::Admin),
];

/// What a method of a declared path needs; what leads to no route gets no further than to be told so.
pub(super) fn needed(method: &Method, route: Option<&str>) -> Scope {
    let Some(route) = route else { return Scope::Read };
    let (method, reads) = match *method {
        Method::GET | Method::HEAD => (&Method::GET, true),
        _ => (method, false),
    };
    let route = route.strip_prefix("/api").unwrap_or(route);
    let exception = EXCEPTIONS.iter().find(|(listed, path, _)| listed == method && *path == route);
    exception.map_or(if reads { Scope::Read } else { Scope::Admin }, |(_, _, scope)| *scope)
}

/// A refusal to who is known and may not do this.
pub(super) fn forbidden(why: &str) -> Error {
    Error::words(StatusCode::FORBIDDEN, why)
}

/// Whose jobs somebody may stop.
pub(super) enum Reach {
    All,
    /// Those of this token.
    Own(String),
}

impl Reach {
    pub fn of(pass: Option<Pass>, app: &App) -> Self {
        match pass {
            Some(pass @ Pass::Named(_, scope)) if scope < Scope::Admin => {
                // A token that ended just now owns nothing.
                Self::Own(app.gate.name_of(&pass).unwrap_or_default())
            }
            _ => Self::All,
        }
    }

    /// Whether everything may be touched; refuses else.
    pub fn all(&self) -> Result<()> {
        match self {
            Self::All => Ok(()),
            Self::Own(_) => Err(forbidden("This token may stop its own jobs only; an admin's may stop all.")),
        }
    }

    fn covers(&self, job: &Job) -> bool {
        match self {
            Self::All => true,
            Self::Own(name) => job.owner.as_ref() == Some(name),
        }
    }

    /// Refuses if any of the jobs of these ids is somebody else's. Ids of no job that runs or waits are anybody's.
    pub fn jobs<'a>(&self, app: &App, ids: impl IntoIterator<Item = &'a str>) -> Result<()> {
        if matches!(self, Self::All) {
            return Ok(());
        }
        let open = app.queue.snapshot();
        let jobs: Vec<_> = open.running.iter().chain(&open.pending).collect();
        let foreign = |id: &str| jobs.iter().any(|job| job.id == id && !self.covers(job));
        if ids.into_iter().any(foreign) { self.all() } else { Ok(()) }
    }

    /// The running job, for who may stop no other; an error if it is somebody else's.
    pub fn running(&self, app: &App) -> Result<Option<String>> {
        let running = app.queue.snapshot().running;
        match running {
            Some(job) if !self.covers(&job) => self.all().map(|()| None),
            job => Ok(job.map(|job| job.id.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_needs_much() {
        for (method, route, scope) in [
            (Method::GET, Some("/queue"), Scope::Read),
            (Method::HEAD, Some("/api/queue"), Scope::Read),
            (Method::POST, Some("/api/prompt"), Scope::Generate),
            (Method::POST, Some("/api/jobs/{id}/cancel"), Scope::Generate),
            (Method::POST, Some("/free"), Scope::Admin),
            (Method::POST, Some("/history"), Scope::Admin),
            (Method::DELETE, Some("/api/userdata/{file}"), Scope::Admin),
            (Method::HEAD, Some("/internal/logs"), Scope::Admin),
            (Method::PATCH, Some("/internal/logs/subscribe"), Scope::Admin),
            (Method::POST, Some("/something/new"), Scope::Admin),
            (Method::POST, None, Scope::Read),
        ] {
            assert_eq!(needed(&method, route), scope, "{method} {route:?}");
        }
    }

    #[test]
    fn every_listed_route_is_there() {
        let declared = super::super::table();
        for (method, path, _) in EXCEPTIONS {
            let is_there = |path: &str| declared.contains(&(path.to_owned(), method.to_string()));
            assert!(is_there(path) || is_there(&format!("/api{path}")), "{method} {path}");
        }
    }
}
