//! The folded engine against the plain model.

use inp_former::engine::fold::Folded;
use inp_former::engine::forward::{Pixels, Workspace};
use inp_former::model::inp_former as net;
use inp_former::runtime::Cpu;

use crate::models::model;
use crate::support::{close, cpus, golden_input};

#[test]
fn maps_equal_the_plain_models() {
    for name in ["tiny", "tiny518", "mini", "small252"] {
        let m = model(name);
        let x = m.config.crop;
        let input = golden_input(name, 1, x, x);
        for cpu in cpus() {
            let folded = Folded::new(&cpu, &m).unwrap();
            let mut w = Workspace::new(&cpu, &folded);
            for zero_shot in [false, true] {
                let want = net::maps(&cpu, &m, &input, zero_shot, &mut |_, _| {}).unwrap().gauss;
                let mut map = vec![f32::NAN; want.len()];
                w.run(&cpu, &folded, Pixels::F32(&input.data), zero_shot, &mut map, &mut |_| {}).unwrap();
                let what = format!("{name} {} {} zero-shot {zero_shot}", cpu.tier().name(), cpu.threads());
                close(&what, &map, &want.data, 1e-4);
            }
        }
    }
}

#[test]
fn time() {
    let m = model("small392");
    let cpu = Cpu::new(None).unwrap();
    let x = m.config.crop;
    let input = golden_input("small392", 1, x, x);
    let folded = Folded::new(&cpu, &m).unwrap();
    let mut w = Workspace::new(&cpu, &folded);
    let mut map = vec![0.0; 65536];
    for _ in 0..5 {
        let t = std::time::Instant::now();
        net::maps(&cpu, &m, &input, false, &mut |_, _| {}).unwrap();
        let plain = t.elapsed();
        let t = std::time::Instant::now();
        let mut stages = std::collections::BTreeMap::new();
        let mut last = std::time::Instant::now();
        w.run(&cpu, &folded, Pixels::F32(&input.data), false, &mut map, &mut |s| {
            *stages.entry(s).or_insert(0.0) += last.elapsed().as_secs_f64() * 1e3;
            last = std::time::Instant::now();
        })
        .unwrap();
        println!("plain {plain:?} engine {:?} {stages:.1?}", t.elapsed());
    }
}
