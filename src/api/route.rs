//! One declaration per route. Twins below `/api`, HEAD, and the answers to wrong methods follow from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::App;
use super::reply::Error;

/// One method of one path.
pub(super) struct Route {
    path: &'static str,
    method: Method,
    handler: MethodRouter<Arc<App>>,
    twin: bool,
    open: bool,
}

impl Route {
    pub fn get<H: Handler<T, Arc<App>>, T: 'static>(path: &'static str, handler: H) -> Self {
        Self::new(path, Method::GET, MethodFilter::GET, handler)
    }

    pub fn post<H: Handler<T, Arc<App>>, T: 'static>(path: &'static str, handler: H) -> Self {
        Self::new(path, Method::POST, MethodFilter::POST, handler)
    }

    pub fn patch<H: Handler<T, Arc<App>>, T: 'static>(path: &'static str, handler: H) -> Self {
        Self::new(path, Method::PATCH, MethodFilter::PATCH, handler)
    }

    pub fn delete<H: Handler<T, Arc<App>>, T: 'static>(path: &'static str, handler: H) -> Self {
        Self::new(path, Method::DELETE, MethodFilter::DELETE, handler)
    }

    fn new<H: Handler<T, Arc<App>>, T: 'static>(
        path: &'static str,
        method: Method,
        filter: MethodFilter,
        handler: H,
    ) -> Self {
        Self { path, method, handler: on(filter, handler), twin: true, open: false }
    }

    /// Answers at this path only, not below `/api` as well.
    pub fn alone(mut self) -> Self {
        self.twin = false;
        self
    }

    /// Answers everybody, token or not.
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    fn paths(&self) -> impl Iterator<Item = String> + use<> {
        let twin = self.twin.then(|| format!("/api{}", self.path));
        std::iter::once(self.path.to_owned()).chain(twin)
    }
}

/// The routes that need no token.
#[derive(Debug, Default)]
pub(super) struct OpenRoutes(Vec<(Method, String)>);

impl OpenRoutes {
    pub fn of(routes: &[Route]) -> Self {
        let open = routes.iter().filter(|route| route.open);
        Self(open.flat_map(|route| route.paths().map(|path| (route.method.clone(), path))).collect())
    }

    pub fn add(&mut self, method: Method, path: &str) {
        self.0.push((method, path.to_owned()));
    }

    /// Whether everybody may use this method of a declared path. What may be got may be asked about with HEAD.
    pub fn contains(&self, method: &Method, path: &str) -> bool {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.0.iter().any(|(open, known)| open == method && known == path)
    }
}

/// Every method of every declared path, sorted.
pub(super) fn list(routes: &[Route]) -> BTreeSet<(String, String)> {
    routes.iter().flat_map(|route| route.paths().map(|path| (path, route.method.to_string()))).collect()
}

/// All routes as one router.
pub(super) fn assemble(routes: Vec<Route>) -> Router<Arc<App>> {
    let mut paths: BTreeMap<String, (BTreeSet<String>, MethodRouter<Arc<App>>)> = BTreeMap::new();
    for route in routes {
        for path in route.paths() {
            let (methods, handlers) = paths.entry(path).or_default();
            methods.insert(route.method.to_string());
            *handlers = std::mem::take(handlers).merge(route.handler.clone());
        }
    }
    paths.into_iter().fold(Router::new(), |router, (path, (methods, handlers))| {
        let refuse = move |method: Method| std::future::ready(wrong_method(&method, &methods));
        router.route(&path, handlers.fallback(refuse))
    })
}

/// The answer to a method that a path does not know.
///
/// ComfyUI's web root takes GET on every path, so reading is never forbidden there: it finds nothing.
pub(super) fn wrong_method(method: &Method, known: &BTreeSet<String>) -> Response {
    if [Method::GET, Method::HEAD].contains(method) {
        return Error::not_found().into_response();
    }
    let mut allowed = BTreeSet::from(["GET", "HEAD"]);
    allowed.extend(known.iter().map(String::as_str));
    let allowed = allowed.into_iter().collect::<Vec<_>>().join(",");
    let refusal = Error::words(StatusCode::METHOD_NOT_ALLOWED, &format!("This path takes {allowed} only."));
    let mut response = refusal.into_response();
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}
