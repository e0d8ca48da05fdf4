//! A graphics card of NVIDIA, by candle's device: its memory, its streams, cuBLAS, and our kernels.

#![allow(unsafe_code, reason = "launches are calls into the driver")]

mod way;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
use candle_core::cuda_backend::cudarc::cublas::sys as cublas;
use candle_core::cuda_backend::cudarc::driver::sys::{CUevent_flags, CUresult};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaModule, CudaSlice, CudaStream, DevicePtr as _, DriverError, LaunchConfig,
    PushKernelArg as _,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;

use super::launch::{Address, Argument, Kernel, Launch};
use super::machine::{Buffer, Machine, Mark, Numbers, Product, Way};
use super::store::Limits;
use super::{Fault, Result};
use crate::device::Memory;

/// The compiled sources of `kernels/`, by name; `.ci/cuda` makes them.
macro_rules! compiled {
    ($($source:literal),+) => {
        &[$((
            $source,
            include_bytes!(concat!(
                env!("COMFYD_KERNELS", "the feature `cuda` is built by `.ci/cuda`, see docs/gpu.md"),
                "/", $source, ".fatbin"
            )),
        )),+]
    };
}
const COMPILED: &[(&str, &[u8])] = compiled!(
    "attention",
    "bias",
    "channels",
    "conv",
    "fp8",
    "gate",
    "halves",
    "int8",
    "norm",
    "rope",
    "silu",
    "softmax",
    "turn"
);

pub struct Card {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    modules: HashMap<&'static str, Arc<CudaModule>>,
    memory: HashMap<u64, CudaSlice<u8>>,
}

/// How many cards there are; a failure where there is none.
pub fn count() -> Result<usize> {
    let counted = CudaContext::device_count().map_err(|error| {
        let told = match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => "no driver is installed, or it has no card".to_owned(),
            other => format!("{other:?}"),
        };
        Fault::new("looking for graphics cards", told)
    })?;
    Ok(usize::try_from(counted).unwrap_or(0))
}

impl Card {
    /// Card `number` of those that the driver shows (`CUDA_VISIBLE_DEVICES` chooses among them).
    pub fn open(number: usize) -> Result<Self> {
        // A stream of its own: the default one is another in each thread.
        let device = CudaDevice::new_with_stream(number)
            .map_err(|error| Fault::new(format!("card {number}"), error))?;
        let stream = device.cuda_stream();
        Ok(Self { device, stream, modules: HashMap::new(), memory: HashMap::new() })
    }

    pub fn name(&self) -> Result<String> {
        self.stream.context().name().map_err(driver("asking for the card's name"))
    }

    /// Major and minor number of what the card can do.
    pub fn capability(&self) -> Result<(i32, i32)> {
        self.stream.context().compute_capability().map_err(driver("asking what the card can do"))
    }

    pub fn memory(&self) -> Result<Memory> {
        let (free, total) =
            self.stream.context().mem_get_info().map_err(driver("asking for the card's memory"))?;
        Ok(Memory { total: total as u64, free: free as u64 })
    }

    /// What may be taken of its memory: so many bytes, or all that nobody has taken yet.
    pub fn limits(&self, budget: Option<u64>) -> Result<Limits> {
        /// What the driver takes, and what it will take: the code of kernels, the workspace of cuBLAS.
        const OWN: u64 = 500_000_000;
        const LATER: u64 = 200_000_000;
        let Memory { total, free } = self.memory()?;
        Ok(match budget {
            Some(budget) => Limits { budget: budget.min(total), overhead: OWN },
            None => Limits { budget: total, overhead: total - free + LATER },
        })
    }

    /// The seconds that the card works on what `work` gives it, after what it was given before.
    pub fn seconds(&mut self, work: impl FnOnce(&mut Self) -> Result) -> Result<f64> {
        let failed = || driver("measuring time");
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let begin = self.stream.record_event(timed).map_err(failed())?;
        work(self)?;
        let end = self.stream.record_event(timed).map_err(failed())?;
        Ok(f64::from(begin.elapsed_ms(&end).map_err(failed())?) / 1e3)
    }

    fn module(&mut self, kernel: Kernel) -> Result<Arc<CudaModule>> {
        if let Some(module) = self.modules.get(kernel.source) {
            return Ok(module.clone());
        }
        let compiled = COMPILED.iter().find(|(source, _)| *source == kernel.source);
        let (_, code) =
            compiled.ok_or_else(|| Fault::new(kernel.name, "it is not among the compiled ones"))?;
        let loaded = self.stream.context().load_module(Ptx::from_binary(code.to_vec()));
        let module = loaded.map_err(driver(kernel.name))?;
        self.modules.insert(kernel.source, module.clone());
        Ok(module)
    }

    fn keep(&mut self, slice: CudaSlice<u8>, bytes: usize) -> Buffer {
        let at = slice.device_ptr(&self.stream).0;
        self.memory.insert(at, slice);
        Buffer { at: Address(at), bytes }
    }
}

/// Memory that is not there is told apart from everything else.
fn refused(bytes: usize) -> impl FnOnce(DriverError) -> Fault {
    move |error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Fault::refused(bytes),
        _ => driver(&format!("taking {bytes} bytes of the card's memory"))(error),
    }
}

/// The event that a mark of this card is.
fn event(mark: &Mark) -> Result<&CudaEvent> {
    mark.0.downcast_ref().ok_or_else(|| Fault::new("waiting", "the mark is of another machine"))
}

fn driver<E: std::fmt::Debug>(doing: &str) -> impl FnOnce(E) -> Fault {
    // The driver's words for an error come from the driver, which may be what is missing.
    move |error| Fault::new(doing, format!("{error:?}"))
}

impl Machine for Card {
    fn upload(&mut self, bytes: &[u8]) -> Result<Buffer> {
        // SAFETY: bytes may hold anything, and these are written now.
        let mut slice = unsafe { self.stream.alloc::<u8>(bytes.len()) }.map_err(refused(bytes.len()))?;
        self.stream.memcpy_htod(bytes, &mut slice).map_err(driver("copying to the card"))?;
        Ok(self.keep(slice, bytes.len()))
    }

    fn blank(&mut self, bytes: usize) -> Result<Buffer> {
        // SAFETY: bytes may hold anything; whoever asked writes before reading.
        let slice = unsafe { self.stream.alloc::<u8>(bytes) };
        let slice = slice.map_err(refused(bytes))?;
        Ok(self.keep(slice, bytes))
    }

    fn download(&mut self, buffer: Buffer) -> Result<Vec<u8>> {
        let slice = self.memory.get(&buffer.at.0);
        let slice = slice.ok_or_else(|| Fault::new("copying from the card", "nothing is kept there"))?;
        let failed = || driver("copying from the card");
        let bytes = self.stream.clone_dtoh(slice).map_err(failed())?;
        self.stream.synchronize().map_err(failed())?;
        Ok(bytes)
    }

    fn launch(&mut self, launch: &Launch) -> Result {
        let kernel = launch.kernel;
        let function = self.module(kernel)?.load_function(kernel.name).map_err(driver(kernel.name))?;
        let mut builder = self.stream.launch_builder(&function);
        for argument in &launch.arguments {
            match argument {
                Argument::Address(bits) | Argument::Count(bits) => builder.arg(bits),
                Argument::Int(value) => builder.arg(value),
                Argument::Float(value) => builder.arg(value),
            };
        }
        let [x, y, z] = launch.grid;
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (kernel.threads, 1, 1),
            shared_mem_bytes: kernel.shared_bytes,
        };
        // SAFETY: `launch` gives the arguments in number, type and order of the kernel's, which `tests/kernels` checks for
        // each, and the memory they name is kept here.
        unsafe { builder.launch(config) }.map(drop).map_err(driver(kernel.name))
    }

    fn multiply(&mut self, product: &Product) -> Result {
        let int = |size: usize| {
            i32::try_from(size).map_err(|_| Fault::new("matrix product", format!("a side of {size}")))
        };
        let (rows, inputs, outputs) = (int(product.rows)?, int(product.inputs)?, int(product.outputs)?);
        let (float, whole) = ([1.0f32, 0.0], [1i32, 0]);
        let sums = match product.numbers {
            Numbers::Bf16 => cublas::cudaDataType::CUDA_R_16BF,
            Numbers::Bf16Sums => cublas::cudaDataType::CUDA_R_32F,
            Numbers::Int8 => cublas::cudaDataType::CUDA_R_32I,
        };
        let (numbers, compute, factors): (_, _, [*const c_void; 2]) = match product.numbers {
            Numbers::Bf16 | Numbers::Bf16Sums => (
                cublas::cudaDataType::CUDA_R_16BF,
                cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                float.each_ref().map(|factor| std::ptr::from_ref(factor).cast()),
            ),
            Numbers::Int8 => (
                cublas::cudaDataType::CUDA_R_8I,
                cublas::cublasComputeType_t::CUBLAS_COMPUTE_32I,
                whole.each_ref().map(|factor| std::ptr::from_ref(factor).cast()),
            ),
        };
        let [one, zero] = factors;
        // cuBLAS works on whatever card the thread used last.
        self.stream.context().bind_to_thread().map_err(driver("matrix product"))?;
        // cuBLAS counts by columns: what it calls C is our result by rows, and what it transposes is the weights.
        // SAFETY: sizes and strides are those of matrices that the caller keeps here.
        let done = unsafe {
            gemm_ex(
                *self.device.cublas_handle().handle(),
                cublas::cublasOperation_t::CUBLAS_OP_T,
                cublas::cublasOperation_t::CUBLAS_OP_N,
                outputs,
                rows,
                inputs,
                one,
                product.w.0 as *const c_void,
                numbers,
                inputs,
                product.x.0 as *const c_void,
                numbers,
                inputs,
                zero,
                product.out.0 as *mut c_void,
                sums,
                outputs,
                compute,
                cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        };
        done.map_err(driver("matrix product"))
    }

    fn release(&mut self, buffer: Buffer) {
        self.memory.remove(&buffer.at.0);
    }

    fn way(&mut self) -> Result<Box<dyn Way>> {
        Ok(Box::new(way::PinnedWay::new(self.stream.context())?))
    }

    fn mark(&mut self) -> Result<Mark> {
        let event = self.stream.record_event(None).map_err(driver("marking a point of the work"))?;
        Ok(Mark(Arc::new(event)))
    }

    fn wait(&mut self, mark: &Mark) -> Result {
        self.stream.wait(event(mark)?).map_err(driver("waiting for a copy"))
    }

    fn clear(&mut self) -> Result {
        self.memory.clear();
        self.stream.synchronize().map_err(driver("waiting for the card"))
    }
}
