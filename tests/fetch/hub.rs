//! A hub on this machine with a second host for the bytes, as the real one has. Both may misbehave.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// What is not as it should be.
#[derive(Clone, Default)]
pub struct Mood {
    /// Answers to the next requests for files, instead of the right ones: status and further headers.
    pub refusals: VecDeque<(u16, String)>,
    /// The same for requests for bytes.
    pub troubles: VecDeque<(u16, String)>,
    /// Bytes after which an answer of the second host is cut.
    pub cut_after: Option<usize>,
    /// The second host sends whole files whatever is asked.
    pub ignores_ranges: bool,
    /// Said instead of the truth.
    pub size: Option<u64>,
    pub sha256: Option<String>,
    /// Nothing is said with the file itself; the list of its folder has to be read.
    pub says_nothing: bool,
    /// How often an address of the second host can be used.
    pub uses: Option<u64>,
    /// The second host waits so long after every 16 KiB.
    pub pause: Option<Duration>,
    /// One byte at this place is another.
    pub spoilt: Option<usize>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub line: String,
    pub is_for_bytes: bool,
    pub range: Option<String>,
    pub token: Option<String>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    mood: Mood,
    asked: Vec<Asked>,
    signatures: BTreeMap<String, u64>,
}

pub struct Hub {
    pub url: String,
    state: Arc<Mutex<State>>,
    sent: Arc<AtomicU64>,
}

/// Numbers that look random and are the same every time.
pub fn noise(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    noise(seed).flat_map(u64::to_le_bytes).take(length).collect()
}

pub fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

const PIECE: usize = 16 << 10;

impl Hub {
    pub fn start() -> Self {
        let [hub, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("http://{}", hub.local_addr().unwrap());
        let bytes_at = format!("http://{}", second.local_addr().unwrap());
        let (state, sent) = (Arc::<Mutex<State>>::default(), Arc::<AtomicU64>::default());
        for (listener, is_for_bytes) in [(hub, false), (second, true)] {
            let (state, sent, bytes_at) = (state.clone(), sent.clone(), bytes_at.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let host = Host { state: state.clone(), sent: sent.clone(), bytes_at: bytes_at.clone() };
                    std::thread::spawn(move || drop(host.serve(stream.unwrap(), is_for_bytes)));
                }
            });
        }
        Self { url, state, sent }
    }

    /// Publishes a file at `owner/name/path`.
    pub fn put(&self, place: &str, bytes: Vec<u8>) {
        self.state.lock().unwrap().files.insert(place.to_owned(), bytes);
    }

    pub fn mood(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.state.lock().unwrap().mood);
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The bytes of files that have been sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

struct Host {
    state: Arc<Mutex<State>>,
    sent: Arc<AtomicU64>,
    bytes_at: String,
}

impl Host {
    fn serve(&self, mut stream: TcpStream, is_for_bytes: bool) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut asked = read(&mut lines, is_for_bytes)?;
        if asked.line.starts_with("CONNECT ") {
            // A proxy leads everybody here.
            write!(stream, "HTTP/1.1 200 tunnel\r\n\r\n")?;
            asked = read(&mut lines, is_for_bytes)?;
        }
        self.state.lock().unwrap().asked.push(asked.clone());
        let mut words = asked.line.split(' ');
        let (method, address) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (is_for_bytes, address.strip_prefix("/api/models/")) {
            (true, _) => self.send_bytes(&mut stream, address, asked.range.as_deref()),
            (false, Some(listed)) => self.list(&mut stream, listed),
            (false, None) => self.lead(&mut stream, address, method == "HEAD"),
        }
    }

    /// Says what a file is and where its bytes are.
    fn lead(&self, stream: &mut TcpStream, address: &str, is_head: bool) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if let Some((status, headers)) = state.mood.refusals.pop_front() {
            return head(stream, status, &headers, 0);
        }
        if let Some(rest) = address.strip_prefix("/old/") {
            return head(stream, 307, &format!("location: /new/{rest}\r\n"), 0);
        }
        let place = address.trim_start_matches('/').replacen("/resolve/main/", "/", 1);
        let Some(file) = state.files.get(&place) else {
            return head(
                stream,
                404,
                "x-error-code: EntryNotFound\r\nx-error-message: Entry not found\r\n",
                0,
            );
        };
        let size = state.mood.size.unwrap_or(file.len() as u64);
        let tag = state.mood.sha256.clone().unwrap_or_else(|| digest(file));
        let about = format!("x-linked-size: {size}\r\nx-linked-etag: \"{tag}\"\r\n");
        let about = if state.mood.says_nothing { String::new() } else { about };
        let number = state.signatures.len();
        let there = format!("/{place}?signature={number}");
        state.signatures.insert(there.clone(), 0);
        drop(state);
        let length = if is_head { 1044 } else { 0 };
        head(stream, 302, &format!("{about}location: {}{there}\r\n", self.bytes_at), length)
    }

    fn list(&self, stream: &mut TcpStream, address: &str) -> std::io::Result<()> {
        let state = self.state.lock().unwrap();
        let place = address.replacen("/tree/main/", "/", 1);
        let repository = place.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        let entries: Vec<_> = state
            .files
            .iter()
            .filter_map(|(file, bytes)| {
                let path = file.strip_prefix(&format!("{repository}/"))?;
                let large = json!({"oid": digest(bytes), "size": bytes.len(), "pointerSize": 135});
                file.starts_with(&place)
                    .then(|| json!({"type": "file", "path": path, "size": bytes.len(), "lfs": large}))
            })
            .collect();
        let text = json!(entries).to_string();
        head(stream, 200, "content-type: application/json\r\n", text.len())?;
        stream.write_all(text.as_bytes())
    }

    fn send_bytes(&self, stream: &mut TcpStream, address: &str, range: Option<&str>) -> std::io::Result<()> {
        let (file, mood) = {
            let mut state = self.state.lock().unwrap();
            if let Some((status, headers)) = state.mood.troubles.pop_front() {
                return head(stream, status, &headers, 0);
            }
            let most = state.mood.uses.unwrap_or(u64::MAX);
            let is_signed = state.signatures.get_mut(address).is_some_and(|uses| {
                *uses += 1;
                *uses <= most
            });
            if !is_signed {
                return head(stream, 403, "", 0);
            }
            let place = address.trim_start_matches('/').split('?').next().unwrap();
            let mut file = state.files[place].clone();
            if let Some(place) = state.mood.spoilt {
                file[place] ^= 1;
            }
            (file, state.mood.clone())
        };
        let asked = range.filter(|_| !mood.ignores_ranges).and_then(|range| {
            let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?))
        });
        let body = match asked {
            Some((start, _)) if start >= file.len() => {
                return head(stream, 416, &format!("content-range: bytes */{}\r\n", file.len()), 0);
            }
            Some((start, end)) => {
                let end = end.min(file.len() - 1);
                let about = format!("content-range: bytes {start}-{end}/{}\r\n", file.len());
                head(stream, 206, &about, end + 1 - start)?;
                &file[start..=end]
            }
            None => {
                head(stream, 200, "", file.len())?;
                &file[..]
            }
        };
        for piece in body[..mood.cut_after.unwrap_or(body.len()).min(body.len())].chunks(PIECE) {
            stream.write_all(piece)?;
            self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Some(pause) = mood.pause {
                std::thread::sleep(pause);
            }
        }
        Ok(())
    }
}

fn read(
    lines: &mut impl Iterator<Item = std::io::Result<String>>,
    is_for_bytes: bool,
) -> std::io::Result<Asked> {
    let line = lines.next().unwrap_or_else(|| Err(std::io::ErrorKind::UnexpectedEof.into()))?;
    let mut asked = Asked { line, is_for_bytes, range: None, token: None };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => asked.range = Some(value.to_owned()),
            "authorization" => asked.token = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(asked)
}

fn head(stream: &mut impl Write, status: u16, headers: &str, length: usize) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n")
}
