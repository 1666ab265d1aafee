//! The demo data set: layout, counts, masks that hold every change, the same bytes on any number of threads, reuse, refusal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use inp_former::data::synthetic::{Plan, Summary, classes, generate, picture};
use inp_former::error::Result;

fn plan() -> Plan {
    Plan { size: 96, train_good: 2, test_good: 1, test_per_defect: 2, seed: 7 }
}

fn generate_on(threads: usize, root: &Path, plan: &Plan) -> Result<Summary> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| generate(root, plan, |_, _| ()))
}

/// Every file under `root`, by its path relative to it.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn layout_counts_and_the_same_bytes_on_any_number_of_threads() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (plan, seen) = (plan(), Mutex::new(Vec::new()));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let summary = pool
        .install(|| generate(a.path(), &plan, |done, total| seen.lock().unwrap().push((done, total))))
        .unwrap();
    generate_on(1, b.path(), &plan).unwrap();
    let (two, one) = (files(a.path()), files(b.path()));
    assert!(two == one, "one and two threads wrote different sets");

    let mut want = vec!["demo.json".to_string()];
    for (class, defects) in classes() {
        want.extend((0..2).map(|i| format!("{class}/train/good/{i:03}.png")));
        want.push(format!("{class}/test/good/000.png"));
        for d in &defects {
            want.extend((0..2).map(|i| format!("{class}/test/{d}/{i:03}.png")));
            want.extend((0..2).map(|i| format!("{class}/ground_truth/{d}/{i:03}_mask.png")));
        }
        assert!((2..=4).contains(&defects.len()), "{class}: {} kinds of defects", defects.len());
    }
    want.sort();
    assert_eq!(two.keys().cloned().collect::<Vec<_>>(), want);

    let (n, defects) = (classes().len(), classes().iter().map(|c| c.1.len()).sum::<usize>());
    assert!(n >= 4);
    assert_eq!((summary.classes.len(), summary.train, summary.test), (n, 2 * n, (n, 2 * defects)));
    assert!(!summary.reused);
    let total = 3 * n + 2 * defects;
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    assert_eq!(seen, (1..=total).map(|i| (i, total)).collect::<Vec<_>>());
}

#[test]
fn masks_are_binary_believable_in_size_and_hold_every_change() {
    let plan = Plan { size: 256, ..plan() };
    for (class, defects) in classes() {
        for defect in defects {
            for index in 0..3 {
                let p = picture(&plan, class, false, Some(defect), index).unwrap();
                let (mut inside, mut changed) = (0usize, 0usize);
                for (x, y, m) in p.mask.enumerate_pixels() {
                    let (m, differs) = (m.0[0], p.image.get_pixel(x, y) != p.clean.get_pixel(x, y));
                    assert!(m == 0 || m == 255, "{class}/{defect} {index}: grey mask");
                    assert!(
                        m == 255 || !differs,
                        "{class}/{defect} {index}: ({x}, {y}) changed outside the mask"
                    );
                    let margin = !(16..240).contains(&x) || !(16..240).contains(&y);
                    assert!(
                        m == 0 || !margin,
                        "{class}/{defect} {index}: ({x}, {y}) lies outside the model's crop"
                    );
                    inside += (m == 255) as usize;
                    changed += (m == 255 && differs) as usize;
                }
                let share = inside as f64 / 65536.0;
                assert!((0.002..=0.05).contains(&share), "{class}/{defect} {index}: {share} of the picture");
                assert!(
                    changed * 10 >= inside * 7,
                    "{class}/{defect} {index}: {changed} of {inside} pixels changed"
                );
            }
        }
    }
}

#[test]
fn files_hold_what_picture_draws_and_pictures_differ() {
    let root = tempfile::tempdir().unwrap();
    let plan = plan();
    generate_on(2, root.path(), &plan).unwrap();
    let open = |rel: &str| image::open(root.path().join(rel)).unwrap();
    let p = picture(&plan, "gear", false, Some("rust"), 1).unwrap();
    assert!(open("gear/test/rust/001.png").into_rgb8() == p.image);
    assert!(open("gear/ground_truth/rust/001_mask.png").into_luma8() == p.mask);
    let good =
        |train, index, seed| picture(&Plan { seed, ..plan.clone() }, "plate", train, None, index).unwrap();
    let first = good(true, 0, 7);
    assert!(first.image == first.clean && first.mask.iter().all(|&m| m == 0));
    for other in [good(true, 1, 7), good(false, 0, 7), good(true, 0, 8)] {
        assert!(first.image != other.image);
    }
    assert!(picture(&plan, "gear", false, Some("dent"), 0).is_err());
    assert!(picture(&plan, "wheel", true, None, 0).is_err());
}

#[test]
fn the_same_plan_reuses_an_interrupted_set_is_finished_anything_else_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (root, plan) = (root.path(), plan());
    generate_on(2, root, &plan).unwrap();
    let before = files(root);
    assert!(generate_on(2, root, &plan).unwrap().reused);
    std::fs::remove_file(root.join("gear/train/good/001.png")).unwrap();
    assert!(!generate_on(2, root, &plan).unwrap().reused);
    assert!(files(root) == before, "the set was not finished as it was");

    let other = Plan { seed: 8, ..plan.clone() };
    let said = generate_on(2, root, &other).unwrap_err().to_string();
    assert!(said.contains("another plan"), "{said}");
    assert!(files(root) == before, "a refused folder was written to");

    let full = tempfile::tempdir().unwrap();
    std::fs::write(full.path().join("notes.txt"), "mine").unwrap();
    let said = generate_on(1, full.path(), &plan).unwrap_err().to_string();
    assert!(said.contains("not empty"), "{said}");
    let said = generate_on(1, &full.path().join("notes.txt"), &plan).unwrap_err().to_string();
    assert!(said.contains("is a file"), "{said}");
    assert!(generate_on(1, full.path(), &Plan { size: 8, ..plan }).is_err());
    assert_eq!(files(full.path()).len(), 1);
}
