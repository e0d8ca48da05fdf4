//! What NVIDIA's compiler makes of the kernels for the cards they are meant for (sm_86).
//!
//! ```sh
//! COMFYD_NVCC=path/to/nvcc cargo test --test kernels -- --ignored --nocapture ptxas::
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use comfyd::device::cuda::launch::{KERNELS, Kernel};

use crate::host::files;

/// What a kernel takes of a multiprocessor.
#[derive(Debug)]
struct Taken {
    kernel: Kernel,
    registers: u32,
    /// Shared memory that the source declares, beside what the launch asks for.
    declared_bytes: u32,
    spilled_bytes: u32,
    stack_bytes: u32,
}

/// A multiprocessor of compute capability 8.6 (CUDA C++ programming guide, "Compute capabilities").
mod sm_86 {
    pub const WARPS: u32 = 48;
    pub const BLOCKS: u32 = 16;
    pub const REGISTERS: u32 = 65_536;
    /// Registers are given out by warps, in pieces of this many.
    pub const REGISTER_PIECE: u32 = 256;
    pub const SHARED_BYTES: u32 = 100 << 10;
    /// What each block takes of it before its own.
    pub const SHARED_OWN_BYTES: u32 = 1 << 10;
    /// A block may have so much without asking for more.
    pub const SHARED_MOST_BYTES: u32 = 48 << 10;
}

impl Taken {
    fn shared_bytes(&self) -> u32 {
        self.kernel.shared_bytes + self.declared_bytes
    }

    /// Blocks that one multiprocessor holds at a time.
    fn blocks(&self) -> u32 {
        let warps = self.kernel.threads.div_ceil(32);
        let of_a_warp = (self.registers * 32).next_multiple_of(sm_86::REGISTER_PIECE);
        let by_registers = sm_86::REGISTERS / of_a_warp / warps;
        let by_shared = sm_86::SHARED_BYTES / (self.shared_bytes() + sm_86::SHARED_OWN_BYTES);
        by_registers.min(by_shared).min(sm_86::WARPS / warps).min(sm_86::BLOCKS)
    }

    /// Warps of those it could hold, in per cent.
    fn occupancy(&self) -> u32 {
        100 * self.blocks() * self.kernel.threads.div_ceil(32) / sm_86::WARPS
    }
}

/// The compiler, from `COMFYD_NVCC` or `CUDA_HOME`.
fn nvcc() -> Option<PathBuf> {
    let of_home = std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    std::env::var_os("COMFYD_NVCC").map(PathBuf::from).or(of_home).filter(|nvcc| nvcc.exists())
}

/// Compiles one source; what the assembler says of its kernels.
fn compile(nvcc: &Path, source: &Path) -> Vec<Taken> {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-arch=sm_86", "-cubin", "-Xptxas", "-v", "-o"]);
    let ended = command.arg(folder.path().join("kernel.cubin")).arg(source).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{}: {told}", source.display());
    told.split("Compiling entry function '").skip(1).map(taken).collect()
}

/// Reads `NAME' for 'sm_86' ... S bytes stack frame, A bytes spill stores, B bytes spill loads ... Used R registers, ...`.
fn taken(told: &str) -> Taken {
    let name = told.split('\'').next().unwrap();
    let kernel = *KERNELS.iter().find(|kernel| kernel.name == name).unwrap();
    let before = |words: &str| {
        let number = told.split(words).next().filter(|before| before.len() < told.len())?;
        number.split(|c: char| !c.is_ascii_digit()).next_back()?.parse::<u32>().ok()
    };
    let spilled = before(" bytes spill stores").unwrap() + before(" bytes spill loads").unwrap();
    Taken {
        kernel,
        registers: before(" registers").unwrap(),
        declared_bytes: before(" bytes smem").unwrap_or(0),
        spilled_bytes: spilled,
        stack_bytes: before(" bytes stack frame").unwrap(),
    }
}

#[test]
#[ignore = "needs NVIDIA's compiler"]
fn nothing_spills_and_the_card_is_kept_busy() {
    let Some(nvcc) = nvcc() else {
        panic!("COMFYD_NVCC or CUDA_HOME has to name the compiler; docs/gpu.md says where it comes from")
    };
    let all: Vec<Taken> =
        files(Path::new("kernels"), "cu").iter().flat_map(|source| compile(&nvcc, source)).collect();
    println!("| kernel | threads | registers | shared bytes | spilled bytes | blocks per SM | occupancy |");
    println!("|---|---|---|---|---|---|---|");
    for taken in &all {
        let Taken { kernel, registers, spilled_bytes, .. } = taken;
        let (shared, blocks, occupancy) = (taken.shared_bytes(), taken.blocks(), taken.occupancy());
        println!(
            "| `{}` | {} | {registers} | {shared} | {spilled_bytes} | {blocks} | {occupancy} % |",
            kernel.name, kernel.threads
        );
    }
    assert_eq!(
        all.len(),
        KERNELS.len(),
        "a kernel that is launched is not in kernels/, or the other way round"
    );
    for taken in all {
        assert_eq!((taken.spilled_bytes, taken.stack_bytes), (0, 0), "{taken:?}");
        assert!(taken.shared_bytes() <= sm_86::SHARED_MOST_BYTES, "{taken:?}");
        // The attention lives in registers: two blocks are what its tiles allow. All others wait for memory.
        let least = if taken.kernel.name == "attention" { 16 } else { 80 };
        assert!(taken.occupancy() >= least, "{} % of {taken:?}", taken.occupancy());
    }
}

#[test]
fn occupancy_is_what_the_scarcest_thing_allows() {
    let taken = |threads, registers, shared_bytes| Taken {
        kernel: Kernel { name: "", source: "", threads, shared_bytes },
        registers,
        declared_bytes: 0,
        spilled_bytes: 0,
        stack_bytes: 0,
    };
    // Figures of NVIDIA's occupancy calculator for 8.6.
    assert_eq!(taken(256, 32, 0).blocks(), 6);
    assert_eq!(taken(256, 64, 0).blocks(), 4);
    assert_eq!(taken(128, 200, 32 << 10).blocks(), 2);
    assert_eq!(taken(32, 16, 0).blocks(), 16);
    assert_eq!(taken(128, 32, 48 << 10).blocks(), 2);
}
