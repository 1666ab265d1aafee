//! The shared library calls itself `libcuda.so`, so that a process which loaded it by path has its driver already when
//! it asks for one by that name.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    println!("cargo::rerun-if-changed=build.rs");
}
