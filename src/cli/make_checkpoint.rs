//! `comfyd bench make-checkpoint`: model files of real size without real weights, to measure with.

use std::path::{Path, PathBuf};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use super::{Failure, Result, print};
use crate::model::layouts::{PUBLISHED, Row};
use crate::stop::Stop;
use crate::weights::Layout;

/// Make model files of real size with random numbers, to measure with
///
/// The files have the tensors, types and sizes of the published ones of Qwen-Image-Edit, so that they cost what those
/// cost; what they paint is noise. The same seed makes the same files.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES\n  comfyd bench make-checkpoint --blocks 4 --dir bench/models\n  comfyd bench make-checkpoint --full --dir bench/models\n  comfyd run --base-directory bench workflows/qwen_image_edit_2509.json"
)]
pub struct MakeArgs {
    /// All of it: three files, 30.07 GB
    #[arg(long, required_unless_present = "blocks", conflicts_with = "blocks")]
    full: bool,
    /// Only so many of the 60 blocks of the diffusion model, at their full width
    #[arg(long, value_name = "N", value_parser = count)]
    blocks: Option<usize>,
    /// Only so many of the 28 layers of the text encoder
    #[arg(long, value_name = "N", value_parser = count)]
    text_layers: Option<usize>,
    /// The models folder to put them into
    #[arg(long, value_name = "DIR", default_value = "bench/models")]
    dir: PathBuf,
    /// Zeros instead of random numbers: such files take no room on disks that know holes, and memory and arithmetic as
    /// the real ones do, but say nothing about the disk
    #[arg(long)]
    empty: bool,
    /// Which random numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number from 1 on".to_owned()),
        Ok(count) => Ok(count),
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0} is there already")]
    There(PathBuf),
    #[error("{} are needed in {folder}, {} are free", DecimalBytes(*.needed), DecimalBytes(*.free))]
    Room { folder: PathBuf, needed: u64, free: u64 },
    #[error("cannot write {}", .path.display())]
    Disk { path: PathBuf, source: std::io::Error },
}

/// The room that is left free, for everybody else on the disk.
const SPARE: u64 = 1_000_000_000;

pub(super) fn run(args: &MakeArgs) -> Result {
    let most = |row| match row {
        Row::Blocks => args.blocks,
        Row::TextLayers => args.text_layers,
    };
    let mut files = Vec::new();
    for published in &PUBLISHED {
        let path = args.dir.join(published.folder).join(published.name);
        // Nobody's real weights are written over.
        if path.exists() {
            return Err(
                Failure::from(Error::There(path)).hint("delete it, or name another folder with --dir")
            );
        }
        files.push((path, published.shortened(most)?));
    }
    if !args.empty {
        check_room(&args.dir, files.iter().map(|(_, layout)| layout.file_bytes()).sum())?;
    }
    let stop = super::run::stop_on_interrupt();
    for (path, layout) in &files {
        let failed = |source| Error::Disk { path: path.clone(), source };
        std::fs::create_dir_all(path.parent().unwrap_or(&args.dir)).map_err(failed)?;
        if args.empty {
            layout.write_empty(path).map_err(failed)?;
        } else {
            make(path, layout, args.seed, &stop)?;
        }
        print(&format!(
            "{}\n  {}, {} tensors\n",
            path.display(),
            DecimalBytes(layout.file_bytes()),
            layout.count()
        ));
    }
    Ok(())
}

fn check_room(folder: &Path, needed: u64) -> Result {
    std::fs::create_dir_all(folder).map_err(|source| Error::Disk { path: folder.to_owned(), source })?;
    let free =
        fs4::available_space(folder).map_err(|source| Error::Disk { path: folder.to_owned(), source })?;
    if needed + SPARE > free {
        let room = Error::Room { folder: folder.to_owned(), needed: needed + SPARE, free };
        return Err(
            Failure::from(room).hint("name a folder on another disk with --dir, or ask for fewer --blocks")
        );
    }
    Ok(())
}

fn make(path: &Path, layout: &Layout, seed: u64, stop: &Stop) -> Result {
    let failed = |source| Error::Disk { path: path.to_owned(), source };
    let style = "{msg:44!} {bar:24} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(layout.file_bytes()).with_style(style);
    bar.set_message(path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default());
    let written = layout.write_random(path, seed, &mut |bytes| {
        bar.inc(bytes);
        stop.check().map_err(std::io::Error::other)
    });
    bar.finish_and_clear();
    stop.check()?;
    Ok(written.map_err(failed)?)
}
