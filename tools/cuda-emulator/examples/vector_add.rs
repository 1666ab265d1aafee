//! An ordinary cudarc program: knows nothing of the emulator. `tools/emulate -- target/release/examples/vector_add`

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let c = CudaContext::new(0)?;
    let s = c.default_stream();
    let f = c.load_module(Ptx::from_src(include_str!("../tests/data/driver.ptx")))?.load_function("add")?;
    let n = 1000i32;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let (a, b, mut y) = (s.clone_htod(&x)?, s.clone_htod(&x)?, s.alloc_zeros::<f32>(n as usize)?);
    let mut launch = s.launch_builder(&f);
    launch.arg(&a).arg(&b).arg(&mut y).arg(&n);
    // SAFETY: the arguments are those of the kernel, and its grid covers `n` elements.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n as u32)) }?;
    let y = s.clone_dtoh(&y)?;
    println!("{}: {} + {} = {}", c.name()?, x[999], x[999], y[999]);
    Ok(())
}
