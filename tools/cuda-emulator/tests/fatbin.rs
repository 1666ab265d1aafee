//! Fatbinaries as nvcc makes them (`fatbin/make.sh`), and damaged ones.

use inp_cuda_emulator::error::Code;
use inp_cuda_emulator::fatbin::ptx;
use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::run::Machine;

macro_rules! images {
    ($($name:ident)*) => {
        const IMAGES: &[(&str, &[u8])] = &[$((stringify!($name), include_bytes!(concat!("fatbin/", stringify!($name), ".fatbin")))),*];
    };
}
images!(plain cubin uncompressed default none speed balance size many beside);

fn image(name: &str) -> &'static [u8] {
    IMAGES.iter().find(|i| i.0 == name).unwrap().1
}
/// The `.target` of what runs.
fn target(name: &str, capability: (u32, u32)) -> Result<String, Code> {
    let text = ptx(image(name), capability).map_err(|e| e.code)?;
    let module = inp_cuda_emulator::ptx::parse(&text).unwrap();
    Ok(format!("{}{}", module.sm, module.suffix.map(String::from).unwrap_or_default()))
}

#[test]
fn every_compression_gives_the_same_text() {
    let text = ptx(image("none"), (9, 0)).unwrap();
    assert!(text.contains(".target sm_80") && text.ends_with("}\n\n"), "{text}");
    for name in ["plain", "uncompressed", "default", "speed", "balance", "size"] {
        assert_eq!(ptx(image(name), (9, 0)).unwrap().trim(), text.trim(), "{name}");
    }
    assert_eq!(ptx(text.as_bytes(), (9, 0)).unwrap(), text);
    let mut m = Machine::new("h100", Options::all()).unwrap();
    m.load(&text).unwrap();
    let (x, y) = (m.upload(&[1f32, 2., 3.]), m.upload(&[0f32; 3]));
    m.launch("scale", 1, 32, 0, &[x.into(), y.into(), 2f32.into(), 3.into()]).ok();
    assert_eq!(m.read::<f32>(y, 3), [2., 4., 6.]);
}

#[test]
fn the_image_the_loader_takes() {
    let none = Err(Code::NoBinaryForGpu);
    for (capability, want) in [
        ((8, 0), Ok("80".into())),
        ((8, 6), Ok("80".into())),
        ((8, 9), Ok("89".into())),
        ((9, 0), Ok("90a".into())),
        ((10, 0), Ok("100f".into())),
        ((10, 3), Ok("100f".into())),
        ((11, 0), Ok("90".into())),
        ((12, 0), Ok("120a".into())),
        ((12, 1), Ok("90".into())),
        ((7, 5), none.clone()),
    ] {
        assert_eq!(target("many", capability), want, "{capability:?}");
    }
    // Machine code for sm_80 runs on 8.9 and comes before newer PTX; not on 9.0.
    assert_eq!(target("beside", (8, 9)), Ok("80".into()));
    assert_eq!(target("beside", (9, 0)), Ok("86".into()));
    assert_eq!(target("beside", (7, 5)), Ok("75".into()));
    assert_eq!(target("cubin", (8, 0)), none);
    let e = ptx(image("cubin"), (8, 0)).unwrap_err().to_string();
    assert!(e.contains("machine code for sm_80") && e.contains("sm_80 runs"), "{e}");
    let e = ptx(b"\x7fELF\x02\x01\x01", (8, 0)).unwrap_err();
    assert!(e.code == Code::NoBinaryForGpu && e.to_string().contains("cubin"), "{e}");
    for junk in [&b""[..], b"\0", b"\x50\xed\x55\xba", &[0xff; 64]] {
        assert_eq!(ptx(junk, (8, 0)).unwrap_err().code, Code::InvalidImage, "{junk:?}");
    }
}

#[test]
fn damage_is_an_error_or_harmless() {
    let mut random = 1u64;
    let mut next = |n: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % n
    };
    for (name, image) in IMAGES {
        for cut in 4..image.len().min(400) {
            assert!(ptx(&image[..cut], (9, 0)).is_err(), "{name} cut to {cut} bytes");
        }
        for _ in 0..400 {
            let mut image = image.to_vec();
            for _ in 0..=next(4) {
                let at = next(image.len()).min(next(image.len()));
                image[at] = [next(256) as u8, 0, 0xff, image[at] ^ 1 << next(8)][next(4)];
            }
            let _ = ptx(&image, (9, 0));
        }
    }
}
