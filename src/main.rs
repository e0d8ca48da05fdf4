//! Parses arguments and calls `cli`; nothing else.

fn main() -> std::process::ExitCode {
    comfyd::cli::main(std::env::args_os())
}
