//! The folder flags, shared by every subcommand that touches models or pictures.

use std::path::{Path, PathBuf};

use super::{Failure, Result};
use crate::paths::Folders;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Folders")]
pub struct FolderArgs {
    /// Folder with models/, input/, output/, temp/, user/, login/ and web/ below it
    #[arg(long, value_name = "DIR", default_value = ".", env = "COMFYD_BASE_DIRECTORY")]
    pub base_directory: PathBuf,
    /// Where pictures are saved
    #[arg(long, value_name = "DIR", env = "COMFYD_OUTPUT_DIRECTORY")]
    pub output_directory: Option<PathBuf>,
    /// Where uploads go and pictures are loaded from
    #[arg(long, value_name = "DIR", env = "COMFYD_INPUT_DIRECTORY")]
    pub input_directory: Option<PathBuf>,
    /// Where a folder `temp` is made for previews; it is emptied at start
    #[arg(long, value_name = "DIR", env = "COMFYD_TEMP_DIRECTORY")]
    pub temp_directory: Option<PathBuf>,
    /// Where clients keep settings and workflows
    #[arg(long, value_name = "DIR", env = "COMFYD_USER_DIRECTORY")]
    pub user_directory: Option<PathBuf>,
    /// Where the built-in model is unpacked [default: comfyd in your cache folder]
    #[arg(long, value_name = "DIR", env = "COMFYD_CACHE_DIRECTORY")]
    pub cache_directory: Option<PathBuf>,
    /// Files that name more model folders, as ComfyUI's extra_model_paths.yaml
    #[arg(long, value_name = "PATH", num_args = 1.., env = "COMFYD_EXTRA_MODEL_PATHS_CONFIG")]
    pub extra_model_paths_config: Option<Vec<PathBuf>>,
}

impl FolderArgs {
    /// The folders these flags mean, as absolute paths.
    pub(super) fn folders(&self) -> Result<Folders> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| Failure::from(error).hint("check the folder flags"))
        };
        let mut folders = Folders::below(absolute(&self.base_directory)?);
        let chosen = [
            (&mut folders.output, self.output_directory.clone()),
            (&mut folders.input, self.input_directory.clone()),
            (&mut folders.user, self.user_directory.clone()),
            (&mut folders.cache, self.cache_directory.clone().or_else(users_cache)),
            // ComfyUI puts a folder of its own below, which it may empty at start.
            (&mut folders.temp, self.temp_directory.as_ref().map(|path| path.join("temp"))),
        ];
        for (folder, path) in chosen {
            if let Some(path) = path {
                *folder = absolute(&path)?;
            }
        }
        let own = folders.base.join("extra_model_paths.yaml");
        let own = own.is_file().then_some(&own);
        for file in own.into_iter().chain(self.extra_model_paths_config.iter().flatten()) {
            folders.add_extra_paths(file).map_err(Failure::usage)?;
        }
        Ok(folders)
    }
}

/// The user's cache folder by the XDG rules, where there is one.
fn users_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("comfyd"))
}
