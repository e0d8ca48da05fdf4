//! Somebody with headers of their own: cookies, tokens in odd shapes, browsers.

use std::time::Duration;

use comfyd::auth::Policy;
use reqwest::header::{LOCATION, SET_COOKIE};
use reqwest::{Method, Response, StatusCode};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};

use super::server::{Options, Server, Socket};

pub const PASSWORD: &str = "correct horse";
pub const COOKIE: &str = "AIOHTTP_SESSION";

/// What `login/PASSWORD` holds for [`PASSWORD`], at a cost that tests can afford.
pub fn password_file() -> String {
    format!("{}\nalice", bcrypt::hash(PASSWORD, 4).unwrap())
}

/// A server where alice has set her password.
pub async fn guarded(policy: Policy) -> Server {
    Server::with(Options { password: Some(password_file()), policy, ..Options::default() }).await
}

/// The token of such a server.
pub fn token(server: &Server) -> String {
    let text = std::fs::read_to_string(server.base().join("login/PASSWORD")).unwrap();
    text.lines().next().unwrap().to_owned()
}

pub fn welcome_guests(server: &Server) {
    std::fs::write(server.base().join("login/GUEST_MODE"), "").unwrap();
}

/// A request's headers and query.
#[derive(Clone, Debug, Default)]
pub struct Visitor {
    pub headers: Vec<(&'static str, String)>,
    pub query: String,
}

impl Visitor {
    pub fn with(name: &'static str, value: impl Into<String>) -> Self {
        Self { headers: vec![(name, value.into())], query: String::new() }
    }

    pub fn cookie(value: &str) -> Self {
        Self::with("cookie", format!("{COOKIE}={value}"))
    }

    pub fn and(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn and_query(mut self, query: String) -> Self {
        self.query = query;
        self
    }

    pub fn asking(query: String) -> Self {
        Self { headers: Vec::new(), query }
    }

    fn path(&self, path: &str) -> String {
        match self.query.as_str() {
            "" => path.to_owned(),
            query if path.contains('?') => format!("{path}&{query}"),
            query => format!("{path}?{query}"),
        }
    }

    pub async fn send(&self, server: &Server, method: Method, path: &str, body: &str) -> Response {
        let mut request = server.stranger().request(method, &self.path(path)).body(body.to_owned());
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.send().await.unwrap()
    }

    pub async fn get(&self, server: &Server, path: &str) -> Response {
        self.send(server, Method::GET, path, "").await
    }

    pub async fn status(&self, server: &Server, path: &str) -> StatusCode {
        self.get(server, path).await.status()
    }

    /// Posts a form to `/login`.
    pub async fn post_form(&self, server: &Server, fields: &[(&str, &str)]) -> Response {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let typed = self.clone().and("content-type", "application/x-www-form-urlencoded");
        typed.send(server, Method::POST, "/login", &form).await
    }

    /// A websocket handshake: the socket, or the status of what came instead.
    pub async fn socket(&self, server: &Server, path: &str) -> Result<Socket, u16> {
        let address = format!("ws{}{}", server.url.trim_start_matches("http"), self.path(path));
        let mut request = address.into_client_request().unwrap();
        for (name, value) in &self.headers {
            request
                .headers_mut()
                .insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let done = tokio::time::timeout(Duration::from_secs(30), connect_async(request)).await.unwrap();
        match done {
            Ok((stream, _)) => Ok(Socket::of(stream)),
            Err(SocketError::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("no handshake: {error}"),
        }
    }
}

/// The session cookie that an answer sets.
pub fn cookie_of(response: &Response) -> Option<String> {
    let line = response.headers().get(SET_COOKIE)?.to_str().unwrap();
    Some(line.strip_prefix(COOKIE)?.strip_prefix('=')?.split(';').next()?.to_owned())
}

/// A new session.
pub async fn log_in(server: &Server) -> String {
    let response = Visitor::default().post_form(server, &[("password", PASSWORD), ("guest_mode", "")]).await;
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.headers()[LOCATION], "/");
    cookie_of(&response).unwrap()
}

/// A new guest's session.
pub async fn enter_as_guest(server: &Server) -> String {
    let response = Visitor::default().post_form(server, &[("password", ""), ("guest_mode", "1")]).await;
    assert_eq!(response.headers()[LOCATION], "/");
    cookie_of(&response).unwrap()
}
