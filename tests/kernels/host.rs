//! The processor as a machine: kernels compiled by the C++ compiler, memory between pages that nobody may touch.
#![allow(unsafe_code, reason = "calls of a library that was compiled a moment ago")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use comfyd::device::cuda::launch::{Address, Argument, Launch};
use comfyd::device::cuda::machine::{Buffer, Machine, Mark, Numbers, Product, Way};
use comfyd::device::cuda::{Fault, Result};
use half::bf16;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::streams::Streams;

/// The bytes of a page of memory.
fn page() -> usize {
    // SAFETY: it reads a constant of the system.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap()
}

/// What a card aligns an allocation to, as far as kernels rely on it.
const ALIGNMENT: usize = 32;

/// What lies beside a buffer.
const BESIDE: u8 = 0xa5;

/// Where buffers lie in their pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Reading what comes before them is a fault.
    Start,
    /// Reading what comes after them is a fault.
    End,
}

pub struct Host {
    against: Against,
    /// In which order threads take their turns: forwards (0), backwards (1), or mixed by that number.
    order: u32,
    memory: Vec<Pages>,
    library: &'static Library,
    streams: Streams,
}

/// A buffer's own pages, and one of nobody's at either end.
struct Pages {
    start: *mut u8,
    bytes: usize,
    buffer: Buffer,
}

// SAFETY: the mapping belongs to the value alone, whichever thread has it.
unsafe impl Send for Pages {}

impl Host {
    pub fn new(against: Against, order: u32) -> Self {
        static KERNELS: OnceLock<Library> = OnceLock::new();
        let library = KERNELS.get_or_init(|| Library::of(Path::new("kernels")));
        let streams = Streams::new(u64::MAX, 1e9);
        Self { against, order, memory: Vec::new(), library, streams }
    }

    /// With the kernels of the tests instead of the real ones.
    pub fn spoilt(order: u32) -> Self {
        static SPOILT: OnceLock<Library> = OnceLock::new();
        let library = SPOILT.get_or_init(|| Library::of(Path::new("tests/kernels")));
        Self { library, ..Self::new(Against::End, order) }
    }

    /// With so much memory as these have, and accounts kept where others can see them.
    pub fn accounted(streams: Streams) -> Self {
        Self { streams, ..Self::new(Against::End, 0) }
    }

    fn slice<T: Copy>(&self, at: Address, count: usize) -> &[T] {
        let inside = self.memory.iter().any(|pages| {
            let first = pages.buffer.at.0;
            at.0 >= first && at.0 + (count * size_of::<T>()) as u64 <= first + pages.buffer.bytes as u64
        });
        assert!(inside, "a product reads or writes outside of its buffers");
        // SAFETY: the range is inside a mapping of `self`, which is readable and stays while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(at.0 as *const T, count) }
    }

    #[expect(clippy::mut_from_ref, reason = "products write where nobody reads")]
    fn slice_mut<T: Copy>(&self, at: Address, count: usize) -> &mut [T] {
        let start = self.slice::<T>(at, count).as_ptr().cast_mut();
        // SAFETY: the mapping is writable, and a product's result overlaps neither of its operands.
        unsafe { std::slice::from_raw_parts_mut(start, count) }
    }
}

impl Machine for Host {
    fn upload(&mut self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.blank(bytes.len())?;
        self.slice_mut(buffer.at, bytes.len()).copy_from_slice(bytes);
        Ok(buffer)
    }

    fn blank(&mut self, bytes: usize) -> Result<Buffer> {
        self.streams.ask(bytes)?;
        let pages = Pages::new(bytes, self.against);
        let buffer = pages.buffer;
        self.memory.push(pages);
        self.streams.take(bytes, Some(buffer.at));
        Ok(buffer)
    }

    fn download(&mut self, buffer: Buffer) -> Result<Vec<u8>> {
        Ok(self.slice(buffer.at, buffer.bytes).to_vec())
    }

    fn launch(&mut self, launch: &Launch) -> Result {
        let name = launch.kernel.name;
        self.streams.launch()?;
        for argument in &launch.arguments {
            // Where nothing is, the pages beside a buffer tell more.
            if let Argument::Address(at) = argument
                && self.streams.knows(Address(*at))
            {
                self.streams.touch(Address(*at))?;
            }
        }
        let (mut values, sizes): (Vec<u64>, Vec<usize>) = launch.arguments.iter().map(argument).unzip();
        let pointers: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        let entry = self.library.entry(name);
        // SAFETY: the entry checks number and sizes of the arguments, and whatever the kernel does outside of the
        // buffers ends in a page that nobody may touch, which it reports.
        let told = unsafe {
            entry(
                launch.grid.as_ptr(),
                launch.kernel.threads,
                launch.kernel.shared_bytes as usize,
                self.order,
                pointers.as_ptr(),
                sizes.as_ptr(),
                sizes.len(),
            )
        };
        if !told.is_null() {
            // SAFETY: the library's messages are strings that stay until the thread's next launch.
            return Err(Fault::new(name, unsafe { CStr::from_ptr(told) }.to_string_lossy()));
        }
        match self.memory.iter().find(|pages| !pages.is_untouched_beside()) {
            Some(_) => Err(Fault::new(name, "something beside a buffer was written")),
            None => Ok(()),
        }
    }

    fn multiply(&mut self, product: &Product) -> Result {
        let Product { rows, inputs, outputs, .. } = *product;
        self.streams.launch()?;
        for at in [product.x, product.w, product.out] {
            self.streams.touch(at)?;
        }
        match product.numbers {
            numbers @ (Numbers::Bf16 | Numbers::Bf16Sums) => {
                let widened = |at, count| self.slice::<bf16>(at, count).iter().map(|x| x.to_f32()).collect();
                let (x, w): (Vec<f32>, Vec<f32>) =
                    (widened(product.x, rows * inputs), widened(product.w, outputs * inputs));
                if numbers == Numbers::Bf16 {
                    let out = self.slice_mut(product.out, rows * outputs);
                    multiply(&x, &w, [inputs, outputs], out, bf16::from_f32);
                } else {
                    let out = self.slice_mut(product.out, rows * outputs);
                    multiply(&x, &w, [inputs, outputs], out, |sum| sum);
                }
            }
            Numbers::Int8 => {
                let (x, w) = (
                    self.slice::<i8>(product.x, rows * inputs),
                    self.slice::<i8>(product.w, outputs * inputs),
                );
                let out = self.slice_mut::<i32>(product.out, rows * outputs);
                for (out, x) in out.chunks_mut(outputs).zip(x.chunks(inputs)) {
                    for (out, w) in out.iter_mut().zip(w.chunks(inputs)) {
                        *out = x.iter().zip(w).map(|(x, w)| i32::from(*x) * i32::from(*w)).sum();
                    }
                }
            }
        }
        Ok(())
    }

    fn release(&mut self, buffer: Buffer) {
        self.memory.retain(|pages| pages.buffer.at != buffer.at);
        self.streams.release(buffer.at).unwrap();
    }

    fn way(&mut self) -> Result<Box<dyn Way>> {
        Ok(self.streams.way(|bytes, to| {
            // SAFETY: the streams know the room, which stays while a copy may go on, and nobody reads it meanwhile.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
        }))
    }

    fn mark(&mut self) -> Result<Mark> {
        Ok(self.streams.mark())
    }

    fn wait(&mut self, mark: &Mark) -> Result {
        self.streams.wait(mark)
    }

    fn clear(&mut self) -> Result {
        self.memory.drain(..).try_for_each(|pages| self.streams.release(pages.buffer.at))
    }
}

/// `out = x wᵀ`, each sum as it is kept.
fn multiply<T: Send>(x: &[f32], w: &[f32], [inputs, outputs]: [usize; 2], out: &mut [T], keep: fn(f32) -> T) {
    out.par_chunks_mut(outputs).zip(x.par_chunks(inputs)).for_each(|(out, x)| {
        for (out, w) in out.iter_mut().zip(w.chunks(inputs)) {
            *out = keep(x.iter().zip(w).map(|(x, w)| x * w).sum());
        }
    });
}

/// The bits of an argument, and how many bytes of them count.
fn argument(argument: &Argument) -> (u64, usize) {
    match *argument {
        Argument::Address(bits) | Argument::Count(bits) => (bits, 8),
        Argument::Int(value) => (u64::from(value.cast_unsigned()), 4),
        Argument::Float(value) => (u64::from(value.to_bits()), 4),
    }
}

impl Pages {
    fn new(bytes: usize, against: Against) -> Self {
        let page = page();
        let inner = bytes.div_ceil(page).max(1) * page;
        let all = inner + 2 * page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, of which everything but the pages at its ends is made accessible.
        let start = unsafe {
            let start = libc::mmap(std::ptr::null_mut(), all, libc::PROT_NONE, flags, -1, 0).cast::<u8>();
            assert!(start.cast() != libc::MAP_FAILED, "no memory");
            let allowed = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(start.add(page).cast(), inner, allowed), 0, "no memory");
            start.add(page).write_bytes(BESIDE, inner);
            start
        };
        let room = inner - bytes;
        let offset = page + if against == Against::End { room / ALIGNMENT * ALIGNMENT } else { 0 };
        let buffer = Buffer { at: Address(start as u64 + offset as u64), bytes };
        Self { start, bytes: all, buffer }
    }

    /// Buffers end at a multiple of some bytes only, so that the pages alone do not notice everything.
    fn is_untouched_beside(&self) -> bool {
        // SAFETY: all but the pages at the ends is readable.
        let inner = unsafe { std::slice::from_raw_parts(self.start.add(page()), self.bytes - 2 * page()) };
        let first = (self.buffer.at.0 - inner.as_ptr() as u64) as usize;
        inner[..first].iter().chain(&inner[first + self.buffer.bytes..]).all(|byte| *byte == BESIDE)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

type Entry = unsafe extern "C" fn(
    *const u32,
    u32,
    usize,
    u32,
    *const *mut c_void,
    *const usize,
    usize,
) -> *const c_char;

pub struct Library(*mut c_void);

// SAFETY: a handle of the dynamic linker, which locks what it has to.
unsafe impl Send for Library {}
// SAFETY: as above; kernels keep what they need by thread.
unsafe impl Sync for Library {}

impl Library {
    /// The kernels in a folder, compiled for the processor.
    fn of(folder: &Path) -> Self {
        let path = CString::new(compiled(folder).to_str().unwrap()).unwrap();
        // SAFETY: loading it runs nothing but the C++ library's own constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "cannot load {path:?}");
        Self(handle)
    }

    fn entry(&self, kernel: &str) -> Entry {
        let name = CString::new(format!("host_{kernel}")).unwrap();
        // SAFETY: the handle is open, and `kernels/host.h` defines all entries with that type.
        unsafe {
            let symbol = libc::dlsym(self.0, name.as_ptr());
            assert!(!symbol.is_null(), "kernels/ has no {kernel}, or no ENTRY for it");
            std::mem::transmute::<*mut c_void, Entry>(symbol)
        }
    }
}

/// The files of a folder with that suffix, in order.
pub fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|found| found == suffix)).collect();
    files.sort();
    files
}

/// A shared library of all kernels in `folder`, which is compiled again when one of them changed.
fn compiled(folder: &Path) -> PathBuf {
    let (kernels, headers) = (files(folder, "cu"), files(Path::new("kernels"), "h"));
    let mut digest = Sha256::new();
    for path in kernels.iter().chain(&headers) {
        digest.update(std::fs::read(path).unwrap());
    }
    let name = hex(&digest.finalize()[..8]);
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = parent.join(format!("kernels-{name}.so"));
    if !library.exists() {
        let draft = parent.join(format!("kernels-draft-{}.so", std::process::id()));
        let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
        compiler.args([
            "-std=c++17",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-U_FORTIFY_SOURCE",
            // A fiber asks for its block at every word, and finds it at once.
            "-ftls-model=initial-exec",
        ]);
        compiler.args(["-ffp-contract=off", "-Ikernels", "-shared", "-fPIC", "-o"]).arg(&draft);
        for kernel in &kernels {
            compiler.args(["-x", "c++"]).arg(kernel);
        }
        let ended =
            compiler.output().unwrap_or_else(|error| panic!("these tests need a C++ compiler: {error}"));
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        std::fs::rename(draft, &library).unwrap();
    }
    library
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}
