//! The seven metrics: published values, brute-force references in f64, ties, missing labels, threads.

use inp_former::Error;
use inp_former::eval::metrics::{Mode, image_metrics, pixel_metrics, regions};
use inp_former::runtime::Cpu;

use crate::support::{golden, s_value};

/// Both golden cases: maps, masks, scores and labels of 20 images of 64x64, and the values to hold.
#[test]
fn goldens() {
    let (Some(file), Some(values)) = (golden("metrics/metrics.safetensors"), golden("metrics/metrics.json"))
    else {
        return;
    };
    let bytes = std::fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let want: serde_json::Value = serde_json::from_slice(&std::fs::read(values).unwrap()).unwrap();
    let f32s = |name: &str| -> Vec<f32> {
        let t = tensors.tensor(name).unwrap();
        t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let labels: Vec<bool> =
        tensors.tensor("labels").unwrap().data().chunks_exact(4).map(|b| b[0] != 0).collect();
    let masks = tensors.tensor("masks").unwrap().data().to_vec();
    for case in ["continuous", "ties32"] {
        let (maps, scores) = (f32s(&format!("{case}.maps")), f32s(&format!("{case}.image_scores")));
        let hold = |what: &str, got: Option<f64>, tol: f64| {
            let want = what.split('/').fold(&want[case], |v, k| &v[k]).as_f64().unwrap();
            let err = (got.unwrap() - want).abs();
            println!("{case} {what}: {got:?}, off by {err:.1e}");
            assert!(err <= tol, "{case} {what}: {got:?} instead of {want}");
        };
        let image = image_metrics(&scores, &labels).unwrap();
        hold("I-AUROC", image.auroc, 1e-9);
        hold("I-AP", image.ap, 1e-9);
        hold("I-F1_max", image.f1max, 1e-9);
        for threads in [1, 2, 3] {
            let cpu = Cpu::new(Some(threads)).unwrap();
            let exact = pixel_metrics(&cpu, &maps, &masks, 20, 64, Mode::Exact).unwrap();
            hold("P-AUROC", exact.auroc, 1e-9);
            hold("P-AP", exact.ap, 1e-9);
            hold("P-F1_max", exact.f1max, 1e-9);
            hold("AUPRO_exact_mine", exact.aupro, 1e-9);
            let official = pixel_metrics(&cpu, &maps, &masks, 20, 64, Mode::Official).unwrap();
            hold("adeval_cuda_path_on_cpu_200/p_auroc", official.auroc, 1e-8);
            hold("adeval_cuda_path_on_cpu_200/p_aupr", official.ap, 1e-8);
            hold("adeval_cuda_path_on_cpu_200/p_aupro", official.aupro, 1e-8);
            hold("P-F1_max", official.f1max, 1e-9);
        }
    }
    let regions: usize = masks.chunks_exact(64 * 64).map(|m| regions::label(m, 64).1.len()).sum();
    assert_eq!(regions as u64, want["continuous"]["n_regions_8conn"].as_u64().unwrap());
}

/// Every metric straight from its definition: each distinct value is a threshold, everything is counted anew.
fn brute(scores: &[f32], labels: &[bool], region: &[u32]) -> [f64; 4] {
    let mut thresholds = scores.to_vec();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let p = labels.iter().filter(|l| **l).count() as f64;
    let n = labels.len() as f64 - p;
    let regions = *region.iter().max().unwrap();
    let (mut auroc, mut ap, mut f1max, mut aupro) = (0.0, 0.0, 0.0f64, 0.0);
    let (mut fpr, mut tpr, mut pro) = (0.0, 0.0, 0.0);
    for t in thresholds {
        let share = |of: &dyn Fn(usize) -> bool, total: f64| {
            (0..scores.len()).filter(|&i| of(i) && scores[i] >= t).count() as f64 / total
        };
        let (fpr1, tpr1) = (share(&|i| !labels[i], n), share(&|i| labels[i], p));
        let pro1 = (1..=regions)
            .map(|r| share(&|i| region[i] == r, region.iter().filter(|x| **x == r).count() as f64))
            .sum::<f64>()
            / regions as f64;
        auroc += (fpr1 - fpr) * (tpr1 + tpr) / 2.0;
        let precision = tpr1 * p / (tpr1 * p + fpr1 * n);
        ap += (tpr1 - tpr) * precision;
        f1max = f1max.max(2.0 * precision * tpr1 / (precision + tpr1 + 1e-7));
        if fpr < 0.3 {
            let x = fpr1.min(0.3);
            let y = if fpr1 > fpr { pro + (pro1 - pro) * (x - fpr) / (fpr1 - fpr) } else { pro1 };
            aupro += (x - fpr) * (y + pro) / 2.0 / 0.3;
        }
        (fpr, tpr, pro) = (fpr1, tpr1, pro1);
    }
    [auroc, ap, f1max, aupro]
}

/// Regions by flood fill, numbered in the order in which rows meet them.
fn flood(mask: &[u8], w: usize) -> Vec<u32> {
    let mut out = vec![0; mask.len()];
    let mut next = 0;
    for start in 0..mask.len() {
        if mask[start] == 0 || out[start] != 0 {
            continue;
        }
        next += 1;
        let mut todo = vec![start];
        while let Some(i) = todo.pop() {
            if mask[i] == 0 || out[i] != 0 {
                continue;
            }
            out[i] = next;
            let (x, y) = (i % w, i / w);
            for yy in y.saturating_sub(1)..=(y + 1).min(mask.len() / w - 1) {
                todo.extend((x.saturating_sub(1)..=(x + 1).min(w - 1)).map(|xx| yy * w + xx));
            }
        }
    }
    out
}

#[test]
fn regions_are_those_of_a_flood_fill() {
    for (w, h) in [(1, 1), (1, 9), (9, 1), (2, 7), (7, 2), (17, 13), (64, 64)] {
        for density in [1, 4, 8, 12, 15, 16] {
            let mask: Vec<u8> = (0..w * h)
                .map(|i| (s_value(&format!("{w}.{density}"), i).rem_euclid(32) / 2 < density) as u8)
                .collect();
            let (labels, areas) = regions::label(&mask, w);
            assert_eq!(labels, flood(&mask, w), "{w}x{h} density {density}");
            for (r, area) in areas.iter().enumerate() {
                assert_eq!(labels.iter().filter(|l| **l == r as u32 + 1).count(), *area as usize);
            }
        }
    }
}

#[test]
fn brute_force_agrees_whatever_the_ties() {
    let (n, side) = (3, 8);
    for levels in [2i64, 3, 7, 40, 1 << 24] {
        for (seed, density) in [(0, 1), (1, 6), (2, 28), (3, 6)] {
            let name = format!("{levels}.{seed}");
            let at = |stream: &str, i| s_value(&format!("{name}.{stream}"), i);
            let masks: Vec<u8> =
                (0..n * side * side).map(|i| (at("mask", i).rem_euclid(64) / 2 < density) as u8).collect();
            // Anomalous pixels lean upwards; values are of both signs and so are the zeros.
            let maps: Vec<f32> = (0..masks.len())
                .map(|i| {
                    let x = (at("map", i) + masks[i] as i64 * (1 << 23)).rem_euclid(1 << 25);
                    (x * levels / (1 << 25) - levels / 2) as f32
                })
                .enumerate()
                .map(|(i, x)| if x == 0.0 && i % 2 == 0 { -0.0 } else { x })
                .collect();
            let mut region = Vec::new();
            for m in masks.chunks_exact(side * side) {
                let last = region.iter().max().copied().unwrap_or(0);
                region.extend(flood(m, side).iter().map(|r| if *r > 0 { r + last } else { 0 }));
            }
            let labels: Vec<bool> = masks.iter().map(|m| *m != 0).collect();
            let want = brute(&maps, &labels, &region);
            let image = image_metrics(&maps, &labels).unwrap();
            for threads in [1, 2] {
                let cpu = Cpu::new(Some(threads)).unwrap();
                let m = pixel_metrics(&cpu, &maps, &masks, n, side, Mode::Exact).unwrap();
                for (what, got, want) in [
                    ("auroc", m.auroc, want[0]),
                    ("ap", m.ap, want[1]),
                    ("f1max", m.f1max, want[2]),
                    ("aupro", m.aupro, want[3]),
                    ("image auroc", image.auroc, want[0]),
                    ("image ap", image.ap, want[1]),
                    ("image f1max", image.f1max, want[2]),
                ] {
                    let err = (got.unwrap() - want).abs();
                    assert!(err <= 1e-12, "{what}, {levels} levels, seed {seed}: {got:?} instead of {want}");
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (n, side) = (7, 32);
    let maps: Vec<f32> = (0..n * side * side).map(|i| s_value("threads.map", i) as f32).collect();
    let masks: Vec<u8> = (0..maps.len()).map(|i| (i / 9 % 7 == 0) as u8).collect();
    for mode in [Mode::Exact, Mode::Official] {
        let of = |t| pixel_metrics(&Cpu::new(Some(t)).unwrap(), &maps, &masks, n, side, mode).unwrap();
        assert!([2, 3, 8].iter().all(|t| of(*t) == of(1)));
    }
}

#[test]
fn a_missing_label_gives_no_number() {
    let cpu = Cpu::new(Some(2)).unwrap();
    for label in [false, true] {
        let m = image_metrics(&[0.1, 0.2], &[label; 2]).unwrap();
        assert_eq!((m.auroc, m.ap, m.f1max), (None, None, None));
        for mode in [Mode::Exact, Mode::Official] {
            let m = pixel_metrics(&cpu, &[0.1, 0.2, 0.3, 0.4], &[label as u8; 4], 1, 2, mode).unwrap();
            assert_eq!((m.auroc, m.ap, m.f1max, m.aupro), (None, None, None, None));
        }
    }
    assert_eq!(image_metrics(&[], &[]).unwrap().auroc, None);
    assert_eq!(pixel_metrics(&cpu, &[], &[], 0, 4, Mode::Exact).unwrap().auroc, None);
}

#[test]
fn a_constant_map_is_a_coin_toss() {
    let cpu = Cpu::new(Some(2)).unwrap();
    let of = |mode| pixel_metrics(&cpu, &[0.5; 4], &[0, 1, 0, 0], 1, 2, mode).unwrap();
    let m = of(Mode::Exact);
    assert_eq!((m.auroc, m.ap), (Some(0.5), Some(0.25)));
    assert!((m.aupro.unwrap() - 0.15).abs() <= 1e-12);
    let m = of(Mode::Official);
    assert_eq!((m.auroc, m.ap, m.aupro), (None, None, None));
    assert!(m.f1max.is_some());
}

#[test]
fn bad_input_is_refused_with_a_sentence() {
    let cpu = Cpu::new(Some(2)).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let e = image_metrics(&[0.0, bad], &[false, true]).unwrap_err();
        assert!(matches!(&e, Error::NotFinite(s) if s.contains("image 1")), "{e}");
        let mut maps = vec![0.0; 2 * 16];
        maps[20] = bad;
        let e = pixel_metrics(&cpu, &maps, &[1; 32], 2, 4, Mode::Exact).unwrap_err();
        assert!(matches!(&e, Error::NotFinite(s) if s.contains("image 1")), "{e}");
    }
    assert!(matches!(image_metrics(&[0.0], &[]), Err(Error::Shape { .. })));
    assert!(matches!(pixel_metrics(&cpu, &[0.0; 4], &[0; 3], 1, 2, Mode::Exact), Err(Error::Shape { .. })));
}
