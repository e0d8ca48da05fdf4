//! ComfyUI's flags that mean nothing here, so that a start script may stay as it is.

use std::ffi::OsString;

/// How many values a flag takes.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    None,
    One,
    /// None or one.
    Maybe,
    Many,
}

use Values::{Many, Maybe, None as No, One};

const IGNORED: &[(&str, Values)] = &[
    ("--async-offload", No),
    ("--auto-launch", No),
    ("--bf16-text-enc", No),
    ("--bf16-unet", No),
    ("--comfy-api-base", One),
    ("--cpu-vae", No),
    ("--cuda-device", One),
    ("--cuda-malloc", No),
    ("--database-url", One),
    ("--default-device", One),
    ("--default-hashing-function", One),
    ("--deterministic", No),
    ("--directml", Maybe),
    ("--disable-all-custom-nodes", No),
    ("--disable-api-nodes", No),
    ("--disable-auto-launch", No),
    ("--disable-cuda-malloc", No),
    ("--disable-ipex-optimize", No),
    ("--disable-metadata", No),
    ("--disable-mmap", No),
    ("--disable-smart-memory", No),
    ("--disable-xformers", No),
    ("--dont-print-server", No),
    ("--dont-upcast-attention", No),
    ("--force-channels-last", No),
    ("--force-fp16", No),
    ("--force-fp32", No),
    ("--force-non-blocking", No),
    ("--force-upcast-attention", No),
    ("--fp16-text-enc", No),
    ("--fp16-unet", No),
    ("--fp16-vae", No),
    ("--fp32-text-enc", No),
    ("--fp32-unet", No),
    ("--fp32-vae", No),
    ("--fp64-unet", No),
    ("--fp8_e4m3fn-text-enc", No),
    ("--fp8_e4m3fn-unet", No),
    ("--fp8_e5m2-text-enc", No),
    ("--fp8_e5m2-unet", No),
    ("--fp8_e8m0fnu-unet", No),
    ("--front-end-version", One),
    ("--gpu-only", No),
    ("--highvram", No),
    ("--log-stdout", No),
    ("--lowvram", No),
    ("--mmap-torch-files", No),
    ("--multi-user", No),
    ("--normalvram", No),
    ("--novram", No),
    ("--oneapi-device-selector", One),
    ("--quick-test-for-ci", No),
    ("--reserve-vram", One),
    ("--supports-fp8-compute", No),
    ("--use-flash-attention", No),
    ("--use-pytorch-cross-attention", No),
    ("--use-quad-cross-attention", No),
    ("--use-sage-attention", No),
    ("--use-split-cross-attention", No),
    ("--whitelist-custom-nodes", Many),
    ("--windows-standalone-build", No),
];

/// Flags that are ours too, but for the words that ComfyUI lets follow.
const WITHOUT_WORDS: &[(&str, Values)] = &[("--fast", Many)];

/// Takes ComfyUI's other flags, and their values, out of the arguments of `serve`.
pub(crate) fn separate(arguments: Vec<OsString>) -> (Vec<OsString>, Vec<String>) {
    if !is_serve(&arguments) {
        return (arguments, Vec::new());
    }
    let mut known = Vec::new();
    let mut foreign = Vec::new();
    let mut rest = arguments.into_iter().peekable();
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        let (name, attached) = text.split_once('=').map_or((&*text, false), |(name, _)| (name, true));
        let Some((name, values)) = IGNORED.iter().chain(WITHOUT_WORDS).find(|(flag, _)| *flag == name) else {
            known.push(argument);
            continue;
        };
        if WITHOUT_WORDS.iter().any(|(flag, _)| flag == name) {
            known.push(OsString::from(name));
        } else {
            foreign.push((*name).to_owned());
        }
        let mut left = match values {
            _ if attached => 0,
            No => 0,
            One | Maybe => 1,
            Many => usize::MAX,
        };
        while left > 0
            && rest.next_if(|next| *values == One || !next.to_string_lossy().starts_with('-')).is_some()
        {
            left -= 1;
        }
    }
    (known, foreign)
}

/// Whether the command is `serve`, or `config show`, which takes the same flags.
fn is_serve(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1).map(|argument| argument.to_string_lossy());
    let mut next = || loop {
        match words.next() {
            // The one flag that may stand before the command.
            Some(flag) if flag == "--config" => drop(words.next()),
            Some(flag) if flag.starts_with("--config=") => {}
            word => break word,
        }
    };
    match next().as_deref() {
        Some("serve") => true,
        Some("config") => next().as_deref() == Some("show"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_flags_leave_with_their_values() {
        let line = "comfyd serve --fast fp16 cublas --reserve-vram 1.5 --port 1 --directml --listen --lowvram \
                    --cuda-device=0 --use-split-cross-attention";
        let (known, foreign) = separate(line.split_whitespace().map(OsString::from).collect());
        assert_eq!(known, ["comfyd", "serve", "--fast", "--port", "1", "--listen"]);
        let names = "--reserve-vram --directml --lowvram --cuda-device --use-split-cross-attention";
        assert_eq!(foreign.join(" "), names);
    }

    #[test]
    fn other_subcommands_keep_their_arguments() {
        for (line, left) in [
            ("comfyd run --lowvram", 3),
            ("comfyd --config serve run --lowvram", 5),
            ("comfyd --config x serve --lowvram", 4),
            ("comfyd config show --lowvram", 3),
            ("comfyd config --lowvram", 3),
            ("comfyd run --fast word", 4),
            ("comfyd serve --fast word", 3),
        ] {
            let (known, _) = separate(line.split_whitespace().map(OsString::from).collect());
            assert_eq!(known.len(), left, "{line}");
        }
    }
}
