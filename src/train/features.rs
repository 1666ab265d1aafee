//! Encoder features of the training pictures, computed once and kept: in memory, on disk, or not at all.
//!
//! The encoder is frozen and the data deterministic, so a picture's features never change. The key of a kept feature is
//! a hash of the file's bytes, the encoder's weights, the preprocessing, the way of computing and the few-shot view;
//! never a name or a time stamp. The engine's encoder computes them: up to rounding (a few 1e-6 of the largest feature)
//! what the plain one gives, and what the model will be scored with. A training in bf16 rounds them to bf16, kept or not.

mod disk;

use std::path::{Path, PathBuf};

use crate::data::image::{self, Limits};
use crate::data::{prefetch, views};
use crate::engine::Encoder;
use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::encoder::Features;
use crate::ops::preprocess;
use crate::runtime::Tensor;
use crate::runtime::weights::{Dtype, RawTensor};
use crate::train::Backbone;
use crate::train::features::disk::Disk;

/// One training sample: a picture, or one of its 22 few-shot views.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Picture file.
    pub path: PathBuf,
    /// One of `views::views`; `None` is the picture itself.
    pub view: Option<usize>,
}

/// Where features are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum CacheMode {
    /// In memory; what does not fit is computed again every time.
    Ram {
        /// Most that may be kept, in bytes.
        limit: u64,
    },
    /// In files; the oldest go first.
    Disk {
        /// Made if it is not there.
        folder: PathBuf,
        /// Most that the folder may hold, in bytes.
        limit: u64,
    },
    /// Nowhere: the encoder runs at every step.
    Off,
}

/// The pixels of one picture as the encoder takes them: `(3, X, X)`.
pub fn load_input(path: &Path, cfg: &Config, limits: &Limits) -> Result<Tensor<f32>> {
    input_of(path, &image::read(path, limits)?, cfg, limits)
}

fn input_of(path: &Path, bytes: &[u8], cfg: &Config, limits: &Limits) -> Result<Tensor<f32>> {
    let picture = image::decode_bytes(path, bytes, limits)?;
    let crop = picture.crop(cfg.resize, cfg.crop)?;
    Ok(preprocess::normalise(&crop, cfg.crop, cfg.crop))
}

/// Features of every item, on demand.
pub struct FeatureStore<'a> {
    backbone: &'a Backbone,
    encoder: Encoder,
    items: Vec<Item>,
    keep: Keep,
    workers: Option<usize>,
    limits: Limits,
    ram: Vec<Option<RawTensor>>,
    keys: Vec<Option<String>>,
}

/// The open cache of a [`CacheMode`].
enum Keep {
    Ram { left: u64 },
    Disk(Disk),
    Off,
}

impl<'a> FeatureStore<'a> {
    /// Decodes every item once, encodes it unless the mode is `Off`, and drops the items that cannot be read:
    /// they are returned with their errors. `progress(done, total)` is called as items are finished.
    pub fn prepare(
        backbone: &'a Backbone,
        items: Vec<Item>,
        mode: CacheMode,
        workers: Option<usize>,
        mut progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<(Self, Vec<(PathBuf, Error)>)> {
        let off = mode == CacheMode::Off;
        let keep = match mode {
            CacheMode::Ram { limit } => Keep::Ram { left: limit },
            CacheMode::Disk { folder, limit } => Keep::Disk(Disk::open(&folder, limit, backbone.cpu.tier())?),
            CacheMode::Off => Keep::Off,
        };
        let n = items.len();
        let mut store = Self {
            backbone,
            encoder: backbone.encoder(),
            ram: vec![None; n],
            keys: vec![None; n],
            items,
            keep,
            workers,
            limits: Limits::default(),
        };
        let mut failed: Vec<(PathBuf, Error)> = Vec::new();
        let mut bad = vec![false; n];
        // The views of one picture stand side by side: decode it once for all of them.
        let mut pictures: Vec<(PathBuf, Vec<usize>)> = Vec::new();
        for (i, item) in store.items.iter().enumerate() {
            match pictures.last_mut() {
                Some((path, list)) if *path == item.path && item.view.is_some() => list.push(i),
                _ => pictures.push((item.path.clone(), vec![i])),
            }
        }
        let (cfg, limits) = (&backbone.config, store.limits);
        let views_of: Vec<Vec<Option<usize>>> =
            pictures.iter().map(|(_, l)| l.iter().map(|&i| store.items[i].view).collect()).collect();
        let read = |_: usize, (path, list): (PathBuf, Vec<usize>)| {
            let bytes = image::read(&path, &limits);
            (path, list, bytes)
        };
        let load = |p: usize, (path, list, bytes): (PathBuf, Vec<usize>, Result<Vec<u8>>)| {
            let loaded = bytes.and_then(|bytes| {
                let keys: Vec<String> =
                    views_of[p].iter().map(|v| feature_key(&bytes, backbone, *v)).collect();
                let x = input_of(&path, &bytes, cfg, &limits)?;
                Ok((keys, if off { Vec::new() } else { select_views(&x, &views_of[p]) }))
            });
            (path, list, loaded)
        };
        let mut done = 0;
        prefetch::staged(&backbone.cpu, pictures, workers, read, load, |_, (path, list, loaded)| {
            done += list.len();
            match loaded {
                Err(e) => {
                    list.iter().for_each(|&i| bad[i] = true);
                    failed.push((path, e));
                }
                Ok((keys, inputs)) => {
                    for (&i, key) in list.iter().zip(keys) {
                        store.keys[i] = Some(key);
                    }
                    for (&i, x) in list.iter().zip(inputs) {
                        if store.will_keep(i) {
                            store.encode(i, &x)?;
                        }
                    }
                }
            }
            progress(done, n)
        })?;
        let good: Vec<usize> = (0..n).filter(|&i| !bad[i]).collect();
        store.items = good.iter().map(|&i| store.items[i].clone()).collect();
        store.ram = good.iter().map(|&i| store.ram[i].take()).collect();
        store.keys = good.iter().map(|&i| store.keys[i].take()).collect();
        Ok((store, failed))
    }

    /// Configuration of the encoder.
    pub fn config(&self) -> &Config {
        &self.backbone.config
    }
    /// Number of items that can be used.
    pub fn len(&self) -> usize {
        self.items.len()
    }
    /// Whether no item can be used.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
    /// Items whose features are not kept although the mode asks for it.
    pub fn not_kept(&self) -> usize {
        match &self.keep {
            Keep::Ram { .. } => self.ram.iter().filter(|f| f.is_none()).count(),
            Keep::Disk(disk) => self.keys.iter().flatten().filter(|k| !disk.has(k)).count(),
            Keep::Off => 0,
        }
    }
    /// Hash of everything that the features depend on, in order.
    pub fn fingerprint(&self) -> String {
        let mut h = blake3::Hasher::new();
        self.keys.iter().flatten().for_each(|k| {
            h.update(k.as_bytes());
        });
        h.finalize().to_hex().to_string()
    }

    /// Features of the items `batch`, in that order: (B, N, C) for each group.
    pub fn batch(&mut self, batch: &[usize]) -> Result<Features> {
        let mut rows: Vec<Option<RawTensor>> =
            batch.iter().map(|&i| if self.ram[i].is_some() { None } else { self.on_disk(i) }).collect();
        let missing: Vec<usize> =
            (0..batch.len()).filter(|&b| rows[b].is_none() && self.ram[batch[b]].is_none()).collect();
        let jobs: Vec<usize> = missing.iter().map(|&b| batch[b]).collect();
        let (backbone, limits, items, keys) = (self.backbone, &self.limits, &self.items, &self.keys);
        let cfg = &backbone.config;
        let read = |_: usize, i: usize| (i, image::read(&items[i].path, limits));
        let load = |_: usize, (i, bytes): (usize, Result<Vec<u8>>)| {
            let Item { path, view } = &items[i];
            let bytes = bytes?;
            if keys[i].as_ref() != Some(&feature_key(&bytes, backbone, *view)) {
                return Err(Error::file(path, "this picture changed during the training; start again"));
            }
            let x = input_of(path, &bytes, cfg, limits)?;
            Ok(select_views(&x, &[*view]).remove(0))
        };
        let mut found = Vec::new();
        prefetch::staged(&backbone.cpu, jobs, self.workers, read, load, |k, x| {
            found.push((missing[k], x?));
            Ok(())
        })?;
        for (b, x) in found {
            let f = self.features(&x)?;
            self.keep_on_disk(batch[b], &f)?;
            rows[b] = Some(f);
        }
        let b = batch.len();
        let (n, groups) = (cfg.side() * cfg.side(), cfg.groups.len());
        let size = n * cfg.channels;
        let mut all = vec![Vec::with_capacity(b * size); groups];
        let kept = batch.iter().map(|&i| self.ram[i].as_ref());
        for row in kept.zip(&rows).filter_map(|(kept, row)| kept.or(row.as_ref())) {
            let row = row.to_f32()?.data;
            all.iter_mut().zip(row.chunks_exact(size)).for_each(|(t, g)| t.extend_from_slice(g));
        }
        let group = |t| Tensor::new(&[b, n, cfg.channels], t);
        Ok(Features { groups: all.into_iter().map(group).collect() })
    }

    /// Runs the encoder.
    fn features(&mut self, x: &Tensor<f32>) -> Result<RawTensor> {
        let f = self.encoder.features(&x.data)?;
        let f = Tensor::new(&[f.len()], f);
        Ok(match self.backbone.cpu.is_narrow() {
            true => RawTensor::from_f32_rounded(&f),
            false => RawTensor::from_f32(&f),
        })
    }

    /// Numbers in one item's features.
    fn item_len(&self) -> usize {
        let cfg = &self.backbone.config;
        cfg.groups.len() * cfg.side() * cfg.side() * cfg.channels
    }

    /// Whether an item is to be encoded now and kept; sets aside the memory it needs.
    fn will_keep(&mut self, i: usize) -> bool {
        let need = (self.dtype().size() * self.item_len()) as u64;
        if let Keep::Ram { left } = &mut self.keep {
            let fits = need <= *left;
            *left -= if fits { need } else { 0 };
            return fits;
        }
        matches!(self.keep, Keep::Disk(_)) && self.on_disk(i).is_none()
    }

    /// Encodes an item and keeps it.
    fn encode(&mut self, i: usize, x: &Tensor<f32>) -> Result<()> {
        let f = self.features(x)?;
        if let Keep::Ram { .. } = self.keep {
            self.ram[i] = Some(f);
            return Ok(());
        }
        self.keep_on_disk(i, &f)
    }

    fn dtype(&self) -> Dtype {
        if self.backbone.cpu.is_narrow() { Dtype::Bf16 } else { Dtype::F32 }
    }

    fn on_disk(&self, i: usize) -> Option<RawTensor> {
        let Keep::Disk(disk) = &self.keep else { return None };
        disk.read(self.keys[i].as_ref()?, self.dtype(), self.item_len())
    }

    fn keep_on_disk(&mut self, i: usize, f: &RawTensor) -> Result<()> {
        match (&mut self.keep, &self.keys[i]) {
            (Keep::Disk(disk), Some(key)) => disk.write(key, f),
            _ => Ok(()),
        }
    }
}

/// The asked views of one input; `None` is the picture itself.
fn select_views(x: &Tensor<f32>, wanted: &[Option<usize>]) -> Vec<Tensor<f32>> {
    if wanted.iter().all(|v| v.is_none()) {
        return wanted.iter().map(|_| x.clone()).collect();
    }
    let all = views::views(x);
    wanted.iter().map(|v| v.map_or_else(|| x.clone(), |v| all[v].clone())).collect()
}

fn feature_key(bytes: &[u8], backbone: &Backbone, view: Option<usize>) -> String {
    let cfg = &backbone.config;
    let mut h = blake3::Hasher::new();
    h.update(blake3::hash(bytes).as_bytes());
    h.update(&backbone.hash);
    // The number stands for the bits: it changes whenever the engine computes others.
    let how = format!(
        "v2 engine {} heads {} targets {:?} groups {:?} resize {} crop {} view {view:?}",
        if backbone.cpu.is_narrow() { "bf16" } else { "f32" },
        cfg.heads,
        cfg.target_layers,
        cfg.groups,
        cfg.resize,
        cfg.crop
    );
    h.update(how.as_bytes());
    h.finalize().to_hex().to_string()
}
