//! `train`: multi-class, single-class, super-multi-class, few-shot, or a folder of good images.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::{Args, ValueEnum};
use inp_former::data::dataset::{Dataset, Layout};
use inp_former::data::views::VIEWS;
use inp_former::error::IoContext;
use inp_former::model::params::Trained;
use inp_former::model::{Config, inp_former as net};
use inp_former::ops::anomaly_map;
use inp_former::runtime::Cpu;
use inp_former::train::features::{CacheMode, FeatureStore, Item};
use inp_former::train::init::Rng;
use inp_former::train::run::{self, Options, Outcome, Report};
use inp_former::train::{Backbone, checkpoint, step};
use inp_former::{Error, Result};
use serde_json::json;

use super::{Common, DatasetKind, Done};

#[derive(Args)]
pub struct Train {
    /// Data set, or a folder of good images; several for --setting super
    #[arg(long, required = true, value_name = "ROOT", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Layout of the data set
    #[arg(long, default_value = "auto")]
    dataset: DatasetKind,
    /// Only these classes
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    classes: Vec<String>,
    /// One model for all classes, one a class, one for several data sets, or one from a few images a class
    #[arg(long, default_value = "multi")]
    setting: Setting,
    /// Images a class for few-shot (1, 2 and 4 are published); each becomes 22 views
    #[arg(long, value_name = "N")]
    shots: Option<usize>,
    /// File that names the few-shot images, one a line, instead of drawing them
    #[arg(long, value_name = "FILE")]
    shot_list: Option<PathBuf>,
    /// DINOv2 weights in official, timm or Hugging Face naming, a published name, or a model of ours [default: the
    /// small embedded one]
    #[arg(long, value_name = "FILE|NAME")]
    backbone: Option<String>,
    /// Model file to write; a folder for --setting single
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Side that pictures are resized to [default: the backbone's; 448 for a published one]
    #[arg(long, value_name = "PIXELS")]
    resize: Option<usize>,
    /// Side of the centre crop, a multiple of 14 [default: the backbone's; 392 for a published one]
    #[arg(long, value_name = "PIXELS")]
    crop: Option<usize>,
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Iterations to make, instead of epochs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch_size: u16,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// By exact folds, or as the paper writes it, which is slower and what the folds are checked against
    #[arg(long, value_enum, default_value = "folds")]
    path: Form,
    /// Prototypes
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=256))]
    prototypes: u16,
    /// Highest learning rate
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// Decoding threads beside the computing ones [default: the computing ones decode between pictures]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Continue from this checkpoint (for --setting single: any value; finished classes are skipped)
    #[arg(long, value_name = "CKPT")]
    resume: Option<PathBuf>,
    /// Where encoder features are kept
    #[arg(long, default_value = "ram")]
    cache: CacheKind,
    /// Folder of --cache disk [default: inp-former in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Most that the cache may hold, in GB [default: half of the free memory; 20 on disk]
    #[arg(long, value_name = "GB")]
    cache_limit: Option<f64>,
    /// Write loss, learning rate and speed of every iteration (for --setting single: FILE-CLASS.csv each)
    #[arg(long, value_name = "FILE.csv")]
    log: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Debug)]
enum Setting {
    Multi,
    Single,
    Super,
    FewShot,
}

#[derive(ValueEnum, Clone, Copy)]
enum Form {
    Folds,
    Plain,
}

#[derive(ValueEnum, Clone, Copy, PartialEq)]
enum CacheKind {
    Ram,
    Disk,
    Off,
}

/// Set by ctrl-C: the run saves its state and stops. A second ctrl-C ends the program at once.
static STOP: AtomicBool = AtomicBool::new(false);

/// Makes ctrl-C a request instead of the end.
pub fn catch_interrupt() {
    let handler = || {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    // Fails only when a handler is set already, which then is ours.
    let _ = ctrlc::set_handler(handler);
}

impl Train {
    pub fn run(self, common: &Common) -> Result<Done> {
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return Err(Error::usage("--lr must be a positive number"));
        }
        if self.setting != Setting::Super && self.data.len() > 1 {
            return Err(Error::usage("several --data are for --setting super"));
        }
        if self.setting != Setting::FewShot && (self.shots.is_some() || self.shot_list.is_some()) {
            return Err(Error::usage("--shots and --shot-list are for --setting few-shot"));
        }
        let cpu = common.training_cpu()?;
        let mut backbone = common.backbone(self.backbone.as_deref())?;
        backbone.config = backbone.config.clone().with_sizes(self.resize, self.crop)?;
        let backbone = Backbone::new(&cpu, backbone)?;
        let mut classes: Vec<(String, Vec<PathBuf>)> = Vec::new();
        let mut own_folder = true;
        for root in &self.data {
            let data = Dataset::open(root, self.dataset.layout(), &self.classes)?;
            data.notes.iter().for_each(|n| common.note(format!("note: {n}")));
            own_folder &= data.layout == Layout::Folder;
            classes.extend(data.classes.into_iter().map(|c| (c.name, c.train)));
        }
        catch_interrupt();
        let all = |classes: &[(String, Vec<PathBuf>)]| -> Vec<Item> {
            classes.iter().flat_map(|c| &c.1).map(|p| Item { path: p.clone(), view: None }).collect()
        };
        if self.setting == Setting::Single {
            return self.single(common, &cpu, &backbone, &classes, own_folder, all);
        }
        let items = match self.setting {
            Setting::FewShot => few_shot(&classes, self.shots, self.shot_list.as_deref(), self.seed, common)?,
            _ => all(&classes),
        };
        let total: usize = classes.iter().map(|c| c.1.len()).sum();
        common.note(format!("{} classes, {total} good images", classes.len()));
        let (log, resume) = (self.log.clone(), self.resume.clone());
        self.one(common, &cpu, &backbone, items, own_folder, &self.out, log, resume)
    }

    /// One model a class, into the folder `--out`.
    fn single(
        &self,
        common: &Common,
        cpu: &Cpu,
        backbone: &Backbone,
        classes: &[(String, Vec<PathBuf>)],
        own_folder: bool,
        all: impl Fn(&[(String, Vec<PathBuf>)]) -> Vec<Item>,
    ) -> Result<Done> {
        std::fs::create_dir_all(&self.out).at(&self.out, "make the folder of models")?;
        let mut done = Done::All;
        for class in classes {
            let out = self.out.join(format!("{}.safetensors", class.0));
            if self.resume.is_some() && out.exists() {
                common.note(format!("{}: trained already", class.0));
                continue;
            }
            common.note(format!("{}: {} good images", class.0, class.1.len()));
            let ckpt = checkpoint_of(&out);
            let resume = (self.resume.is_some() && ckpt.exists()).then_some(ckpt);
            let items = all(std::slice::from_ref(class));
            let log = self.log.as_ref().map(|log| {
                let stem = log.file_stem().unwrap_or_default().to_string_lossy();
                log.with_file_name(format!("{stem}-{}.csv", class.0))
            });
            if self.one(common, cpu, backbone, items, own_folder, &out, log, resume)? == Done::SomeFailed {
                done = Done::SomeFailed;
            }
        }
        Ok(done)
    }

    #[allow(clippy::too_many_arguments)]
    fn one(
        &self,
        common: &Common,
        cpu: &Cpu,
        backbone: &Backbone,
        items: Vec<Item>,
        own_folder: bool,
        out: &Path,
        log: Option<PathBuf>,
        resume: Option<PathBuf>,
    ) -> Result<Done> {
        let options = Options {
            epochs: self.epochs,
            iterations: self.iterations,
            min_iterations: if own_folder { 1000 } else { 0 },
            short_warmup: own_folder,
            batch_size: self.batch_size.into(),
            lr: self.lr,
            seed: self.seed,
            path: match self.path {
                Form::Folds => step::Path::Folds,
                Form::Plain => step::Path::Plain,
            },
            prototypes: self.prototypes.into(),
            checkpoint: Some(checkpoint_of(out)),
            resume,
        };
        let job = Job {
            items,
            cache: self.cache_mode()?,
            workers: self.workers,
            out,
            log: log.as_deref(),
            options,
        };
        job.run(common, cpu, backbone)
    }

    fn cache_mode(&self) -> Result<CacheMode> {
        let limit = |default: u64| match self.cache_limit {
            None => Ok(default),
            Some(gb) if gb.is_finite() && gb > 0.0 => Ok((gb * 1e9) as u64),
            Some(gb) => Err(Error::usage(format!("--cache-limit {gb}: give a positive number of GB"))),
        };
        Ok(match self.cache {
            CacheKind::Ram => CacheMode::Ram { limit: limit(free_memory() / 2)? },
            CacheKind::Off => CacheMode::Off,
            CacheKind::Disk => {
                let home =
                    |key: &str, below: &str| std::env::var_os(key).map(|d| PathBuf::from(d).join(below));
                let folder = self
                    .cache_dir
                    .clone()
                    .or_else(|| home("XDG_CACHE_HOME", "inp-former"))
                    .or_else(|| home("HOME", ".cache/inp-former"))
                    .ok_or_else(|| {
                        Error::usage("--cache disk: give --cache-dir, no user cache folder is known")
                    })?;
                CacheMode::Disk { folder: folder.join("features"), limit: limit(20_000_000_000)? }
            }
        })
    }
}

/// One training run, from pictures to a model file.
pub struct Job<'a> {
    pub items: Vec<Item>,
    pub cache: CacheMode,
    pub workers: Option<usize>,
    pub out: &'a Path,
    pub log: Option<&'a Path>,
    pub options: Options,
}

impl Job<'_> {
    pub fn run(self, common: &Common, cpu: &Cpu, backbone: &Backbone) -> Result<Done> {
        for path in [Some(self.out), self.log].into_iter().flatten() {
            super::inputs::make_parent(path)?;
            if path.is_dir() {
                return Err(Error::file(path, "this is a folder; name a file in it"));
            }
        }
        let ckpt = self.options.checkpoint.clone().unwrap_or_else(|| checkpoint_of(self.out));
        let same = |other: &PathBuf| other.canonicalize().ok() == ckpt.canonicalize().ok();
        if ckpt.exists() && !self.options.resume.as_ref().is_some_and(same) {
            return Err(Error::file(
                &ckpt,
                "an unfinished run is here; continue it with --resume and this file, or delete it",
            ));
        }
        // Read before the encoder runs, so that a wrong file is said at once.
        let at = self.options.resume.as_deref().map(checkpoint::iteration).transpose()?.unwrap_or(0);
        let bar = common.bar(self.items.len(), "features");
        let (mut store, failed) =
            FeatureStore::prepare(backbone, self.items, self.cache, self.workers, |done, _| {
                bar.set_position(done as u64);
                match STOP.load(Ordering::SeqCst) {
                    true => {
                        Err(Error::Interrupted("stopped before the first iteration; nothing to save".into()))
                    }
                    false => Ok(()),
                }
            })?;
        bar.finish_and_clear();
        failed.iter().for_each(|(_, e)| common.failed(e));
        if store.is_empty() {
            return Err(Error::usage("none of the training images could be read"));
        }
        if store.not_kept() > 0 {
            let (n, all) = (store.not_kept(), store.len());
            common.warn(format!(
                "the features of {n} of {all} images do not fit the cache and are computed at every use; raise \
                 --cache-limit, or use --cache disk where memory is short"
            ));
        }
        let length = self.options.length(store.len())?;
        let bar = common.bar(length.schedule.total as usize, "training");
        let mut log = self.log.map(|p| Log::open(p, at)).transpose()?;
        let start = Instant::now();
        let mut first = None;
        let mut log_error = None;
        let observe = |r: &Report| {
            let first = *first.get_or_insert(r.iteration);
            let rate = ((r.iteration - first + 1) * r.images as u64) as f64 / start.elapsed().as_secs_f64();
            bar.set_position(r.iteration);
            bar.set_message(format!("loss {:.4} lr {:.1e} {rate:.1} images/s", r.loss, r.lr));
            log_error = log.as_mut().and_then(|l| l.write(r, rate).err());
            match STOP.load(Ordering::SeqCst) || log_error.is_some() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let outcome =
            run::train(cpu, &mut store, &self.options, |n| common.note(format!("note: {n}")), observe)?;
        bar.finish_and_clear();
        if let Some(e) = log_error {
            return Err(e);
        }
        match outcome {
            Outcome::Stopped { iteration } => Err(Error::Interrupted(format!(
                "stopped after {iteration} of {} iterations; continue with --resume {}",
                length.schedule.total,
                ckpt.display()
            ))),
            Outcome::Finished(finished) => {
                let (mut config, trained) = *finished;
                let range = map_range(cpu, &config, &trained, &mut store)?;
                config.other.insert("map_range".into(), json!([range.0, range.1]));
                backbone.with_trained(&config, &trained).write(self.out)?;
                if ckpt.exists() {
                    std::fs::remove_file(&ckpt).at(&ckpt, "remove the checkpoint of the finished run")?;
                }
                common.note(format!(
                    "trained in {:.0} s: {}",
                    start.elapsed().as_secs_f64(),
                    self.out.display()
                ));
                Ok(if failed.is_empty() { Done::All } else { Done::SomeFailed })
            }
        }
    }
}

/// Map values that heat maps of this model are drawn between: the median of up to 16 training images' maps, and twice
/// their highest value above it. One scale for every picture, so that pictures can be compared.
fn map_range(cpu: &Cpu, cfg: &Config, trained: &Trained, store: &mut FeatureStore) -> Result<(f32, f32)> {
    let (mut values, n) = (Vec::new(), store.len());
    for i in (0..n).step_by(n.div_ceil(16).max(1)) {
        let features = store.batch(&[i])?;
        let head = net::forward(cpu, trained, cfg, &features, false, &mut |_, _| {})?;
        let native = net::native_maps(cpu, &features, &head)?;
        values.extend(anomaly_map::post(cpu, &native, cfg.side(), cfg.crop)?.gauss.data);
    }
    if values.iter().any(|x| !x.is_finite()) {
        return Err(Error::NotFinite(
            "the trained model's maps are not finite: train again with a lower --lr".into(),
        ));
    }
    let middle = values.len() / 2;
    let (_, &mut median, upper) = values.select_nth_unstable_by(middle, f32::total_cmp);
    let top = upper.iter().copied().fold(median, f32::max);
    Ok((median, median + (2.0 * (top - median)).max(1e-3)))
}

/// `OUT.ckpt`.
pub fn checkpoint_of(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".ckpt");
    name.into()
}

/// Draws or reads the few-shot images; every one becomes its 22 views.
fn few_shot(
    classes: &[(String, Vec<PathBuf>)],
    shots: Option<usize>,
    list: Option<&Path>,
    seed: u64,
    common: &Common,
) -> Result<Vec<Item>> {
    let mut chosen: Vec<PathBuf> = Vec::new();
    if let Some(list) = list {
        let file = File::open(list).at(list, "open the list of shots")?;
        for line in std::io::BufReader::new(file).lines() {
            let line = line.at(list, "read the list of shots")?;
            if !line.trim().is_empty() {
                // Names stand for paths as given, or below the list's folder.
                let path = PathBuf::from(line.trim());
                let beside = list.parent().unwrap_or(Path::new(".")).join(&path);
                chosen.push(if path.exists() || !beside.exists() { path } else { beside });
            }
        }
        if chosen.is_empty() {
            return Err(Error::file(list, "the list names no picture"));
        }
    } else {
        let shots = shots.filter(|n| *n > 0).ok_or_else(|| {
            Error::usage("--setting few-shot needs --shots N (1, 2 or 4 as published) or --shot-list FILE")
        })?;
        let mut rng = Rng(seed ^ 0x5407);
        for (name, images) in classes {
            if images.len() < shots {
                return Err(Error::usage(format!("{name} has {} good images, not {shots}", images.len())));
            }
            let mut images = images.clone();
            rng.shuffle(&mut images);
            images.truncate(shots);
            common.note(format!(
                "{name}: {}",
                images.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
            ));
            chosen.extend(images);
        }
    }
    Ok(chosen.iter().flat_map(|p| (0..VIEWS).map(|v| Item { path: p.clone(), view: Some(v) })).collect())
}

/// The CSV log. A resumed run continues it, without the lines that were made after the checkpoint.
struct Log {
    path: PathBuf,
    file: File,
}

const LOG_HEADER: &str = "iteration,epoch,lr,loss,loss_cos,g_loss,grad_norm,images_per_s";

impl Log {
    /// `at`: iterations made before this run.
    fn open(path: &Path, at: u64) -> Result<Self> {
        let mut text = format!("{LOG_HEADER}\n");
        if at > 0 && path.exists() {
            let old = std::fs::read_to_string(path).at(path, "read the log")?;
            let kept = old
                .lines()
                .skip(1)
                .filter(|l| l.split(',').next().and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n <= at));
            kept.for_each(|l| text += &format!("{l}\n"));
        }
        inp_former::fs::write_atomic(path, text.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).at(path, "open the log")?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    fn write(&mut self, r: &Report, rate: f64) -> Result<()> {
        let line = format!(
            "{},{},{},{},{},{},{},{rate:.3}\n",
            r.iteration, r.epoch, r.lr, r.loss, r.loss_cos, r.g_loss, r.grad_norm
        );
        self.file.write_all(line.as_bytes()).at(&self.path, "write the log")
    }
}

/// Bytes of memory that are free, as Linux tells; 4 GB where nothing tells.
fn free_memory() -> u64 {
    let line = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kb =
        line.lines().find_map(|l| l.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok());
    kb.map_or(4_000_000_000, |kb: u64| kb * 1024)
}
