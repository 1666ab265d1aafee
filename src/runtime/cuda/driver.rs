//! The driver: found, checked, its answers made sentences. The emulated one is loaded by its path and then is the driver
//! of this process.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Mutex;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUresult};

use crate::error::{Error, Result};

/// Driver versions from which images of nvcc 13.0 load: CUDA 13.0, series 580.
const NEEDED: i32 = 13_000;

/// A driver call that failed, as an error that says what could not be done.
pub(super) fn check(code: CUresult, what: impl FnOnce() -> String) -> Result<()> {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(Error::Cuda { what: what(), why: reason(code) }),
    }
}

/// The driver's name and sentence for an error; for those that end a context, what to do.
pub(super) fn reason(code: CUresult) -> String {
    let mut why = said(code);
    if ends_context(code) {
        why += "; a kernel before this call did it, and this process has lost its context: start the program again, with \
                INP_CUDA_BLOCKING=1 to learn which kernel, or with --device emulated and INP_EMULATED_CHECK=all to learn \
                which line";
    } else if code == CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU {
        why += "; build again with this GPU's architecture in INP_CUDA_ARCHS";
    }
    why
}

/// As [`reason`], of a kernel that was waited for.
pub(super) fn reason_of_kernel(code: CUresult) -> String {
    match ends_context(code) {
        true => format!("{}; this process has lost its context: start the program again", said(code)),
        false => said(code),
    }
}

fn said(code: CUresult) -> String {
    let e = DriverError(code);
    let text = |t: std::result::Result<&std::ffi::CStr, _>| {
        t.map_or("?".into(), |t| t.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(e.error_string()), text(e.error_name()))
}

fn ends_context(code: CUresult) -> bool {
    matches!(code as u32, 214 | 700 | 702 | 710 | 714..=719)
}

/// Finds the driver, checks its version and initialises it. Costs nothing the second time.
pub(super) fn init() -> Result<()> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(|e| e.into_inner());
    if *done {
        return Ok(());
    }
    // SAFETY: loads the system's driver and lets it go again; its initialisers are NVIDIA's.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device("there is no NVIDIA driver here: libcuda.so cannot be loaded".into()));
    }
    let mut version = 0;
    // SAFETY: the pointer is to a local; this call needs no initialisation.
    check(unsafe { sys::cuDriverGetVersion(&mut version) }, || "asking the driver for its version".into())?;
    if version < NEEDED {
        return Err(Error::Device(format!(
            "the NVIDIA driver is too old: it knows CUDA {}.{}, and these kernels need {}.{}; install a driver of series \
             580 or newer",
            version / 1000,
            version % 1000 / 10,
            NEEDED / 1000,
            NEEDED % 1000 / 10
        )));
    }
    // SAFETY: takes no pointer.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_NO_DEVICE => {
            return Err(Error::Device(
                "the NVIDIA driver finds no GPU (CUDA_VISIBLE_DEVICES may hide it)".into(),
            ));
        }
        code => return Err(Error::Device(format!("the NVIDIA driver does not start: {}", reason(code)))),
    }
    *done = true;
    Ok(())
}

/// Loads the emulated driver, so that whoever asks for one from now on gets it.
pub(super) fn load_emulated() -> Result<()> {
    static LOADED: Mutex<bool> = Mutex::new(false);
    let mut loaded = LOADED.lock().unwrap_or_else(|e| e.into_inner());
    if !*loaded {
        let path = emulator_path()?;
        // SAFETY: the library runs no code of its own when it is loaded.
        let library = unsafe { libloading::Library::new(&path) };
        let library =
            library.map_err(|e| Error::file(&path, format!("the emulated driver cannot be loaded: {e}")))?;
        // It stays; its SONAME is libcuda.so.
        std::mem::forget(library);
        *loaded = true;
    }
    match is_emulated() {
        true => Ok(()),
        false => Err(Error::Device(
            "a real NVIDIA driver is in use: the emulated one must be chosen before".into(),
        )),
    }
}

/// Whether the loaded driver is the emulator.
pub(super) fn is_emulated() -> bool {
    // SAFETY: `init` found the library; the symbol is not called.
    unsafe { sys::culib().get::<*const ()>(b"inpEmulatedSet").is_ok() }
}

/// `libinp_cuda_emulator.so` where cargo puts it: beside this program, or in `deps` of its folder or of the one above.
fn emulator_path() -> Result<PathBuf> {
    let exe = std::env::current_exe().unwrap_or_default();
    let folders = exe.ancestors().skip(1).take(2).flat_map(|f| [f.join("deps"), f.to_path_buf()]);
    let mut files = folders.map(|f| f.join("libinp_cuda_emulator.so"));
    files.find(|f| f.is_file()).ok_or_else(|| {
        Error::Device(
            "the emulated driver is not there: build it with `cargo build --release -p inp-cuda-emulator`, and let \
             libinp_cuda_emulator.so lie beside this program"
                .into(),
        )
    })
}

/// Gives an `INP_EMULATED_…` setting of the loaded emulator a value: the GPU and the checkers before the first device is
/// opened, the seed, the budget and counting at any time.
pub fn set_emulated(name: &str, value: &str) -> Result<()> {
    // SAFETY of a call: both point to C strings.
    type Set = unsafe extern "C" fn(*const std::ffi::c_char, *const std::ffi::c_char) -> CUresult;
    let c = |s: &str| CString::new(s).map_err(|_| Error::usage(format!("{s:?} holds a zero byte")));
    let (c_name, c_value) = (c(name)?, c(value)?);
    // SAFETY: the emulator's function of this name has this type and reads two C strings.
    let code =
        unsafe { sys::culib().get::<Set>(b"inpEmulatedSet").map(|f| f(c_name.as_ptr(), c_value.as_ptr())) };
    check(code.map_err(|_| not_emulated())?, || format!("setting {name} to {value}"))
}

/// What the emulator has seen so far: its report as JSON (`findings`, `faults`, `launches`, `sums`).
pub fn emulated_report() -> Result<serde_json::Value> {
    // SAFETY of a call: as many bytes can be written as the second argument says, and the third is a place for a number.
    type Report = unsafe extern "C" fn(*mut u8, usize, *mut usize) -> CUresult;
    // SAFETY: the emulator's function of this name has this type.
    let f = unsafe { sys::culib().get::<Report>(b"inpEmulatedReport") }.map_err(|_| not_emulated())?;
    let mut buffer = Vec::new();
    loop {
        let mut needed = 0;
        // SAFETY: the buffer has as many bytes as it says.
        let code = unsafe { f(buffer.as_mut_ptr(), buffer.len(), &mut needed) };
        check(code, || "asking the emulator for its report".into())?;
        if needed <= buffer.len() {
            let json = serde_json::from_slice(&buffer[..needed]);
            return json.map_err(|e| Error::Device(format!("the emulator's report cannot be read: {e}")));
        }
        // Other threads may launch meanwhile.
        buffer.resize(needed + 4096, 0);
    }
}

fn not_emulated() -> Error {
    Error::Device("the driver in use is a real one, not the emulator".into())
}
