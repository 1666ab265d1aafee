//! Encoder features of the training pictures, computed once and kept: in memory, on disk, or not at all.
//!
//! The encoder is frozen and the data deterministic, so a picture's features never change. The key of a kept feature is
//! a hash of the file's bytes, the encoder's weights, the preprocessing, the precision and the few-shot view; never a
//! name or a time stamp.

mod disk;

use std::path::{Path, PathBuf};

use crate::data::image::{self, Limits};
use crate::data::{prefetch, views};
use crate::error::{Error, Result};
use crate::model::encoder::{self, Features};
use crate::model::{Config, Model};
use crate::ops::preprocess;
use crate::runtime::{Cpu, Tensor};
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
    cpu: &'a Cpu,
    model: &'a Model,
    items: Vec<Item>,
    keep: Keep,
    workers: usize,
    limits: Limits,
    ram: Vec<Option<Vec<f32>>>,
    /// Hash of the encoder.
    encoder: [u8; 32],
    keys: Vec<Option<String>>,
}

/// The open cache of a [`CacheMode`].
enum Keep {
    Ram { left: u64 },
    Disk(Disk),
    Off,
}

/// Pictures encoded together: enough for every thread to have work, small enough to stay in cache.
const ENCODE_BATCH: usize = 4;

impl<'a> FeatureStore<'a> {
    /// Decodes every item once, encodes it unless the mode is `Off`, and drops the items that cannot be read:
    /// they are returned with their errors. `progress(done, total)` is called as items are finished.
    pub fn prepare(
        cpu: &'a Cpu,
        model: &'a Model,
        items: Vec<Item>,
        mode: CacheMode,
        workers: usize,
        mut progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<(Self, Vec<(PathBuf, Error)>)> {
        let off = mode == CacheMode::Off;
        let keep = match mode {
            CacheMode::Ram { limit } => Keep::Ram { left: limit },
            CacheMode::Disk { folder, limit } => Keep::Disk(Disk::open(&folder, limit, cpu.tier())?),
            CacheMode::Off => Keep::Off,
        };
        let n = items.len();
        let mut store = Self {
            cpu,
            model,
            ram: vec![None; n],
            keys: vec![None; n],
            encoder: model.encoder_hash(),
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
        let (cfg, limits, encoder) = (&model.config, store.limits, store.encoder);
        let views_of: Vec<Vec<Option<usize>>> =
            pictures.iter().map(|(_, l)| l.iter().map(|&i| store.items[i].view).collect()).collect();
        let load = |p: usize, (path, list): (PathBuf, Vec<usize>)| {
            let loaded = image::read(&path, &limits).and_then(|bytes| {
                let keys: Vec<String> =
                    views_of[p].iter().map(|v| feature_key(&bytes, &encoder, cfg, *v)).collect();
                let x = input_of(&path, &bytes, cfg, &limits)?;
                Ok((keys, if off { Vec::new() } else { select_views(&x, &views_of[p]) }))
            });
            (path, list, loaded)
        };
        let mut done = 0;
        let mut waiting: Vec<(usize, Tensor<f32>)> = Vec::new();
        prefetch::ordered(pictures, workers, 2 * workers + ENCODE_BATCH, load, |_, (path, list, loaded)| {
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
                            waiting.push((i, x));
                        }
                        if waiting.len() == ENCODE_BATCH {
                            store.encode(&mut waiting)?;
                        }
                    }
                }
            }
            progress(done, n)
        })?;
        store.encode(&mut waiting)?;
        let good: Vec<usize> = (0..n).filter(|&i| !bad[i]).collect();
        store.items = good.iter().map(|&i| store.items[i].clone()).collect();
        store.ram = good.iter().map(|&i| store.ram[i].take()).collect();
        store.keys = good.iter().map(|&i| store.keys[i].take()).collect();
        Ok((store, failed))
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
        let mut rows: Vec<Option<Vec<f32>>> =
            batch.iter().map(|&i| if self.ram[i].is_some() { None } else { self.on_disk(i) }).collect();
        let missing: Vec<usize> =
            (0..batch.len()).filter(|&b| rows[b].is_none() && self.ram[batch[b]].is_none()).collect();
        let jobs: Vec<usize> = missing.iter().map(|&b| batch[b]).collect();
        let (cfg, limits, encoder) = (&self.model.config, &self.limits, &self.encoder);
        let (items, keys) = (&self.items, &self.keys);
        let load = |_: usize, i: usize| {
            let Item { path, view } = &items[i];
            let bytes = image::read(path, limits)?;
            if keys[i].as_ref() != Some(&feature_key(&bytes, encoder, cfg, *view)) {
                return Err(Error::file(path, "this picture changed during the training; start again"));
            }
            let x = input_of(path, &bytes, cfg, limits)?;
            Ok(select_views(&x, &[*view]).remove(0))
        };
        let mut found = Vec::new();
        prefetch::ordered(jobs, self.workers, self.workers + 1, load, |k, x| {
            found.push((missing[k], x?));
            Ok(())
        })?;
        for (b, x) in found {
            let f = encode(self.cpu, self.model, &[&x])?.remove(0);
            self.keep_on_disk(batch[b], &f)?;
            rows[b] = Some(f);
        }
        let (cfg, b) = (&self.model.config, batch.len());
        let (n, groups) = (cfg.side() * cfg.side(), cfg.groups.len());
        let size = n * cfg.channels;
        let group = |g: usize| {
            let mut t = Vec::with_capacity(b * size);
            let kept = batch.iter().map(|&i| self.ram[i].as_deref());
            for row in kept.zip(&rows).filter_map(|(kept, row)| kept.or(row.as_deref())) {
                t.extend_from_slice(&row[g * size..(g + 1) * size]);
            }
            Tensor::new(&[b, n, cfg.channels], t)
        };
        Ok(Features { groups: (0..groups).map(group).collect() })
    }

    /// Numbers in one item's features.
    fn item_len(&self) -> usize {
        let cfg = &self.model.config;
        cfg.groups.len() * cfg.side() * cfg.side() * cfg.channels
    }

    /// Whether an item is to be encoded now and kept; sets aside the memory it needs.
    fn will_keep(&mut self, i: usize) -> bool {
        let need = 4 * self.item_len() as u64;
        if let Keep::Ram { left } = &mut self.keep {
            let fits = need <= *left;
            *left -= if fits { need } else { 0 };
            return fits;
        }
        matches!(self.keep, Keep::Disk(_)) && self.on_disk(i).is_none()
    }

    /// Encodes and keeps what waits.
    fn encode(&mut self, waiting: &mut Vec<(usize, Tensor<f32>)>) -> Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        let inputs: Vec<&Tensor<f32>> = waiting.iter().map(|(_, x)| x).collect();
        let features = encode(self.cpu, self.model, &inputs)?;
        for ((i, _), f) in waiting.drain(..).zip(features) {
            if let Keep::Ram { .. } = self.keep {
                self.ram[i] = Some(f);
            } else {
                self.keep_on_disk(i, &f)?;
            }
        }
        Ok(())
    }

    fn on_disk(&self, i: usize) -> Option<Vec<f32>> {
        let Keep::Disk(disk) = &self.keep else { return None };
        disk.read(self.keys[i].as_ref()?, self.item_len())
    }

    fn keep_on_disk(&mut self, i: usize, f: &[f32]) -> Result<()> {
        match (&mut self.keep, &self.keys[i]) {
            (Keep::Disk(disk), Some(key)) => disk.write(key, f),
            _ => Ok(()),
        }
    }
}

/// Inputs `(3, X, X)` → each one's features, groups one after the other.
fn encode(cpu: &Cpu, model: &Model, inputs: &[&Tensor<f32>]) -> Result<Vec<Vec<f32>>> {
    let [c, h, w] = inputs[0].shape() else { unreachable!("inputs are (3, X, X)") };
    let data = inputs.iter().flat_map(|x| x.data.iter().copied()).collect();
    let img = Tensor::new(&[inputs.len(), *c, *h, *w], data);
    let f = encoder::forward(cpu, &model.encoder, &model.config, &img, &mut |_, _| {})?;
    Ok((0..inputs.len()).map(|b| f.groups.iter().flat_map(|g| g.slab(b).iter().copied()).collect()).collect())
}

/// The asked views of one input; `None` is the picture itself.
fn select_views(x: &Tensor<f32>, wanted: &[Option<usize>]) -> Vec<Tensor<f32>> {
    if wanted.iter().all(|v| v.is_none()) {
        return wanted.iter().map(|_| x.clone()).collect();
    }
    let all = views::views(x);
    wanted.iter().map(|v| v.map_or_else(|| x.clone(), |v| all[v].clone())).collect()
}

fn feature_key(bytes: &[u8], encoder: &[u8; 32], cfg: &Config, view: Option<usize>) -> String {
    let mut h = blake3::Hasher::new();
    h.update(blake3::hash(bytes).as_bytes());
    h.update(encoder);
    let how = format!(
        "v1 f32 heads {} targets {:?} groups {:?} resize {} crop {} view {view:?}",
        cfg.heads, cfg.target_layers, cfg.groups, cfg.resize, cfg.crop
    );
    h.update(how.as_bytes());
    h.finalize().to_hex().to_string()
}
