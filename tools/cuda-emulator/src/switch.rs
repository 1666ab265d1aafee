//! The in-process switch: loads the emulated driver by path, so that whoever then asks for `libcuda.so` gets it.

use std::ffi::CString;
use std::path::Path;

/// Loads `libinp_cuda_emulator.so`, whose SONAME is `libcuda.so`: a later `dlopen("libcuda.so")` finds it loaded. An error
/// when a driver is loaded already, or when the file cannot be loaded.
#[cfg(target_os = "linux")]
pub fn load(path: &Path) -> Result<(), String> {
    let text = path.display();
    for name in [c"libcuda.so", c"libcuda.so.1"] {
        // SAFETY: RTLD_NOLOAD only asks whether the library is there.
        if !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) }.is_null() {
            return Err(
                "a CUDA driver is loaded already: choose the emulated one before the first CUDA call".into(),
            );
        }
    }
    let c = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| format!("{text} is not a path"))?;
    // SAFETY: the library runs no code of its own when it is loaded.
    if unsafe { libc::dlopen(c.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null() {
        // SAFETY: dlerror gives null or a string that lives until the next call.
        let why = unsafe { libc::dlerror().as_ref().map(|e| std::ffi::CStr::from_ptr(e).to_string_lossy()) };
        return Err(format!("the emulated driver {text} cannot be loaded: {}", why.unwrap_or_default()));
    }
    Ok(())
}
