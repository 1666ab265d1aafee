//! `preprocess` on a GPU: the CPU's bytes.

use inp_former::ops::preprocess::cuda::{Cropper, Frame};
use inp_former::ops::preprocess::{ImageView, PixelFormat, crop_u8};
use inp_former::runtime::cuda::Gpu;

use super::noise;
use crate::support::{Checked, Guarded, clean, cpu, gpu_with_kernels};

const FORMATS: [PixelFormat; 4] =
    [PixelFormat::Mono8, PixelFormat::Rgb8, PixelFormat::Bgr8, PixelFormat::Rgba8];

/// A batch of different pictures, spaced as the device wants them.
fn pictures(frame: &Frame, batch: usize) -> Vec<u8> {
    noise("frame", frame.spacing() * batch)
}

/// Crops of a batch, which must be the CPU's.
fn check(gpu: &Gpu, cropper: &mut Cropper, frame: &Frame, batch: usize, resize: usize, crop: usize) {
    let stream = gpu.stream();
    let bytes = pictures(frame, batch);
    let (Frame { width, height, .. }, format) = (frame, frame.format);
    let _checked = Checked::new("preprocess", "u8", format!("{batch}x{width}x{height} {format:?} to {crop}"));
    let frames = gpu.upload(&bytes).unwrap();
    let out = Guarded::<u8>::new(gpu, batch * 3 * crop * crop);
    cropper.prepare(frame, batch).unwrap();
    cropper.run(&stream, &out.inner, &frames).unwrap();
    let got = out.read(&stream);
    for (i, (got, bytes)) in got.chunks_exact(3 * crop * crop).zip(bytes.chunks(frame.spacing())).enumerate()
    {
        let view = ImageView::new(bytes, frame.width, frame.height, frame.stride, frame.format).unwrap();
        assert!(
            got == crop_u8(&cpu(), &view, resize, crop).unwrap(),
            "picture {i} of {frame:?} to {resize}, {crop}"
        );
    }
}

#[test]
fn every_format_and_order_of_passes_gives_the_cpus_bytes() {
    let Some(gpu) = gpu_with_kernels() else { return };
    // Wide, tall (its height is filtered first), smaller than the result, one pixel, as large as the result, a line.
    let shapes = [
        (61, 47, 40, 27),
        (37, 411, 28, 14),
        (20, 200, 33, 28),
        (13, 9, 64, 42),
        (1, 1, 16, 14),
        (56, 56, 56, 56),
        (300, 1, 28, 28),
        (1, 300, 28, 28),
    ];
    for (width, height, resize, crop) in shapes {
        let mut cropper = Cropper::new(&gpu, resize, crop).unwrap();
        for (i, format) in FORMATS.into_iter().enumerate() {
            // Strides that leave rows at any address, or at multiples of 4.
            let stride = width * format.bytes() + [0, 5][i % 2];
            for stride in [stride, stride.next_multiple_of(4)] {
                check(&gpu, &mut cropper, &Frame { width, height, stride, format }, 1 + i % 2, resize, crop);
            }
        }
    }
    clean(&gpu);
}

#[test]
fn the_models_crops_are_the_cpus() {
    let Some(gpu) = gpu_with_kernels() else { return };
    for (resize, crop, width, height) in
        [(128, 112, 300, 220), (280, 252, 517, 640), (448, 392, 600, 500), (592, 518, 640, 480)]
    {
        let mut cropper = Cropper::new(&gpu, resize, crop).unwrap();
        let frame = Frame { width, height, stride: 3 * width, format: PixelFormat::Rgb8 };
        check(&gpu, &mut cropper, &frame, 1, resize, crop);
    }
    clean(&gpu);
}

#[test]
fn pictures_of_a_batch_are_the_same_alone_and_frames_may_change() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let mut cropper = Cropper::new(&gpu, 32, 28).unwrap();
    for (width, height, batch) in [(50, 40, 3), (50, 40, 3), (9, 70, 1), (50, 40, 2)] {
        let frame = Frame { width, height, stride: 3 * width, format: PixelFormat::Bgr8 };
        check(&gpu, &mut cropper, &frame, batch, 32, 28);
        assert!(!cropper.prepare(&frame, batch).unwrap(), "nothing has changed");
    }
    clean(&gpu);
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(gpu) = gpu_with_kernels() else { return };
    assert!(Cropper::new(&gpu, 27, 28).is_err());
    let mut cropper = Cropper::new(&gpu, 32, 28).unwrap();
    let (stream, out) = (gpu.stream(), gpu.uninit(3 * 28 * 28).unwrap());
    let frame = Frame { width: 8, height: 4, stride: 24, format: PixelFormat::Rgb8 };
    let frames = gpu.uninit(frame.spacing()).unwrap();
    let e = cropper.run(&stream, &out, &frames).unwrap_err().to_string();
    assert!(e.contains("prepare"), "{e}");
    let wrong = [
        (Frame { width: 0, ..frame }, 1),
        (Frame { height: 0, ..frame }, 1),
        (Frame { stride: 23, ..frame }, 1),
        (Frame { stride: usize::MAX, ..frame }, 1),
        (Frame { width: usize::MAX, ..frame }, 1),
        (Frame { height: usize::MAX, ..frame }, 1),
        (frame, 0),
        (frame, 65_536),
    ];
    for (frame, batch) in wrong {
        assert!(cropper.prepare(&frame, batch).is_err(), "{batch} of {frame:?}");
    }
    cropper.prepare(&frame, 1).unwrap();
    assert!(cropper.run(&stream, &out.part(0, 99).unwrap(), &frames).is_err());
    assert!(cropper.run(&stream, &out, &frames.part(0, 9).unwrap()).is_err());
}
