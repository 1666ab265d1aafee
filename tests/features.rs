//! The feature store: one set of bits wherever features are kept, and keys that follow content alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use inp_former::Error;
use inp_former::data::image::Limits;
use inp_former::data::views::{VIEWS, views};
use inp_former::eval::heatmap::write_png;
use inp_former::model::{Config, Model, encoder};
use inp_former::runtime::weights::{RawTensor, WeightFile};
use inp_former::runtime::{Cpu, Tensor};
use inp_former::train::Backbone;
use inp_former::train::features::{CacheMode, FeatureStore, Item, load_input};

use crate::models;
use crate::support::{close, cpu, cpus, each_tier, golden_input, random};

/// The tiny encoder on 2 x 2 patches.
fn model() -> Model {
    Model::load(models::file(&Config { resize: 32, crop: 28, trained: false, ..models::config("tiny") }))
        .unwrap()
}

/// The same, to train on.
fn backbone() -> Backbone {
    Backbone::new(&cpu(), model()).unwrap()
}

/// Bytes of one picture's features: two groups, 4 patches, 64 channels.
const ITEM: u64 = 4 * 2 * 4 * 64;
const PLENTY: u64 = 1 << 20;

/// A picture of noise, its name its seed.
fn picture(folder: &Path, name: &str, width: usize, height: usize) -> PathBuf {
    let path = folder.join(name);
    let noise = random(name, &[height, width, 3]).data;
    let rgb: Vec<u8> = noise.iter().map(|x| (x * 127.0 + 128.0) as u8).collect();
    write_png(&path, width, height, &rgb).unwrap();
    path
}

fn pictures(folder: &Path, n: usize) -> Vec<Item> {
    let name = |i: usize| format!("{i}.png");
    (0..n).map(|i| Item { path: picture(folder, &name(i), 20 + 9 * i, 41 - 3 * i), view: None }).collect()
}

/// A store all of whose items are good.
fn store<'a>(
    backbone: &'a Backbone,
    items: &[Item],
    mode: CacheMode,
    workers: Option<usize>,
) -> FeatureStore<'a> {
    let (mut calls, n) = (0, items.len());
    let progress = |done: usize, total: usize| {
        calls += 1;
        assert!(done <= total && total == n);
        Ok(())
    };
    let (store, failed) = FeatureStore::prepare(backbone, items.to_vec(), mode, workers, progress).unwrap();
    assert!(failed.is_empty() && store.len() == n && calls > 0);
    store
}

/// What features are kept under, for one item.
fn key(model: &Model, path: &Path, view: Option<usize>) -> String {
    let item = Item { path: path.to_path_buf(), view };
    store(&Backbone::new(&cpu(), model.clone()).unwrap(), &[item], CacheMode::Off, None).fingerprint()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut v: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    v.sort();
    v
}

fn written(path: &Path, ago: u64) {
    let at = SystemTime::now() - Duration::from_secs(ago);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}

/// The engine's folds only round otherwise; how many threads compute changes nothing.
#[test]
fn features_equal_the_plain_encoders() {
    for name in ["tiny", "tiny518", "mini", "small252"] {
        let (m, x) = (models::model(name), models::config(name).crop);
        let input = golden_input(name, 1, x, x);
        let plain = encoder::forward(&cpu(), &m.encoder, &m.config, &input, &mut |_, _| {}).unwrap();
        let plain: Vec<f32> = plain.groups.into_iter().flat_map(|g| g.data).collect();
        let features =
            |cpu: &Cpu| Backbone::new(cpu, m.clone()).unwrap().encoder().features(&input.data).unwrap();
        for got in each_tier(name, features) {
            close(name, &got, &plain, 3e-6);
        }
    }
    assert!(matches!(backbone().encoder().features(&[0.0; 5]), Err(Error::Usage(_))));
}

#[test]
fn ram_disk_and_off_give_the_same_bits() {
    let (m, dir) = (backbone(), tempfile::tempdir().unwrap());
    let mut items = pictures(dir.path(), 5);
    items.extend([0, 9, 20].map(|v| Item { path: items[1].path.clone(), view: Some(v) }));
    let mut encoder = m.encoder();
    let direct: Vec<Vec<f32>> = items
        .iter()
        .map(|item| {
            let x = load_input(&item.path, &m.config, &Limits::default()).unwrap();
            let x = item.view.map_or_else(|| x.clone(), |v| views(&x)[v].clone());
            encoder.features(&x.data).unwrap()
        })
        .collect();
    let disk = |limit: u64| CacheMode::Disk { folder: dir.path().join(format!("cache/{limit}")), limit };
    let modes = [
        (CacheMode::Ram { limit: PLENTY }, 0),
        (CacheMode::Ram { limit: 3 * ITEM + 1 }, 5),
        (CacheMode::Ram { limit: 0 }, 8),
        (CacheMode::Off, 0),
        (disk(PLENTY), 0),
        (disk(PLENTY), 0),
        (disk(2 * ITEM), 7),
        (disk(10), 8),
    ];
    for (mode, not_kept) in modes {
        for workers in [None, Some(0), Some(1), Some(3)] {
            let what = format!("{mode:?}, {workers:?} workers");
            let mut s = store(&m, &items, mode.clone(), workers);
            assert_eq!(s.not_kept(), not_kept, "{what}");
            for batch in [vec![0, 1, 2, 3, 4, 5, 6, 7], vec![7, 2, 2, 0], vec![4]] {
                let got = s.batch(&batch).unwrap();
                assert_eq!(got.groups.len(), 2);
                for (g, t) in got.groups.iter().enumerate() {
                    assert_eq!(t.shape(), [batch.len(), 4, 64]);
                    for (b, &i) in batch.iter().enumerate() {
                        assert_eq!(t.slab(b), &direct[i][g * 256..][..256], "{what}: item {i}");
                    }
                }
            }
        }
    }
}

#[test]
fn few_shot_items_are_the_views() {
    let (m, dir) = (backbone(), tempfile::tempdir().unwrap());
    let path = picture(dir.path(), "shot.png", 40, 30);
    let items: Vec<Item> = (0..VIEWS).map(|v| Item { path: path.clone(), view: Some(v) }).collect();
    let got = store(&m, &items, CacheMode::Ram { limit: PLENTY }, Some(1))
        .batch(&(0..VIEWS).collect::<Vec<_>>())
        .unwrap();
    let x = views(&load_input(&path, &m.config, &Limits::default()).unwrap());
    let x = Tensor::new(&[VIEWS, 3, 28, 28], x.into_iter().flat_map(|v| v.data).collect());
    let m = model();
    let want = encoder::forward(&cpu(), &m.encoder, &m.config, &x, &mut |_, _| {}).unwrap();
    for (got, want) in got.groups.iter().zip(&want.groups) {
        close("views", &got.data, &want.data, 2e-6);
    }
}

#[test]
fn the_key_follows_content_and_nothing_else() {
    let (m, dir) = (model(), tempfile::tempdir().unwrap());
    let path = picture(dir.path(), "a.png", 33, 21);
    let first = key(&m, &path, None);
    // Another name, another time: the same key.
    let copy = dir.path().join("copy of a.bmp");
    std::fs::copy(&path, &copy).unwrap();
    written(&copy, 86_400);
    assert_eq!(key(&m, &copy, None), first);
    // The trained part and the metadata do not reach the features.
    let mut f = models::file(&Config { resize: 32, crop: 28, ..models::config("tiny") });
    f.metadata.insert("other".into(), "metadata".into());
    assert_eq!(key(&Model::load(f).unwrap(), &path, None), first);

    let mut all = vec![first];
    // The same name with other bytes.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.push(0);
    std::fs::write(&path, bytes).unwrap();
    all.push(key(&m, &path, None));
    all.extend([0, 1].map(|v| key(&m, &path, Some(v))));
    let with = |edit: &dyn Fn(&mut Config)| {
        let mut cfg = Config { resize: 32, crop: 28, trained: false, ..models::config("tiny") };
        edit(&mut cfg);
        key(&Model::load(models::file(&cfg)).unwrap(), &path, None)
    };
    all.push(with(&|c| c.resize = 33));
    all.push(with(&|c| c.crop = 14));
    all.push(with(&|c| c.heads = 4));
    all.push(with(&|c| c.target_layers = vec![1, 2, 3, 5]));
    all.push(with(&|c| c.groups = vec![vec![0], vec![1, 2, 3]]));
    for name in ["encoder.blocks.4.ls2.gamma", "encoder.cls_token", "encoder.patch_embed.proj.bias"] {
        let mut f = models::file(&m.config);
        let mut t = f.tensors[name].to_f32().unwrap();
        t.data[0] += 0.5;
        f.tensors.insert(name.into(), RawTensor::from_f32(&t));
        all.push(key(&Model::load(f).unwrap(), &path, None));
    }
    // The last block is past the last target layer and does not run.
    let mut f = models::file(&m.config);
    f.tensors.insert("encoder.blocks.5.ls2.gamma".into(), RawTensor::from_f32(&Tensor::zeros(&[64])));
    assert_eq!(key(&Model::load(f).unwrap(), &path, None), all[1]);
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_second_run_reads_what_the_first_wrote() {
    let (m, dir) = (backbone(), tempfile::tempdir().unwrap());
    let items = pictures(dir.path(), 3);
    let folder = dir.path().join("features");
    let mode = CacheMode::Disk { folder: folder.clone(), limit: PLENTY };
    let want = store(&m, &items, mode.clone(), Some(1)).batch(&[0, 1, 2]).unwrap().groups;
    let kept = files(&folder);
    assert_eq!(kept.len(), 3);
    kept.iter().for_each(|f| written(f, 1000));
    let times = || kept.iter().map(|f| f.metadata().unwrap().modified().unwrap()).collect::<Vec<_>>();
    let before = times();
    // Under other names nothing is computed again.
    for item in &items {
        std::fs::copy(&item.path, dir.path().join("copy.png")).unwrap();
        let copy = Item { path: dir.path().join("copy.png"), view: None };
        store(&m, &[copy], mode.clone(), None);
    }
    assert_eq!((files(&folder), times()), (kept.clone(), before));
    // A damaged file, and one of another length, are made anew.
    std::fs::write(&kept[0], b"short").unwrap();
    let other = Model::load(models::file(&Config { crop: 14, ..m.config.clone() })).unwrap();
    let elsewhere = dir.path().join("other");
    let other = Backbone::new(&cpu(), other).unwrap();
    store(&other, &items[..1], CacheMode::Disk { folder: elsewhere.clone(), limit: PLENTY }, None);
    std::fs::copy(&files(&elsewhere)[0], &kept[1]).unwrap();
    assert_eq!(store(&m, &items, mode, Some(1)).batch(&[0, 1, 2]).unwrap().groups, want);
}

/// In bf16 features take half of the room, in memory and on disk, and are f32's rounded (and computed in bf16).
#[test]
fn features_in_bf16_take_half_of_the_room() {
    let dir = tempfile::tempdir().unwrap();
    let items = pictures(dir.path(), 4);
    let in_either = |narrow: bool| {
        let cpu = if narrow { cpu().narrowed() } else { cpu() };
        let m = Backbone::new(&cpu, model()).unwrap();
        let folder = dir.path().join(format!("features{narrow}"));
        let disk = CacheMode::Disk { folder: folder.clone(), limit: PLENTY };
        let got = store(&m, &items, disk, None).batch(&[0, 1, 2, 3]).unwrap().groups;
        // Room for two of four pictures in f32.
        let mut ram = store(&m, &items, CacheMode::Ram { limit: 2 * ITEM }, None);
        assert_eq!(ram.not_kept(), if narrow { 0 } else { 2 });
        assert_eq!(ram.batch(&[0, 1, 2, 3]).unwrap().groups, got);
        let data = |f: &PathBuf| {
            let file = WeightFile::read(f).unwrap();
            file.tensors.values().map(|t| t.bytes.len() as u64).sum::<u64>()
        };
        let sizes: Vec<u64> = files(&folder).iter().map(data).collect();
        assert_eq!(sizes, vec![if narrow { ITEM / 2 } else { ITEM }; 4]);
        got
    };
    let (wide, narrow) = (in_either(false), in_either(true));
    for (wide, narrow) in wide.iter().zip(&narrow) {
        assert!(narrow.data.iter().all(|x| half::bf16::from_f32(*x).to_f32() == *x));
        close("features in bf16", &narrow.data, &wide.data, 2e-2);
    }
}

/// Each instruction tier rounds in its own way.
#[test]
fn a_tier_does_not_read_what_another_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let items = pictures(dir.path(), 1);
    let mode = CacheMode::Disk { folder: dir.path().join("features"), limit: PLENTY };
    let mut tiers = std::collections::BTreeSet::new();
    for cpu in cpus() {
        tiers.insert(cpu.tier());
        let m = Backbone::new(&cpu, model()).unwrap();
        let got = store(&m, &items, mode.clone(), None).batch(&[0]).unwrap().groups;
        assert_eq!(got, store(&m, &items, CacheMode::Off, None).batch(&[0]).unwrap().groups);
        assert_eq!(files(&dir.path().join("features")).len(), tiers.len());
    }
}

#[test]
fn a_full_folder_loses_the_oldest() {
    let (m, dir) = (backbone(), tempfile::tempdir().unwrap());
    let items = pictures(dir.path(), 4);
    let folder = dir.path().join("features");
    let mode = CacheMode::Disk { folder: folder.clone(), limit: 2 * (ITEM + 256) + 200 };
    let mut order: Vec<PathBuf> = Vec::new();
    for (n, item) in items.iter().enumerate() {
        let kept = store(&m, std::slice::from_ref(item), mode.clone(), None).len();
        let now = files(&folder);
        assert_eq!((kept, now.len()), (1, (n + 1).min(2)));
        let new = now.iter().find(|f| !order.contains(f)).unwrap().clone();
        written(&new, 1000 - n as u64);
        order.push(new);
        let mut newest = order[order.len().saturating_sub(2)..].to_vec();
        newest.sort();
        assert_eq!(now, newest);
    }
    // Files of others are left alone.
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    store(&m, &items, mode, None);
    assert!(folder.join("notes.txt").exists());
}

#[test]
fn bad_pictures_are_named_and_left_out() {
    let (m, dir) = (backbone(), tempfile::tempdir().unwrap());
    let good = pictures(dir.path(), 3);
    let bad = |name: &str, content: Option<&[u8]>| {
        let path = dir.path().join(name);
        content.iter().for_each(|c| std::fs::write(&path, c).unwrap());
        Item { path, view: None }
    };
    let whole = std::fs::read(&good[0].path).unwrap();
    let bads = [
        bad("none.png", None),
        bad("empty.png", Some(&[])),
        bad("text.png", Some(b"not a picture")),
        bad("cut.png", Some(&whole[..whole.len() / 2])),
        Item { path: dir.path().to_path_buf(), view: None },
    ];
    let mut items = Vec::new();
    items.extend(
        [&bads[0], &good[0], &bads[1], &bads[2], &good[1], &bads[3], &good[2], &bads[4]].map(Item::clone),
    );
    items.extend((0..2).map(|v| Item { view: Some(v), ..bads[2].clone() }));
    let disk = CacheMode::Disk { folder: dir.path().join("features"), limit: PLENTY };
    for mode in [CacheMode::Ram { limit: PLENTY }, disk, CacheMode::Off] {
        let ok = |_, _| Ok(());
        let (mut s, failed) = FeatureStore::prepare(&m, items.clone(), mode.clone(), Some(2), ok).unwrap();
        let paths: Vec<&PathBuf> = failed.iter().map(|(p, _)| p).collect();
        let want: Vec<&PathBuf> = bads.iter().chain([&bads[2]]).map(|i| &i.path).collect();
        assert_eq!(paths, want);
        for (path, e) in &failed {
            assert!(e.to_string().starts_with(&path.display().to_string()), "{e}");
        }
        assert_eq!((s.len(), s.is_empty(), s.not_kept()), (3, false, 0));
        let mut alone = store(&m, &good, mode, None);
        assert_eq!(s.fingerprint(), alone.fingerprint());
        assert_eq!(s.batch(&[2, 0]).unwrap().groups, alone.batch(&[2, 0]).unwrap().groups);
    }
    let (none, failed) =
        FeatureStore::prepare(&m, bads.to_vec(), CacheMode::Off, None, |_, _| Ok(())).unwrap();
    assert!(none.is_empty() && failed.len() == 5);
    // The caller stops it with an error of its own.
    let stop = |_: usize, _: usize| Err(Error::Interrupted("enough".into()));
    let e = FeatureStore::prepare(&m, good, CacheMode::Off, None, stop).err().unwrap();
    assert!(matches!(e, Error::Interrupted(_)));
}

/// What is read again during the training must still be what it was.
#[test]
fn a_picture_that_changes_is_noticed() {
    let (m, dir) = (backbone(), tempfile::tempdir().unwrap());
    let items = pictures(dir.path(), 2);
    let mut s = store(&m, &items, CacheMode::Off, Some(1));
    s.batch(&[0, 1]).unwrap();
    std::fs::copy(&items[1].path, &items[0].path).unwrap();
    let e = s.batch(&[0, 1]).unwrap_err().to_string();
    assert!(e.contains("0.png: this picture changed during the training"), "{e}");
    std::fs::remove_file(&items[1].path).unwrap();
    assert!(s.batch(&[1]).unwrap_err().to_string().contains("1.png: cannot open the picture"));
}
