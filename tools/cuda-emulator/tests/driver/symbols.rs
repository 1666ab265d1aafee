//! The functions: every one that cudarc 0.19.10 can call is exported. `data/cudarc-driver-api.txt` lists the functions of its
//! `driver::sys`, for all CUDA versions that it has features for; those that are not emulated answer
//! `CUDA_ERROR_NOT_SUPPORTED` and stand with their reasons in `src/driver/refused.rs`.

use super::{alone, ok};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CStr, CString, c_char, c_void};

/// The address of a function of the emulated driver.
pub fn symbol(name: &str) -> *mut c_void {
    let c = CString::new(name).unwrap();
    // SAFETY: the library is loaded already (`alone`) and never unloaded; the names end with NUL.
    unsafe {
        libc::dlsym(libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD), c.as_ptr())
    }
}

#[test]
fn everything_that_cudarc_calls_is_there() {
    let _alone = alone();
    let all = include_str!("../data/cudarc-driver-api.txt");
    let missing: Vec<&str> = all.lines().filter(|n| symbol(n).is_null()).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
    assert_eq!(all.lines().count(), 514);
    for name in
        ["cuMemcpyHtoD_v2_ptds", "cuLaunchKernel_ptsz", "cuStreamSynchronize_ptsz", "cuGraphLaunch_ptsz"]
    {
        assert!(!symbol(name).is_null(), "{name}");
    }
}

#[test]
fn what_is_not_emulated_says_so() {
    let _alone = alone();
    ok!(sys::cuInit(0));
    // SAFETY: a refused function looks at no argument.
    let f: extern "C" fn() -> CUresult = unsafe { std::mem::transmute(symbol("cuTexObjectCreate")) };
    assert_eq!(f(), CUresult::CUDA_ERROR_NOT_SUPPORTED);
}

#[test]
fn functions_are_found_by_name() {
    let _alone = alone();
    ok!(sys::cuInit(0));
    let find = |name: &CStr, flags: u64| {
        let (mut f, mut status) =
            (std::ptr::null_mut(), sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS);
        // SAFETY: the name ends with NUL; both results are ours.
        let r = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut f, 13000, flags, &mut status) };
        (r, f)
    };
    assert_eq!(find(c"cuMemFree", 0), (CUresult::CUDA_SUCCESS, symbol("cuMemFree_v2")));
    assert_eq!(find(c"cuMemcpyHtoD", 2).1, symbol("cuMemcpyHtoD_v2_ptds"));
    assert_eq!(find(c"cuLaunchKernel", 2).1, symbol("cuLaunchKernel_ptsz"));
    assert_eq!(find(c"cuCtxCreate", 2).1, symbol("cuCtxCreate_v4"));
    assert_eq!(find(c"cuNothing", 0).0, CUresult::CUDA_ERROR_NOT_FOUND);
    assert_eq!(find(c"cuMemFree", 8).0, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn results_have_names() {
    let _alone = alone();
    let text = |f: unsafe extern "C" fn(u32, *mut *const c_char) -> u32, code: u32| {
        let mut p = std::ptr::null();
        // SAFETY: both functions write a pointer to a string that lives as long as the process, or null.
        unsafe { (f(code, &mut p), p.as_ref().map(|p| CStr::from_ptr(p).to_str().unwrap().to_owned())) }
    };
    // SAFETY: the functions have these signatures.
    let [name, what] = ["cuGetErrorName", "cuGetErrorString"].map(|n| unsafe {
        std::mem::transmute::<_, unsafe extern "C" fn(u32, *mut *const c_char) -> u32>(symbol(n))
    });
    for (code, expected) in [
        (0, "CUDA_SUCCESS"),
        (1, "CUDA_ERROR_INVALID_VALUE"),
        (700, "CUDA_ERROR_ILLEGAL_ADDRESS"),
        (999, "CUDA_ERROR_UNKNOWN"),
    ] {
        assert_eq!(text(name, code), (0, Some(expected.to_owned())));
        assert!(text(what, code).1.is_some_and(|w| w.len() > 5));
    }
    assert_eq!(text(name, 5000), (1, None));
    assert_eq!(text(what, 5000), (1, None));
}
