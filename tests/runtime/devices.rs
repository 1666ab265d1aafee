//! Which GPUs there are and what they can do: several in a process, too old, without a driver, lost.

use inp_former::runtime::cuda::image::{IMAGES, choose};
use inp_former::runtime::cuda::{DevicePtr, Gpu};

use super::cuda::{axpy, blocks, kernel, ramp, said};
use crate::support::again;

#[test]
fn several_gpus_work_side_by_side() {
    if !again("runtime::devices::several_gpus_work_side_by_side", &[("INP_EMULATED_GPU", "a100,h100*2")]) {
        return;
    }
    let all = [Gpu::emulated().unwrap(), Gpu::open(1).unwrap(), Gpu::open(2).unwrap()];
    assert_eq!(all.each_ref().map(|g| (g.ordinal(), g.arch())), [(0, 80), (1, 90), (2, 90)]);
    assert!(said(Gpu::open(3)).contains("there is no cuda:3: there are cuda:0 to cuda:2"));
    let free = || all.each_ref().map(|g| g.memory().unwrap().0);
    let before = free();
    std::thread::scope(|scope| {
        for (i, gpu) in all.iter().enumerate() {
            scope.spawn(move || {
                let (x, y) = (gpu.upload(&ramp(1000)).unwrap(), gpu.zeros::<f32>(1000).unwrap());
                let (s, add, a) = (gpu.new_stream().unwrap(), kernel(gpu, "axpy"), i as f32 + 1.0);
                for _ in 0..20 {
                    add.launch(&s, blocks(1000), &axpy(&x, &y, a)).unwrap();
                }
                let y = y.download(&s).unwrap();
                assert!(y.iter().enumerate().all(|(j, y)| *y == 20.0 * a * j as f32), "cuda:{i}");
            });
        }
    });
    assert_eq!(free(), before);
    let _held = all[1].zeros::<u8>(1 << 20).unwrap();
    let after = free();
    assert!(after[0] == before[0] && after[1] < before[1] && after[2] == before[2]);
}

/// The emulator runs the PTX of exactly the image that the loader picks.
#[test]
fn every_modelled_gpu_takes_the_image_that_was_chosen() {
    let gpus = [("INP_EMULATED_GPU", "a100,rtx4090,h100,rtx5090")];
    if !again("runtime::devices::every_modelled_gpu_takes_the_image_that_was_chosen", &gpus) {
        return;
    }
    let first = Gpu::emulated().unwrap();
    for (i, arch) in [80, 89, 90, 120].into_iter().enumerate() {
        let gpu = if i == 0 { first.clone() } else { Gpu::open(i).unwrap() };
        assert_eq!(gpu.arch(), arch);
        let names: Vec<&str> = IMAGES.iter().flat_map(|i| i.kernels).map(|k| k.name).collect();
        for name in &names {
            let (image, _) = choose(IMAGES, name, arch).unwrap();
            let newest =
                IMAGES.iter().filter(|i| i.arch <= arch && i.kernels.iter().any(|k| k.name == *name));
            assert_eq!(Some(image.arch), newest.map(|i| i.arch).max(), "{name} on sm_{arch}");
            assert_eq!(gpu.kernel(name).unwrap().arch(), image.arch, "{name} on sm_{arch}");
        }
        println!("sm_{arch}: {} kernels", names.len());
    }
}

#[test]
fn a_gpu_before_ampere_is_refused() {
    if again("runtime::devices::a_gpu_before_ampere_is_refused", &[("INP_EMULATED_GPU", "t4")]) {
        let e = said(Gpu::emulated());
        assert_eq!(
            e,
            "cuda:0 (NVIDIA Tesla T4) is too old: it is sm_75, and these kernels need sm_80 (Ampere) or newer"
        );
    }
}

#[test]
fn an_older_driver_is_refused() {
    if again("runtime::devices::an_older_driver_is_refused", &[("INP_EMULATED_DRIVER", "12080")]) {
        let e = said(Gpu::emulated());
        assert!(
            e.contains("the NVIDIA driver is too old: it knows CUDA 12.8, and these kernels need 13.0"),
            "{e}"
        );
        assert!(e.contains("series 580 or newer"), "{e}");
    }
}

/// Whoever does not ask for the emulator does not get it, whatever its variables say.
#[test]
fn without_a_driver_there_is_no_gpu() {
    if again("runtime::devices::without_a_driver_there_is_no_gpu", &[("INP_EMULATED_GPU", "h100")]) {
        match Gpu::open(0) {
            Ok(gpu) if !gpu.is_emulated() => println!("SKIPPED: there is a real {}", gpu.name()),
            got => {
                let e = said(got);
                assert_eq!(e, "there is no NVIDIA driver here: libcuda.so cannot be loaded");
            }
        }
    }
}

#[test]
fn a_fault_is_said_by_every_later_call() {
    if !again("runtime::devices::a_fault_is_said_by_every_later_call", &[]) {
        return;
    }
    let gpu = Gpu::emulated().unwrap();
    let (s, x, add) = (gpu.new_stream().unwrap(), gpu.upload(&ramp(64)).unwrap(), kernel(&gpu, "axpy"));
    let mut wild = axpy(&x, &x, 1.0);
    wild.y = DevicePtr::NULL;
    add.launch(&s, blocks(64), &wild).unwrap();
    let calls = [
        said(s.synchronize()),
        said(x.download(&s)),
        said(gpu.upload(&ramp(8))),
        said(gpu.new_stream()),
        said(add.launch(&s, blocks(64), &axpy(&x, &x, 1.0))),
        said(gpu.synchronize()),
    ];
    for e in calls {
        assert!(e.contains("CUDA_ERROR_ILLEGAL_ADDRESS") && e.contains("has lost its context"), "{e}");
        assert!(e.contains("start the program again, with INP_CUDA_BLOCKING=1 to learn which kernel"), "{e}");
    }
}

#[test]
fn a_kernel_that_is_waited_for_is_named() {
    let blocking = [("INP_CUDA_BLOCKING", "1")];
    if !again("runtime::devices::a_kernel_that_is_waited_for_is_named", &blocking) {
        return;
    }
    let gpu = Gpu::emulated().unwrap();
    let (s, x, add) = (gpu.stream(), gpu.upload(&ramp(64)).unwrap(), kernel(&gpu, "axpy"));
    let mut wild = axpy(&x, &x, 1.0);
    wild.y = DevicePtr::NULL;
    let e = said(add.launch(&s, blocks(64), &wild));
    assert!(
        e.starts_with("CUDA: kernel axpy <1x1x1 blocks, 256 threads, 0 bytes of shared memory>: an illegal memory access"),
        "{e}"
    );
    assert!(e.ends_with("this process has lost its context: start the program again"), "{e}");
}
