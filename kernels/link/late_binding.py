"""Stand-ins for NVIDIA's libraries, so that one binary runs with and without them.

Usage: late_binding.py CUDARC_SOURCE CANDLE_KERNELS_SOURCE LIB_FOLDER OBJECT_FOLDER

candle links the CUDA libraries when it is built, and a binary built that way starts only where all of them are. What this
writes to LIB_FOLDER has their names and pulls in a table of jumps instead: one per function that the bindings declare. When
the program starts, the table is filled from the real libraries if the driver is there; if not, every call answers "no
device" (100), which candle reports as an ordinary error.

OBJECT_FOLDER gets what stands in for candle's kernels for quantised GGUF models, which take most of the time of a CUDA
build and which comfyd never calls: their names, as traps.
"""

import pathlib
import re
import subprocess
import sys

# Linker's name, module of cudarc that declares it, names to open at run time, newest first.
LIBRARIES = [
    ("cuda", "driver", ["libcuda.so.1"]),
    ("cublas", "cublas", ["libcublas.so.13", "libcublas.so.12"]),
    ("cublasLt", "cublaslt", ["libcublasLt.so.13", "libcublasLt.so.12"]),
    ("curand", "curand", ["libcurand.so.10"]),
    ("nvrtc", "nvrtc", ["libnvrtc.so.13", "libnvrtc.so.12"]),
]

BINDING = """
#include <dlfcn.h>
#include <stddef.h>

static int no_device(void) { return 100; }

void *late_binding_table[%(count)d];
static const char *const names[] = {%(names)s};
static const unsigned char library_of[] = {%(library_of)s};
static const char *const libraries[][4] = {%(libraries)s};

__attribute__((constructor)) static void bind_late(void) {
    void *opened[%(library_count)d] = {0};
    /* The driver comes first: without it the others are of no use. */
    for (int i = 0; i < %(library_count)d && (i == 0 || opened[0]); i++)
        for (int k = 0; libraries[i][k] && !opened[i]; k++) opened[i] = dlopen(libraries[i][k], RTLD_NOW | RTLD_GLOBAL);
    for (int i = 0; i < %(count)d; i++) {
        void *found = opened[library_of[i]] ? dlsym(opened[library_of[i]], names[i]) : NULL;
        late_binding_table[i] = found ? found : (void *)no_device;
    }
}
"""

# What a function costs: one jump through the table. The register is free for that by the calling convention.
JUMP = """
.globl {name}
.type {name}, @function
{name}:
    movq late_binding_table+{offset}(%rip), %r11
    jmp *%r11
"""


def declared(cudarc: pathlib.Path) -> dict[str, int]:
    """The functions that the bindings declare, and the library of each."""
    functions: dict[str, int] = {}
    for index, (_, module, _) in enumerate(LIBRARIES):
        text = (cudarc / "src" / module / "sys" / "mod.rs").read_text()
        for name in sorted(set(re.findall(r"\bfn +((?:cu|nvrtc)\w+)\s*\(", text))):
            functions.setdefault(name, index)
    return functions


def compile_object(source: pathlib.Path, text: str) -> pathlib.Path:
    source.write_text(text)
    made = source.with_suffix(".o")
    subprocess.run(["cc", "-O2", "-fPIC", "-c", source, "-o", made], check=True)
    return made


def write_libraries(functions: dict[str, int], folder: pathlib.Path) -> None:
    jumps = "".join(JUMP.format(name=name, offset=8 * index) for index, name in enumerate(functions))
    quoted = lambda words: ", ".join(f'"{word}"' for word in words)
    binding = BINDING % {
        "count": len(functions),
        "names": quoted(functions),
        "library_of": ", ".join(map(str, functions.values())),
        "libraries": ", ".join("{%s, 0}" % quoted(names) for _, _, names in LIBRARIES),
        "library_count": len(LIBRARIES),
    }
    parts = [
        compile_object(folder / "jumps.S", f'.text{jumps}\n.section .note.GNU-stack,"",@progbits\n'),
        compile_object(folder / "binding.c", binding),
    ]
    # One object: whoever uses any of the functions gets the constructor as well.
    joined, archive = folder / "late_binding.o", folder / "liblate_binding.a"
    subprocess.run(["ld", "-r", "-o", joined, *parts], check=True)
    archive.unlink(missing_ok=True)
    subprocess.run(["ar", "crs", archive, joined], check=True)
    # The runtime library is named by candle's build as well, for the kernels that are left out.
    for name in [name for name, _, _ in LIBRARIES] + ["cudart"]:
        (folder / f"lib{name}.so").write_text(f"INPUT({archive.resolve()})\n")


def write_traps(candle_kernels: pathlib.Path, folder: pathlib.Path) -> None:
    names = re.findall(r"\bpub fn (\w+)", (candle_kernels / "src" / "ffi.rs").read_text())
    compile_object(folder / "traps.c", "".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names))
    compile_object(folder / "nothing.c", "")


def main() -> None:
    cudarc, candle_kernels, libraries, objects = map(pathlib.Path, sys.argv[1:])
    for folder in (libraries, objects):
        folder.mkdir(parents=True, exist_ok=True)
    functions = declared(cudarc)
    write_libraries(functions, libraries)
    write_traps(candle_kernels, objects)
    print(f"{len(functions)} functions are bound when the program starts")


main()
