//! Every folder the server reads or writes, the search paths for models, and the names of outputs.
//!
//! Deliberately knows no formats, no tensors and no HTTP.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot create {path}: {source}")]
    Create { path: PathBuf, source: std::io::Error },
    #[error("{path}: {problem}")]
    ExtraPaths { path: PathBuf, problem: String },
    #[error("`{name}` leads outside the {kind} folder")]
    Outside { name: String, kind: Kind },
    #[error("`{name}` was not found in {folder}; there are: {}", list(.there))]
    Missing { name: String, folder: String, there: Vec<String> },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The folders whose files clients may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Input,
    Output,
    Temp,
}

impl Kind {
    /// The word used on the wire and in the folder's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Temp => "temp",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Input, Self::Output, Self::Temp].into_iter().find(|kind| kind.word() == word)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// ComfyUI's model folders in its order: the key clients use and the folder names searched for it.
pub const MODEL_FOLDERS: &[(&str, &[&str])] = &[
    ("checkpoints", &["checkpoints"]),
    ("configs", &["configs"]),
    ("loras", &["loras"]),
    ("vae", &["vae"]),
    ("text_encoders", &["text_encoders", "clip"]),
    ("diffusion_models", &["unet", "diffusion_models"]),
    ("clip_vision", &["clip_vision"]),
    ("style_models", &["style_models"]),
    ("embeddings", &["embeddings"]),
    ("diffusers", &["diffusers"]),
    ("vae_approx", &["vae_approx"]),
    ("controlnet", &["controlnet", "t2i_adapter"]),
    ("gligen", &["gligen"]),
    ("upscale_models", &["upscale_models"]),
    ("custom_nodes", &[]),
    ("hypernetworks", &["hypernetworks"]),
    ("photomaker", &["photomaker"]),
    ("classifiers", &["classifiers"]),
    ("model_patches", &["model_patches"]),
    ("audio_encoders", &["audio_encoders"]),
];

/// Where everything is. Built once by `cli` and lent to everybody.
#[derive(Clone, Debug)]
pub struct Folders {
    pub base: PathBuf,
    /// The model folders lie below this one, under ComfyUI's names.
    pub models: PathBuf,
    pub input: PathBuf,
    pub output: PathBuf,
    pub temp: PathBuf,
    pub user: PathBuf,
    /// Installed versions of the official web interface.
    pub web: PathBuf,
    /// What can be made again at any time: the unpacked built-in models.
    pub cache: PathBuf,
    /// Extra search folders, `(key, folder)`, searched after the base folder's own.
    extra: Vec<(String, PathBuf)>,
}

/// Model folders whose search ends in a folder of the output, where nodes save models.
const SAVED: [(&str, &str); 5] = [
    ("checkpoints", "checkpoints"),
    ("text_encoders", "clip"),
    ("vae", "vae"),
    ("diffusion_models", "diffusion_models"),
    ("loras", "loras"),
];

/// Suffixes of files that hold weights.
const WEIGHT_SUFFIXES: &[&str] = &["ckpt", "pt", "pt2", "bin", "pth", "safetensors", "pkl", "sft"];

impl Folders {
    /// The folders below `base` under ComfyUI's names. Nothing is created yet, see [`Folders::create`].
    pub fn below(base: impl Into<PathBuf>) -> Self {
        let base = base.into();
        Self {
            input: base.join("input"),
            output: base.join("output"),
            temp: base.join("temp"),
            user: base.join("user"),
            web: base.join("web"),
            models: base.join("models"),
            cache: base.join("user").join("cache"),
            extra: Vec::new(),
            base,
        }
    }

    /// Where the server keeps what it has to know after a restart.
    pub fn state(&self) -> PathBuf {
        self.user.join("comfyd")
    }

    /// Makes the folders the server writes to, and the model folders people put files into.
    pub fn create(&self) -> Result<()> {
        let models =
            MODEL_FOLDERS.iter().filter_map(|(key, names)| Some(self.models.join(own_name(key, names)?)));
        [&self.input, &self.output, &self.temp, &self.user].into_iter().cloned().chain(models).try_for_each(
            |path| std::fs::create_dir_all(&path).map_err(|source| Error::Create { path, source }),
        )
    }

    /// Adds the search folders of an `extra_model_paths.yaml`.
    ///
    /// Each top-level section may have a `base_path`; every other key is a model folder with one path
    /// or several, one per line. Paths are relative to the base path, which is relative to the file.
    pub fn add_extra_paths(&mut self, file: &Path) -> Result<()> {
        let bad = |problem: &str| Error::ExtraPaths { path: file.to_owned(), problem: problem.to_owned() };
        let text =
            std::fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
        let documents =
            <saphyr::Yaml as saphyr::LoadableYamlNode>::load_from_str(text.trim_start_matches('\u{feff}'))
                .map_err(|error| bad(&error.to_string()))?;
        let Some(document) = documents.first() else { return Ok(()) };
        let sections =
            document.as_mapping().ok_or_else(|| bad("expected sections with folder names below them"))?;
        let beside = file.parent().unwrap_or(Path::new("."));
        for (_, section) in sections {
            let Some(entries) = section.as_mapping() else { continue };
            let find = |wanted: &str| {
                entries.iter().find(|(key, _)| key.as_str() == Some(wanted)).map(|(_, value)| value)
            };
            let base = beside.join(find("base_path").and_then(|path| path.as_str()).unwrap_or("."));
            for (key, value) in entries {
                let (Some(key), Some(paths)) = (key.as_str(), value.as_str()) else { continue };
                if matches!(key, "base_path" | "is_default") {
                    continue;
                }
                let key = current_key(key);
                self.extra.extend(
                    paths
                        .lines()
                        .filter(|line| !line.trim().is_empty())
                        .map(|line| (key.to_owned(), base.join(line.trim()))),
                );
            }
        }
        Ok(())
    }

    pub fn of(&self, kind: Kind) -> &Path {
        match kind {
            Kind::Input => &self.input,
            Kind::Output => &self.output,
            Kind::Temp => &self.temp,
        }
    }

    /// The search path of a model folder, under its present or its former name; empty for an unknown key.
    pub fn model_folders(&self, key: &str) -> Vec<PathBuf> {
        let key = current_key(key);
        let own = MODEL_FOLDERS.iter().filter(|(known, _)| *known == key).flat_map(|(_, names)| *names);
        let own = own.map(|name| self.models.join(name));
        let extra = self.extra.iter().filter(|(known, _)| known == key).map(|(_, path)| path.clone());
        let saved = SAVED.iter().filter(|(known, _)| *known == key).map(|(_, name)| self.output.join(name));
        own.chain(extra).chain(saved).collect()
    }

    /// Names of the weight files below a model folder, sorted, with `/` between folders.
    pub fn model_names(&self, key: &str) -> Vec<String> {
        let mut names = BTreeSet::new();
        for root in self.model_folders(key) {
            walk(&root, &mut |path| {
                let weights = path
                    .extension()
                    .and_then(OsStr::to_str)
                    .is_some_and(|suffix| WEIGHT_SUFFIXES.contains(&suffix));
                if weights && let Ok(name) = path.strip_prefix(&root) {
                    names.insert(name.to_string_lossy().replace('\\', "/"));
                }
            });
        }
        names.into_iter().collect()
    }

    /// The file behind a name from [`Folders::model_names`].
    pub fn model(&self, key: &str, name: &str) -> Result<PathBuf> {
        let inside = stays_inside(Path::new(name));
        self.model_folders(key)
            .into_iter()
            .map(|root| root.join(name))
            .find(|path| inside && path.is_file())
            .ok_or_else(|| Error::Missing {
                name: name.to_owned(),
                folder: format!("models/{key}"),
                there: self.model_names(key),
            })
    }

    /// The file an annotated name stands for: `sub/name.png`, or `name.png [output]` for another folder
    /// than `default`. It need not exist, but never lies outside its folder.
    pub fn annotated(&self, name: &str, default: Kind) -> Result<PathBuf> {
        let (plain, kind) = split_annotation(name);
        let kind = kind.unwrap_or(default);
        if !stays_inside(Path::new(plain)) {
            return Err(Error::Outside { name: name.to_owned(), kind });
        }
        Ok(self.of(kind).join(plain))
    }

    /// Where the next pictures of a `filename_prefix` go. Tokens of the server (`%width%`, `%year%`, ...)
    /// are replaced; the folder is created.
    pub fn next_output(&self, kind: Kind, prefix: &str, width: usize, height: usize) -> Result<OutputName> {
        let prefix = replace_tokens(prefix, width, height, &jiff::Zoned::now());
        let outside = || Error::Outside { name: prefix.clone(), kind };
        let inside = normalise(Path::new(&prefix)).ok_or_else(outside)?;
        let stem = inside.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let subfolder =
            inside.parent().map(|path| path.to_string_lossy().replace('\\', "/")).unwrap_or_default();
        let folder = self.of(kind).join(&subfolder);
        std::fs::create_dir_all(&folder).map_err(|source| Error::Create { path: folder.clone(), source })?;
        let taken =
            std::fs::read_dir(&folder).map_err(|source| Error::Read { path: folder.clone(), source })?;
        let highest =
            taken.filter_map(|entry| counter_of(&entry.ok()?.file_name().to_string_lossy(), &stem)).max();
        Ok(OutputName { folder, subfolder, stem, counter: highest.unwrap_or(0) + 1 })
    }
}

/// Stands for the place of a picture in its batch.
const BATCH_NUMBER: &str = "%batch_num%";

/// A place for the pictures of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputName {
    pub folder: PathBuf,
    /// `folder` relative to the output folder, as clients are told.
    pub subfolder: String,
    stem: String,
    counter: u32,
}

impl OutputName {
    /// The file name of picture `index` of the batch.
    pub fn picture(&self, index: usize, suffix: &str) -> String {
        let stem = self.stem.replace(BATCH_NUMBER, &index.to_string());
        format!("{stem}_{:05}_.{suffix}", self.counter as usize + index)
    }

    /// The name of a file for all of it, in which `%batch_num%` stands for itself; `ending` follows the counter.
    pub fn file(&self, ending: &str) -> String {
        format!("{}_{:05}{ending}", self.stem, self.counter)
    }
}

/// Splits ` [input]`, ` [output]` or ` [temp]` off a name.
pub fn split_annotation(name: &str) -> (&str, Option<Kind>) {
    for kind in [Kind::Output, Kind::Input, Kind::Temp] {
        if let Some(plain) = name.strip_suffix(&format!("[{kind}]")) {
            return (plain.strip_suffix(' ').unwrap_or(plain), Some(kind));
        }
    }
    (name, None)
}

/// Whether a relative path can only lead downwards, whatever exists on disk.
pub fn stays_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Resolves `.` and `..` by text alone; `None` when the path is absolute or leaves its start.
pub fn normalise(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// Whether `inside`, a relative path, still lies below `root` once links are followed.
///
/// Links are put there by the owner of the machine, who may follow them; whoever names files over the network
/// may not be led out by them. `root` itself may be a link. What does not exist leads nowhere.
pub fn stays_below(root: &Path, inside: &Path) -> bool {
    let mut place = root.to_owned();
    for part in inside.components() {
        place.push(part);
        let Ok(about) = place.symlink_metadata() else { return true };
        let leads_out = || match (root.canonicalize(), place.canonicalize()) {
            (Ok(root), Ok(target)) => !target.starts_with(root),
            _ => true,
        };
        if about.is_symlink() && leads_out() {
            return false;
        }
    }
    true
}

fn own_name(key: &str, names: &[&'static str]) -> Option<&'static str> {
    names.iter().find(|name| **name == key).or(names.first()).copied()
}

/// ComfyUI still reads the names its folders had before they were renamed.
fn current_key(key: &str) -> &str {
    match key {
        "unet" => "diffusion_models",
        "clip" => "text_encoders",
        other => other,
    }
}

fn walk(folder: &Path, found: &mut dyn FnMut(&Path)) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() { walk(&path, found) } else { found(&path) }
    }
}

/// The counter of a file that an [`OutputName`] with this stem has made.
fn counter_of(name: &str, stem: &str) -> Option<u32> {
    let rest = match (name.strip_prefix(stem), stem.split_once(BATCH_NUMBER)) {
        (Some(rest), _) => rest,
        (None, None) => return None,
        // ComfyUI does not find these files again and writes over them.
        (None, Some((before, after))) => {
            let number_on = name.strip_prefix(before)?;
            let rest = number_on.trim_start_matches(|letter: char| letter.is_ascii_digit());
            let number = &number_on[..number_on.len() - rest.len()];
            rest.strip_prefix(&after.replace(BATCH_NUMBER, number))?
        }
    };
    rest.strip_prefix('_')?.split(['_', '.']).next()?.parse().ok()
}

fn replace_tokens(prefix: &str, width: usize, height: usize, now: &jiff::Zoned) -> String {
    [
        ("%width%", width.to_string()),
        ("%height%", height.to_string()),
        ("%year%", now.year().to_string()),
        ("%month%", format!("{:02}", now.month())),
        ("%day%", format!("{:02}", now.day())),
        ("%hour%", format!("{:02}", now.hour())),
        ("%minute%", format!("{:02}", now.minute())),
        ("%second%", format!("{:02}", now.second())),
    ]
    .into_iter()
    .fold(prefix.to_owned(), |text, (token, value)| text.replace(token, &value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_lead_outside() {
        assert_eq!(normalise(Path::new("a/../b")), Some(PathBuf::from("b")));
        assert_eq!(normalise(Path::new("a/../../b")), None);
        assert_eq!(normalise(Path::new("/etc")), None);
        assert!(!stays_inside(Path::new("../input/x.png")));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_only_where_they_stay_inside() {
        use std::os::unix::fs::symlink;
        let base = tempfile::tempdir().expect("a folder");
        let (root, outside) = (base.path().join("root"), base.path().join("outside"));
        std::fs::create_dir_all(root.join("sub")).expect("a folder");
        std::fs::create_dir(&outside).expect("a folder");
        for (target, link) in
            [(&root.join("sub"), "within"), (&outside, "out"), (&base.path().join("nothing"), "dangling")]
        {
            symlink(target, root.join(link)).expect("a link");
        }
        symlink(&root, base.path().join("alias")).expect("a link");
        for (path, stays) in [
            ("sub/x", true),
            ("within/x", true),
            ("absent/x", true),
            ("out/x", false),
            ("out", false),
            ("dangling", false),
        ] {
            assert_eq!(stays_below(&root, Path::new(path)), stays, "{path}");
            assert_eq!(stays_below(&base.path().join("alias"), Path::new(path)), stays, "{path}");
        }
    }

    #[test]
    fn annotations_choose_the_folder() {
        assert_eq!(split_annotation("x.png [output]"), ("x.png", Some(Kind::Output)));
        assert_eq!(split_annotation("x.png"), ("x.png", None));
    }

    #[test]
    fn counters_belong_to_exactly_one_prefix() {
        assert_eq!(counter_of("a_00012_.png", "a"), Some(12));
        assert_eq!(counter_of("a_00012.txt", "a"), Some(12));
        assert_eq!(counter_of("ab_00012_.png", "a"), None);
        assert_eq!(counter_of("a_b_00012_.png", "a"), None);
    }

    #[test]
    fn counters_go_on_where_names_hold_the_place_in_the_batch() {
        assert_eq!(counter_of("b2x2_00003_.png", "b%batch_num%x%batch_num%"), Some(3));
        assert_eq!(counter_of("b2x1_00003_.png", "b%batch_num%x%batch_num%"), None);
        assert_eq!(counter_of("b_00003_.png", "b%batch_num%"), Some(3));
        assert_eq!(counter_of("b%batch_num%_00003_.latent", "b%batch_num%"), Some(3));
    }
}
