//! The CUDA runtime, with kernels of its own: `data/runtime.cu`.

use bytemuck::{Pod, Zeroable};
use inp_former::runtime::cuda::image::{IMAGES as IMAGES_OF_THIS_BUILD, Image, KernelInfo, choose};
use inp_former::runtime::cuda::{Arena, Buffer, DevicePtr, Geometry, Gpu, Kernel, Stream, set_emulated};
use inp_former::{Error, Result};

use crate::support::{self, Guarded};

static IMAGES: [Image; 1] = [Image {
    stem: "runtime",
    arch: 80,
    data: concat!(include_str!("../data/runtime.ptx"), "\0").as_bytes(),
    kernels: &[info("axpy"), info("reverse"), info("two")],
}];

const fn info(name: &'static str) -> KernelInfo {
    KernelInfo { name, registers: 8, spills: 0, shared: 0 }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Axpy {
    x: DevicePtr<f32>,
    pub y: DevicePtr<f32>,
    n: u32,
    a: f32,
}

pub fn kernel(gpu: &Gpu, name: &str) -> Kernel {
    gpu.kernel_of(&IMAGES, name).unwrap()
}

pub fn blocks(n: usize) -> Geometry {
    Geometry { grid: [n.div_ceil(256) as u32, 1, 1], block: 256, shared: 0 }
}

/// `y += a * x` over `n` elements.
pub fn axpy(x: &Buffer<f32>, y: &Buffer<f32>, a: f32) -> Axpy {
    Axpy { x: x.ptr(), y: y.ptr(), n: x.len() as u32, a }
}

pub fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

pub fn said<T>(r: Result<T>) -> String {
    r.err().expect("an error").to_string()
}

#[test]
fn uploads_launches_downloads() {
    let gpu = support::gpu();
    let (s, add) = (gpu.new_stream().unwrap(), kernel(&gpu, "axpy"));
    for n in [1, 255, 256, 257, 1000] {
        let x = gpu.upload(&ramp(n)).unwrap();
        let y = Guarded::new(&gpu, n);
        y.inner.fill(&s, 0).unwrap();
        for _ in 0..2 {
            add.launch(&s, blocks(n), &axpy(&x, &y.inner, 2.0)).unwrap();
        }
        assert!(y.read(&s).iter().enumerate().all(|(i, y)| *y == 4.0 * i as f32));
    }
    assert_eq!(gpu.zeros::<u16>(9).unwrap().download(&s).unwrap(), [0; 9]);
    assert!(gpu.uninit::<f32>(0).unwrap().download(&s).unwrap().is_empty());
    support::clean(&gpu);
}

#[test]
fn guards_and_fill_are_seen() {
    let gpu = support::gpu();
    let (s, x) = (gpu.stream(), gpu.upload(&[1f32; 4]).unwrap());
    let y = Guarded::<f32>::new(&gpu, 4);
    assert!(y.read(&s).iter().all(|y| y.is_nan()));
    let past = Axpy { y: y.inner.ptr().at(4), ..axpy(&x, &y.inner, 1.0) };
    // NaN plus one is another NaN, but the guard's bits change.
    kernel(&gpu, "axpy").launch(&s, blocks(4), &past).unwrap();
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| y.read(&s)));
    assert!(read.is_err());
}

#[test]
fn copies_between_pinned_memory_and_device_in_two_streams() {
    let gpu = support::gpu();
    let add = kernel(&gpu, "axpy");
    let (s, side) = (gpu.stream(), gpu.new_stream().unwrap());
    let n = 1000;
    let (host, back) = (gpu.pinned::<f32>(n).unwrap(), gpu.pinned::<f32>(n).unwrap());
    assert!(host.with(|h| h.iter().all(|x| *x == 0.0)).unwrap());
    let (x, y) = (gpu.uninit::<f32>(n).unwrap(), gpu.zeros::<f32>(n).unwrap());
    for round in 1..=5 {
        host.with(|h| h.fill(round as f32)).unwrap();
        host.send(&s, &x).unwrap();
        s.fork(&side).unwrap();
        add.launch(&side, blocks(n), &axpy(&x, &y, 1.0)).unwrap();
        s.join(&side).unwrap();
        back.receive(&s, &y).unwrap();
        let sum = (round * (round + 1) / 2) as f32;
        assert!(back.with(|b| b.iter().all(|b| *b == sum)).unwrap());
    }
    support::clean(&gpu);
}

#[test]
fn a_captured_graph_replays_with_forks_and_copies() {
    let gpu = support::gpu();
    let add = kernel(&gpu, "axpy");
    let (s, side) = (gpu.new_stream().unwrap(), gpu.new_stream().unwrap());
    let n = 512;
    let (host, back) = (gpu.pinned::<f32>(n).unwrap(), gpu.pinned::<f32>(n).unwrap());
    let (x, y, z) = (gpu.uninit(n).unwrap(), gpu.uninit(n).unwrap(), gpu.uninit(n).unwrap());
    let work = |s: &Stream| {
        host.send(s, &x)?;
        s.fork(&side)?;
        y.fill(s, 0)?;
        add.launch(s, blocks(n), &axpy(&x, &y, 2.0))?;
        z.fill(&side, 0)?;
        add.launch(&side, blocks(n), &axpy(&x, &z, 3.0))?;
        s.join(&side)?;
        add.launch(s, blocks(n), &axpy(&z, &y, 1.0))?;
        back.receive(s, &y)
    };
    let graph = s.capture(work).unwrap();
    assert_eq!(graph.kernels(), 3);
    for round in 0..4 {
        host.with(|h| h.fill(round as f32)).unwrap();
        graph.launch(&s).unwrap();
        assert!(back.with(|b| b.iter().all(|b| *b == 5.0 * round as f32)).unwrap());
    }
    support::clean(&gpu);
}

#[test]
fn what_a_capture_cannot_hold_is_refused_and_the_stream_goes_on() {
    let gpu = support::gpu();
    let s = gpu.new_stream().unwrap();
    let x = gpu.upload(&ramp(8)).unwrap();
    assert!(said(s.capture(|s| x.download(s).map(drop))).contains("waiting for a stream"));
    let side = gpu.new_stream().unwrap();
    let unjoined = s.capture(|s| {
        s.fork(&side)?;
        x.fill(&side, 0)
    });
    assert!(said(unjoined).contains("ending a capture failed"));
    assert!(said(s.capture(|_| Err(Error::usage("of its own")))).contains("of its own"));
    assert_eq!(x.download(&s).unwrap(), ramp(8));
}

#[test]
fn wrong_launches_are_refused_with_kernel_and_geometry() {
    let gpu = support::gpu();
    let s = gpu.stream();
    let (x, add) = (gpu.upload(&ramp(64)).unwrap(), kernel(&gpu, "axpy"));
    let params = axpy(&x, &x, 0.0);
    let go = |g: Geometry| said(add.launch(&s, g, &params));
    let one = blocks(64);
    let e = said(add.launch(&s, one, &7u64));
    assert!(e.contains("kernel axpy <1x1x1 blocks, 256 threads, 0 bytes of shared memory>"), "{e}");
    assert!(e.contains("24 bytes, but 8 were given"), "{e}");
    assert!(go(Geometry { grid: [1, 1 << 16, 1], ..one }).contains("65535"));
    assert!(go(Geometry { grid: [1, 0, 1], ..one }).contains("nothing to launch"));
    // Compiled for 256 threads.
    assert!(go(Geometry { block: 288, ..one }).contains("at most 256 threads"));
    assert!(go(Geometry { shared: 1 << 20, ..one }).contains("bytes of dynamic shared memory"));
    static NEWER: [Image; 1] = [Image { arch: 130, ..IMAGES[0] }];
    let newer = said(gpu.kernel_of(&NEWER, "axpy"));
    assert!(newer.contains("this build has kernel axpy from sm_130 on, and"), "{newer}");
    assert!(newer.contains("in INP_CUDA_ARCHS"), "{newer}");
    // A fat binary's header, and nothing in it.
    const EMPTY: &[u8] = &[0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    static NOTHING: [Image; 1] = [Image { data: EMPTY, ..IMAGES[0] }];
    let nothing = said(gpu.kernel_of(&NOTHING, "axpy"));
    assert!(
        nothing.contains("CUDA_ERROR_NO_BINARY_FOR_GPU") && nothing.contains("INP_CUDA_ARCHS"),
        "{nothing}"
    );
    let two = said(gpu.kernel_of(&IMAGES, "two"));
    assert!(two.contains("two takes more than one"), "{two}");
    assert!(said(gpu.kernel_of(&IMAGES, "nothing")).contains("this build has no kernel nothing"));
    assert!(said(gpu.kernel_of(&[], "axpy")).contains("tools/install-cuda-toolkit"));
    assert!(said(x.upload(&s, &[1.0])).contains("1 elements and a buffer of 64"));
    assert!(said(x.part(60, 5)).contains("not in a buffer of 64"));
}

#[test]
fn big_shared_memory_needs_no_opting_in() {
    let gpu = support::gpu();
    let (s, n) = (gpu.stream(), 24_000);
    let (x, y) = (gpu.upload(&ramp(n)).unwrap(), Guarded::new(&gpu, n));
    let reverse = kernel(&gpu, "reverse");
    let geometry = Geometry { grid: [1; 3], block: 256, shared: 4 * n as u32 };
    assert!(geometry.shared > 48 << 10);
    reverse.launch(&s, geometry, &axpy(&x, &y.inner, 0.0)).unwrap();
    assert!(y.read(&s).iter().rev().enumerate().all(|(i, y)| *y == i as f32));
    assert!(reverse.occupancy(256, geometry.shared).unwrap() >= 1);
    support::clean(&gpu);
}

#[test]
fn an_arena_is_one_allocation_of_aligned_parts() {
    let gpu = support::gpu();
    let plan = |a: &mut Arena| Ok((a.take::<f32>(3), a.take::<u8>(257), a.take::<f32>(64)));
    let bytes = gpu.measure(plan).unwrap();
    assert_eq!(bytes, 256 + 512 + 256);
    let (a, b, c) = gpu.arena(plan).unwrap();
    let at = [a.ptr().address(), b.ptr().address(), c.ptr().address()];
    assert_eq!([at[1] - at[0], at[2] - at[0], at[0] % 256], [256, 768, 0]);
    let s = gpu.stream();
    c.upload(&s, &ramp(64)).unwrap();
    drop((a, b));
    assert_eq!(c.download(&s).unwrap(), ramp(64));
}

#[test]
fn too_much_memory_says_what_there_is() {
    let gpu = support::gpu();
    let (_, total) = gpu.memory().unwrap();
    let e = said(gpu.uninit::<u8>(2 * total));
    assert!(e.contains("has not enough memory") && e.contains("GB were asked for"), "{e}");
}

#[test]
fn events_take_times() {
    let gpu = support::gpu();
    let (s, n) = (gpu.new_stream().unwrap(), 100_000);
    let (x, y) = (gpu.zeros(n).unwrap(), gpu.zeros(n).unwrap());
    let (start, end) = (gpu.event().unwrap(), gpu.event().unwrap());
    s.record(&start).unwrap();
    kernel(&gpu, "axpy").launch(&s, blocks(n), &axpy(&x, &y, 1.0)).unwrap();
    s.record(&end).unwrap();
    end.synchronize().unwrap();
    let ms = end.since(&start).unwrap();
    assert!(ms > 0.0 && ms < 60_000.0);
}

#[test]
fn the_newest_image_that_a_gpu_has_is_chosen() {
    const FAT: &[u8] = &[0x50, 0xed, 0x55, 0xba];
    let image = |arch, data| Image { stem: "s", arch, data, kernels: const { &[info("k")] } };
    let images = [image(80, FAT), image(90, FAT), image(120, FAT)];
    let chosen = |arch| choose(&images, "k", arch).map(|(i, machine)| (i.arch, machine));
    for (arch, want) in [(75, None), (80, Some((80, true))), (86, Some((80, true))), (89, Some((80, true)))] {
        assert_eq!(chosen(arch), want, "sm_{arch}");
    }
    for (arch, want) in [(90, (90, true)), (100, (90, false)), (120, (120, true)), (121, (120, true))] {
        assert_eq!(chosen(arch), Some(want), "sm_{arch}");
    }
    assert_eq!(choose(&[image(80, b"//\0")], "k", 86).map(|c| c.1), Some(false));
    assert!(choose(&images, "other", 90).is_none());
}

/// Also: every embedded kernel loads, takes one structure, and is the one that [`choose`] names.
#[test]
fn the_driver_takes_the_image_that_was_chosen() {
    let Some(gpu) = support::gpu_with_kernels() else { return };
    let mut seen = 0;
    for name in IMAGES_OF_THIS_BUILD.iter().flat_map(|i| i.kernels).map(|k| k.name) {
        let (image, _) = choose(IMAGES_OF_THIS_BUILD, name, gpu.arch()).unwrap();
        assert_eq!(gpu.kernel(name).unwrap().arch(), image.arch, "{name}");
        seen += 1;
    }
    println!("{seen} kernels loaded");
}

#[test]
fn the_emulator_can_be_asked_and_no_other_device_is_there() {
    let gpu = support::gpu();
    if !gpu.is_emulated() {
        println!("SKIPPED: the device is a real one");
        return;
    }
    assert_eq!(gpu.ordinal(), 0);
    assert!(gpu.sms() > 0 && gpu.shared_optin() >= 99 << 10 && gpu.arch() >= 80);
    let e = said(Gpu::open(7));
    assert!(e.contains("there is no cuda:7: the only GPU is cuda:0"), "{e}");
    assert!(said(set_emulated("INP_EMULATED_SEED", "x")).contains("setting INP_EMULATED_SEED to x"));
    let seed = std::env::var("INP_EMULATED_SEED").unwrap_or("1".into());
    set_emulated("INP_EMULATED_SEED", &seed).unwrap();
}
