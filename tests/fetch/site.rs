//! A folder to fetch models into, and both ways to do it: as a library with little patience, and as the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use comfyd::fetch::{Error, Options, Patience, Plan, Search, Set, Step, fetch};
use comfyd::paths::Folders;

use crate::hub::Hub;

pub struct Site {
    pub base: tempfile::TempDir,
    pub set: PathBuf,
}

impl Site {
    /// A set of files: place at the hub (`owner/name/path`), model folder, further lines.
    pub fn new(files: &[(&str, &str, &str)]) -> Self {
        let base = tempfile::tempdir().unwrap();
        let set = base.path().join("test.toml");
        let entries = files.iter().map(|(place, folder, more)| {
            let parts: Vec<_> = place.splitn(3, '/').collect();
            let (repository, path) = (format!("{}/{}", parts[0], parts[1]), parts[2]);
            format!("[[file]]\nrepository = '{repository}'\npath = '{path}'\nfolder = '{folder}'\n{more}\n")
        });
        let text = entries.collect::<Vec<_>>().join("\n");
        std::fs::write(&set, format!("about = 'a test'\nlicence = 'Apache-2.0'\n{text}")).unwrap();
        Self { base, set }
    }

    pub fn models(&self) -> PathBuf {
        self.base.path().join("models")
    }

    /// Every file below the models folder, but the lock.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.models()];
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with(".comfyd-fetch.lock") {
                    found.push(path.strip_prefix(self.models()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    pub fn options() -> Options {
        let patience =
            Patience { first: Duration::from_millis(2), longest: Duration::from_secs(3), tries: 4 };
        Options { patience, ..Options::default() }
    }

    pub fn fetch(&self, hub: &Hub) -> Result<(), Error> {
        self.fetch_telling(hub, &|_| {})
    }

    pub fn fetch_telling(&self, hub: &Hub, tell: &(dyn Fn(Step) + Sync)) -> Result<(), Error> {
        let set = Set::find(self.set.to_str().unwrap()).unwrap();
        let folders = Folders::below(self.base.path());
        let options = Self::options();
        let client = comfyd::fetch::Hub::new(&hub.url, Some("hf_secret".to_owned()))?;
        let search = Search { folders: &folders, hub: &client, patience: options.patience, verify: false };
        let plan = Plan::new(&[set], search)?;
        fetch(&client, &plan, options, tell)
    }

    /// The program, with nothing of the environment that could matter.
    pub fn program(&self, hub: &Hub) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
        command.arg("fetch-models").arg(&self.set).arg("--base-directory").arg(self.base.path());
        command.env_clear().env("HF_ENDPOINT", &hub.url).env("HF_HOME", self.base.path().join("hf"));
        command
    }

    pub fn run(&self, hub: &Hub, arguments: &[&str]) -> Output {
        self.program(hub).args(arguments).output().unwrap()
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.models().join(path)).unwrap()
    }
}

pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}
