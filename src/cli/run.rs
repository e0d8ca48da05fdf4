//! `comfyd run`: executes one graph in this process and writes its pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value as Json};
use tracing::level_filters::LevelFilter;

use super::arithmetic::{ArithmeticArgs, DeviceArgs};
use super::folders::FolderArgs;
use super::memory::MemoryArgs;
use super::{Result, graph_file, log, print};
use crate::api::Logs;
use crate::graph::{self, CachePolicy, End, Event, Executor, NodeId, Phase, Registry, Request};
use crate::nodes::{self, Services};
use crate::paths::Folders;
use crate::stop::Stop;

/// Execute a graph without a server and write its pictures
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXIT STATUS\n  0  every output was made\n  1  the graph was refused, or failed while running\n  2  bad usage\n\nEXAMPLE\n  comfyd run workflows/edit_photo.json --image 78=photo.jpg --set '111.prompt=make it a sepia photo'"
)]
pub struct Args {
    #[command(flatten)]
    pub graph: GraphArgs,

    /// Write pictures here
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,

    #[command(flatten)]
    pub folders: FolderArgs,
    #[command(flatten)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    pub arithmetic: ArithmeticArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// A graph and what shall be different in it.
#[derive(Debug, clap::Args)]
pub struct GraphArgs {
    /// The graph: in API format, as the editor saves it, or inside a PNG
    #[arg(id = "graph", value_name = "GRAPH")]
    file: PathBuf,

    /// Give node NODE the picture FILE (its input `image`); may be repeated
    #[arg(long, value_name = "NODE=FILE", value_parser = parse_image)]
    image: Vec<(NodeId, PathBuf)>,

    /// Set an input of a node; VALUE is JSON, or else plain text; may be repeated
    #[arg(long, value_name = "NODE.INPUT=VALUE", value_parser = parse_setting)]
    set: Vec<Setting>,
}

impl GraphArgs {
    /// The graph as it shall run, and the folders it runs in. Pictures given and all that is temporary lie in `scratch`.
    pub(super) fn prepare(
        &self,
        folders: &FolderArgs,
        scratch: &Path,
        registry: &Registry<Services>,
    ) -> Result<(Map<String, Json>, Folders)> {
        let has_input = folders.input_directory.is_some();
        let mut folders = folders.folders()?;
        let mut graph = graph_file::read(&self.file, registry, &Services::new(folders.clone()))?.prompt;
        for setting in &self.set {
            setting.clone().apply(&mut graph)?;
        }
        let beside = self.file.with_file_name("input");
        if !has_input && beside.is_dir() {
            folders.input = beside;
        }
        folders.temp = scratch.join("temp");
        if !self.image.is_empty() {
            let staged = scratch.join("input");
            stage_inputs(&folders.input, &staged)?;
            for (node, file) in &self.image {
                let name = stage_picture(file, &staged)?;
                *input_of(&mut graph, node, "image")? = Json::String(name);
            }
            folders.input = staged;
        }
        Ok((graph, folders))
    }
}

/// One `--set`.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    node: NodeId,
    input: String,
    value: Json,
}

impl Setting {
    pub(super) fn apply(self, graph: &mut Map<String, Json>) -> Result<(), Error> {
        *input_of(graph, &self.node, &self.input)? = self.value;
        Ok(())
    }
}

/// Why a graph could not be run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("there is no node `{node}` with inputs in the graph; there are: {}", .there.join(", "))]
    NoSuchNode { node: NodeId, there: Vec<NodeId> },
    #[error("cannot read the picture {}", .path.display())]
    Picture { path: PathBuf, source: std::io::Error },
    #[error("cannot make temporary files")]
    Scratch(#[source] std::io::Error),
    #[error("the graph was refused: {0}")]
    Refused(graph::Refusal),
    #[error("these nodes cannot run, nor can the outputs that need them:{0}")]
    Problems(graph::Problems),
    #[error("interrupted")]
    Interrupted,
    #[error("node {} ({}) failed: {}", .0.node, .0.class, .0.message.trim_end())]
    Failed(Box<graph::Failure>),
}

pub(super) fn parse_image(text: &str) -> Result<(NodeId, PathBuf), String> {
    let (node, file) = text.split_once('=').ok_or("expected NODE=FILE, for example 78=photo.jpg")?;
    Ok((node.to_owned(), PathBuf::from(file)))
}

pub(super) fn parse_setting(text: &str) -> Result<Setting, String> {
    let usage = "expected NODE.INPUT=VALUE, for example 3.steps=8";
    let (place, value) = text.split_once('=').ok_or(usage)?;
    // Node ids may contain dots and input names never do.
    let (node, input) = place.rsplit_once('.').ok_or(usage)?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned()));
    Ok(Setting { node: node.to_owned(), input: input.to_owned(), value })
}

/// Runs the graph to its end and prints where its pictures are.
pub(super) fn run(args: Args) -> Result {
    log::start(LevelFilter::WARN, log::Format::default(), &Logs::default());
    let registry = nodes::registry();
    // Lives until the run is over.
    let scratch = tempfile::tempdir().map_err(Error::Scratch)?;
    let (graph, mut folders) = args.graph.prepare(&args.folders, scratch.path(), &registry)?;
    if let Some(output) = args.output {
        folders.output = output;
    }
    let (arithmetic, card, memory) = (args.arithmetic.arithmetic(), args.device.card(), args.memory.memory());
    execute(Json::Object(graph), registry, Services { arithmetic, card, memory, ..Services::new(folders) })
}

pub(super) fn input_of<'a>(
    graph: &'a mut Map<String, Json>,
    node: &str,
    input: &str,
) -> Result<&'a mut Json, Error> {
    let there = graph.keys().cloned().collect();
    let found = graph.get_mut(node).and_then(|node| node.get_mut("inputs")).and_then(Json::as_object_mut);
    let inputs = found.ok_or_else(|| Error::NoSuchNode { node: node.to_owned(), there })?;
    Ok(inputs.entry(input).or_insert(Json::Null))
}

/// Makes the pictures of the input folder visible in `staged`, without copying them where links exist.
fn stage_inputs(input: &Path, staged: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(staged).map_err(Error::Scratch)?;
    let Ok(entries) = std::fs::read_dir(input) else { return Ok(()) };
    for entry in entries.flatten() {
        let (from, to) = (entry.path(), staged.join(entry.file_name()));
        let from = from.canonicalize().map_err(Error::Scratch)?;
        #[cfg(unix)]
        std::os::unix::fs::symlink(from, to).map_err(Error::Scratch)?;
        #[cfg(not(unix))]
        if from.is_file() {
            std::fs::copy(from, to).map_err(Error::Scratch)?;
        }
    }
    Ok(())
}

fn stage_picture(file: &Path, staged: &Path) -> Result<String, Error> {
    let unreadable = |source| Error::Picture { path: file.to_owned(), source };
    let name = file.file_name().ok_or_else(|| unreadable(std::io::ErrorKind::IsADirectory.into()))?;
    let bytes = std::fs::read(file).map_err(unreadable)?;
    let target = staged.join(name);
    // A link to the user's own picture of that name may lie here; it must not be written through.
    let _ = std::fs::remove_file(&target);
    std::fs::write(&target, bytes).map_err(Error::Scratch)?;
    Ok(name.to_string_lossy().into_owned())
}

fn execute(graph: Json, registry: Registry<Services>, services: Services) -> Result {
    let (services, registry) = (Arc::new(services), Arc::new(registry));
    let checked =
        graph::check(graph, &registry, services.as_ref(), None).map_err(|refusal| match refusal {
            graph::Refusal::OutputsFailed(problems) => Error::Problems(problems),
            other => Error::Refused(other),
        })?;
    // As in ComfyUI, outputs that can run do so whatever is wrong with others.
    let refused = (!checked.problems.is_empty()).then(|| Error::Problems(checked.problems));
    let stop = stop_on_interrupt();
    let mut screen = Screen::new(&checked.plan.prompt);
    let mut executor = Executor::new(Arc::clone(&services), registry, CachePolicy::None);
    let outcome = executor.run(&checked.plan, &Request::default(), &stop, &mut |event| screen.show(event));
    screen.finish();
    match outcome.end {
        End::Succeeded => {}
        End::Interrupted => return Err(Error::Interrupted.into()),
        End::Failed => {
            let failure = screen.failure.map(|failure| Error::Failed(Box::new(failure)));
            return Err(failure.unwrap_or(Error::Interrupted).into());
        }
    }
    print(&screen.report());
    for output in outcome.outputs.values() {
        for picture in output.get("images").and_then(Json::as_array).into_iter().flatten() {
            print(&format!("{}\n", picture_path(&services, picture).display()));
        }
    }
    refused.map_or(Ok(()), |refused| Err(refused.into()))
}

fn picture_path(services: &Services, picture: &Json) -> PathBuf {
    let word = |key: &str| picture.get(key).and_then(Json::as_str).unwrap_or_default();
    services.folders.output.join(word("subfolder")).join(word("filename"))
}

/// The first Ctrl-C stops the work at its next checkpoint, the second ends the process.
pub(super) fn stop_on_interrupt() -> Stop {
    let stop = Stop::new();
    let asked = stop.clone();
    let listen = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                asked.request();
            }
        });
    };
    std::thread::spawn(listen);
    stop
}

/// What a person sees while a graph runs: one bar for the node at work, and its time when it ends.
struct Screen {
    titles: BTreeMap<NodeId, String>,
    bar: ProgressBar,
    running: Option<(NodeId, Instant)>,
    times: Vec<(NodeId, Duration)>,
    failure: Option<graph::Failure>,
}

impl Screen {
    fn new(prompt: &Map<String, Json>) -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg:40} {bar:30} {pos}/{len} {elapsed}");
        let bar = ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let title = |(id, node): (&NodeId, &Json)| {
            let class = node.get("class_type").and_then(Json::as_str).unwrap_or_default();
            (id.clone(), format!("{class} (node {id})"))
        };
        Self {
            titles: prompt.iter().map(title).collect(),
            bar,
            running: None,
            times: Vec::new(),
            failure: None,
        }
    }

    fn title(&self, node: &str) -> String {
        self.titles.get(node).cloned().unwrap_or_else(|| format!("node {node}"))
    }

    fn show(&mut self, event: Event) {
        match event {
            Event::Executing { node, .. } => {
                self.close();
                self.bar.set_message(self.title(&node));
                self.bar.set_length(1);
                self.bar.set_position(0);
                self.bar.enable_steady_tick(Duration::from_millis(100));
                self.running = Some((node, Instant::now()));
            }
            Event::Progress { node, .. } => {
                self.bar.set_length(u64::from(node.max));
                self.bar.set_position(u64::from(node.value));
            }
            Event::State(states) => {
                let done = |node: &str| {
                    states.iter().any(|state| state.node == node && state.phase == Phase::Finished)
                };
                if self.running.as_ref().is_some_and(|(node, _)| done(node)) {
                    self.close();
                }
            }
            Event::Failed(failure) => self.failure = Some(failure),
            _ => {}
        }
    }

    /// Books the time of the node that was running.
    fn close(&mut self) {
        if let Some((node, since)) = self.running.take() {
            self.times.push((node, since.elapsed()));
        }
    }

    fn finish(&mut self) {
        self.close();
        self.bar.finish_and_clear();
    }

    fn report(&self) -> String {
        let total: Duration = self.times.iter().map(|(_, time)| *time).sum();
        let line = |name: String, time: Duration| format!("{:>8.3} s  {name}\n", time.as_secs_f64());
        let nodes = self.times.iter().map(|(node, time)| line(self.title(node), *time));
        nodes.chain([line("in all".to_owned(), total)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_json_or_else_text() {
        let value = |text: &str| parse_setting(text).map(|setting| setting.value);
        assert_eq!(value("3.steps=8"), Ok(Json::from(8)));
        assert_eq!(value("6.text=a red house"), Ok(Json::from("a red house")));
        assert_eq!(value("6.text=x=y"), Ok(Json::from("x=y")));
        assert!(value("steps=8").is_err());
    }

    #[test]
    fn node_ids_may_contain_dots() {
        assert_eq!(
            parse_setting("KSampler.0.steps=8").map(|setting| setting.node),
            Ok("KSampler.0".to_owned())
        );
    }
}
