//! The CUDA runtime, with kernels of its own: `data/runtime.cu`.

use bytemuck::{Pod, Zeroable};
use inp_former::runtime::cuda::image::{Image, KernelInfo};
use inp_former::runtime::cuda::{DevicePtr, Geometry, Gpu, Kernel};

use crate::support;

static IMAGES: [Image; 1] = [Image {
    stem: "runtime",
    arch: 80,
    ptx: include_str!("../data/runtime.ptx"),
    cubin: &[],
    kernels: &[info("axpy"), info("reverse"), info("two")],
}];

const fn info(name: &'static str) -> KernelInfo {
    KernelInfo { name, registers: 8, spills: 0, shared: 0 }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Axpy {
    x: DevicePtr<f32>,
    y: DevicePtr<f32>,
    n: u32,
    a: f32,
}

fn kernel(gpu: &Gpu, name: &str) -> Kernel {
    gpu.kernel_of(&IMAGES, name).unwrap()
}

fn blocks(n: u32) -> Geometry {
    Geometry { grid: [n.div_ceil(256), 1, 1], block: 256, shared: 0 }
}

#[test]
fn uploads_launches_downloads() {
    let gpu = support::gpu();
    let (s, n) = (gpu.stream(), 1000);
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let (x, y) = (gpu.upload(&x).unwrap(), gpu.zeros::<f32>(n as usize).unwrap());
    let params = Axpy { x: x.ptr(), y: y.ptr(), n, a: 2.0 };
    for _ in 0..2 {
        kernel(&gpu, "axpy").launch(&s, blocks(n), &params).unwrap();
    }
    let y = y.download(&s).unwrap();
    assert!(y.iter().enumerate().all(|(i, y)| *y == 4.0 * i as f32));
    support::clean(&gpu);
}
