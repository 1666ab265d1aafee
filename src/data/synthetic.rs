//! The demo data set: five kinds of machine-made parts, drawn by formula, with defects and exact masks, in MVTec-AD layout.
//!
//! A defective picture is drawn twice, with and without its defect and otherwise from the same random numbers. Where the
//! two differ visibly is the mask; everywhere else the defect-free pixels are kept. So the mask is measured, not guessed.

mod blister;
mod canvas;
mod gear;
mod leather;
mod plate;
mod textile;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use image::{GrayImage, Luma, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};
use canvas::{Exposure, Pose, Rng, Scene, shoot};

/// What to draw; the same plan gives the same bytes on every machine and any number of threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Side of the square pictures in pixels, 64 to 4096.
    pub size: usize,
    /// Good training pictures a class.
    pub train_good: usize,
    /// Good test pictures a class.
    pub test_good: usize,
    /// Test pictures a class and kind of defect.
    pub test_per_defect: usize,
    /// Seed of everything.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { size: 256, train_good: 32, test_good: 8, test_per_defect: 5, seed: 1 }
    }
}

/// What [`generate`] left under its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Names of the classes, in order.
    pub classes: Vec<&'static str>,
    /// Training pictures.
    pub train: usize,
    /// Good and defective test pictures.
    pub test: (usize, usize),
    /// The set was already there, made with the same plan.
    pub reused: bool,
}

/// A picture, its defect-free twin (the same for a good one) and the mask of what differs (0 or 255).
pub struct Picture {
    /// What the camera saw.
    pub image: RgbImage,
    /// The same shot without the defect.
    pub clean: RgbImage,
    /// 255 where `image` and `clean` may differ.
    pub mask: GrayImage,
}

/// A class: how its pictures vary and what goes wrong with it. Lengths are in 1/256 of the picture's side.
struct Class {
    name: &'static str,
    /// Largest shift, turn (degrees) and relative change of size of the part.
    pose: (f32, f32, f32),
    /// Largest relative change of brightness, of one channel against another, and across the picture.
    light: (f32, f32, f32),
    /// Standard deviation of the sensor noise, 1.0 = white.
    noise: f32,
    draw: fn(&mut Rng, Pose, Option<Flaw>) -> Scene,
    defects: &'static [Defect],
}

/// A kind of defect; what `size` and `strength` mean is the scene's business.
struct Defect {
    name: &'static str,
    /// Smallest and largest extent.
    size: (f32, f32),
    /// Smallest and largest contrast, 0 to 1.
    strength: (f32, f32),
}

/// One defect to draw; it has its own random numbers, so that its twin is otherwise the same.
struct Flaw {
    kind: &'static str,
    size: f32,
    strength: f32,
    rng: Rng,
}

const fn defect(name: &'static str, size: (f32, f32), strength: (f32, f32)) -> Defect {
    Defect { name, size, strength }
}

/// Everything there is to tune.
const CLASSES: [Class; 5] = [
    Class {
        name: "blister",
        pose: (1.5, 0.7, 0.008),
        light: (0.05, 0.012, 0.06),
        noise: 0.010,
        draw: blister::draw,
        defects: &[
            defect("broken_capsule", (0.4, 0.6), (1.0, 1.0)),
            defect("burst_pocket", (1.0, 1.0), (1.0, 1.0)),
            defect("wrong_colour", (1.0, 1.0), (0.8, 1.0)),
        ],
    },
    Class {
        name: "gear",
        pose: (1.0, 0.6, 0.004),
        light: (0.05, 0.01, 0.05),
        noise: 0.010,
        draw: gear::draw,
        defects: &[
            defect("broken_tooth", (0.5, 0.8), (1.0, 1.0)),
            defect("gouge", (55.0, 75.0), (0.9, 1.0)),
            defect("rust", (15.0, 21.0), (0.7, 0.9)),
        ],
    },
    Class {
        name: "leather",
        pose: (20.0, 3.0, 0.03),
        light: (0.06, 0.015, 0.08),
        noise: 0.010,
        draw: leather::draw,
        defects: &[
            defect("burn", (13.0, 20.0), (0.85, 1.0)),
            defect("cut", (50.0, 75.0), (1.0, 1.0)),
            defect("glue", (11.0, 18.0), (0.85, 1.0)),
        ],
    },
    Class {
        name: "plate",
        pose: (1.5, 0.7, 0.008),
        light: (0.05, 0.012, 0.07),
        noise: 0.010,
        draw: plate::draw,
        defects: &[
            defect("arc_strike", (16.0, 21.0), (0.9, 1.0)),
            defect("blocked_hole", (1.0, 1.0), (0.9, 1.0)),
            defect("scratch", (60.0, 90.0), (0.9, 1.0)),
            defect("stain", (16.0, 24.0), (0.8, 1.0)),
        ],
    },
    Class {
        name: "textile",
        pose: (20.0, 2.0, 0.02),
        light: (0.06, 0.015, 0.08),
        noise: 0.012,
        draw: textile::draw,
        defects: &[
            defect("broken_thread", (50.0, 80.0), (1.0, 1.0)),
            defect("foreign_fibre", (50.0, 80.0), (0.9, 1.0)),
            defect("hole", (9.0, 14.0), (1.0, 1.0)),
            defect("stain", (16.0, 26.0), (0.6, 0.85)),
        ],
    },
];

/// Changes below this many grey levels in every channel are invisible and are undone.
const VISIBLE: u8 = 8;
/// Gaps in the mask up to twice this many pixels wide are closed.
const CLOSE: i32 = 2;
/// Counts up whenever the pictures of a plan change.
const VERSION: u32 = 2;
const MARKER: &str = "demo.json";

/// The file that says what a folder holds.
#[derive(PartialEq, Serialize, Deserialize)]
struct Marker {
    version: u32,
    plan: Plan,
    complete: bool,
}

/// The names of the classes, each with its kinds of defects.
pub fn classes() -> Vec<(&'static str, Vec<&'static str>)> {
    CLASSES.iter().map(|c| (c.name, c.defects.iter().map(|d| d.name).collect())).collect()
}

/// Draws picture `index` of a class: of the training set if `train`, with the named defect if there is one.
///
/// Errors: a class or defect that [`classes`] does not list.
pub fn picture(plan: &Plan, class: &str, train: bool, defect: Option<&str>, index: usize) -> Result<Picture> {
    let unknown = |what: &str, name: &str| Error::usage(format!("the demo data set has no {what} `{name}`"));
    let ci = CLASSES.iter().position(|c| c.name == class).ok_or_else(|| unknown("class", class))?;
    let defects = CLASSES[ci].defects;
    let di = match defect {
        Some(d) => Some(defects.iter().position(|k| k.name == d).ok_or_else(|| unknown("defect", d))?),
        None => None,
    };
    Ok(draw(plan, ci, train, di, index))
}

fn draw(plan: &Plan, ci: usize, train: bool, di: Option<usize>, index: usize) -> Picture {
    let class = &CLASSES[ci];
    let key = [plan.seed, ci as u64, train as u64, di.map_or(0, |d| d as u64 + 1), index as u64];
    let mut rng = Rng::new(&key);
    let (shift, turn, scale) = class.pose;
    let at = (128.0 + rng.around(shift), 128.0 + rng.around(shift));
    let pose = Pose::new(at, rng.around(turn.to_radians()), 1.0 + rng.around(scale));
    let (level, tint, slope) = class.light;
    let gain = 1.0 + rng.around(level);
    let exposure = Exposure {
        gain: std::array::from_fn(|_| gain * (1.0 + rng.around(tint))),
        slope: (rng.around(slope), rng.around(slope)),
        noise: class.noise,
        seed: rng.seed(),
    };
    let shot = |flaw| shoot(plan.size, &(class.draw)(&mut rng.clone(), pose, flaw), &exposure);
    let clean = shot(None);
    let Some(defect) = di.map(|d| &class.defects[d]) else {
        let mask = GrayImage::new(clean.width(), clean.height());
        return Picture { image: clean.clone(), clean, mask };
    };
    let mut own = Rng::new(&[key[0], key[1], key[2], key[3], key[4], 1]);
    let size = own.range(defect.size.0, defect.size.1);
    let strength = own.range(defect.strength.0, defect.strength.1);
    let mut image = shot(Some(Flaw { kind: defect.name, size, strength, rng: own }));
    let mask = changed(&image, &clean);
    for (x, y, p) in image.enumerate_pixels_mut() {
        if mask.get_pixel(x, y).0[0] == 0 {
            *p = *clean.get_pixel(x, y);
        }
    }
    Picture { image, clean, mask }
}

/// Where two pictures differ visibly, small gaps closed (dilated, then eroded).
fn changed(a: &RgbImage, b: &RgbImage) -> GrayImage {
    let (w, h) = a.dimensions();
    let differs = |x, y| {
        let (p, q) = (a.get_pixel(x, y).0, b.get_pixel(x, y).0);
        (0..3).any(|k| p[k].abs_diff(q[k]) >= VISIBLE)
    };
    let raw = GrayImage::from_fn(w, h, |x, y| Luma([255 * differs(x, y) as u8]));
    let near = |m: &GrayImage, x: u32, y: u32, value: u8| {
        let span =
            |c: u32, n: u32| (c as i32 - CLOSE).max(0) as u32..=(c as i32 + CLOSE).min(n as i32 - 1) as u32;
        span(y, h).any(|v| span(x, w).any(|u| m.get_pixel(u, v).0[0] == value))
    };
    let wide = GrayImage::from_fn(w, h, |x, y| Luma([255 * near(&raw, x, y, 255) as u8]));
    GrayImage::from_fn(w, h, |x, y| Luma([255 * !near(&wide, x, y, 0) as u8]))
}

/// One picture of the set and where its files go, relative to the root.
struct Job {
    class: usize,
    train: bool,
    defect: Option<usize>,
    index: usize,
}

impl Job {
    fn files(&self) -> (PathBuf, Option<PathBuf>) {
        let (class, i) = (&CLASSES[self.class], self.index);
        let root = Path::new(class.name);
        match self.defect {
            None => (
                root.join(if self.train { "train/good" } else { "test/good" }).join(format!("{i:03}.png")),
                None,
            ),
            Some(d) => {
                let kind = class.defects[d].name;
                let mask = root.join("ground_truth").join(kind).join(format!("{i:03}_mask.png"));
                (root.join("test").join(kind).join(format!("{i:03}.png")), Some(mask))
            }
        }
    }
}

fn jobs(plan: &Plan) -> Vec<Job> {
    let mut v = Vec::new();
    for (class, c) in CLASSES.iter().enumerate() {
        v.extend((0..plan.train_good).map(|index| Job { class, train: true, defect: None, index }));
        v.extend((0..plan.test_good).map(|index| Job { class, train: false, defect: None, index }));
        for d in 0..c.defects.len() {
            v.extend((0..plan.test_per_defect).map(|index| Job {
                class,
                train: false,
                defect: Some(d),
                index,
            }));
        }
    }
    v
}

/// Writes the set under `root` (created if need be) on rayon's current threads; `progress(done, total)` counts pictures.
///
/// A complete set of the same plan is left as it is; an interrupted one is finished. Errors: a plan that makes no sense,
/// a folder that holds anything else, a file that cannot be written.
pub fn generate(root: &Path, plan: &Plan, progress: impl Fn(usize, usize) + Sync) -> Result<Summary> {
    if !(64..=4096).contains(&plan.size) || plan.train_good == 0 {
        return Err(Error::usage(
            "a demo data set needs pictures of 64 to 4096 pixels and a training picture a class",
        ));
    }
    let jobs = jobs(plan);
    let count = |f: fn(&Job) -> bool| jobs.iter().filter(|j| f(j)).count();
    let summary = Summary {
        classes: CLASSES.iter().map(|c| c.name).collect(),
        train: count(|j| j.train),
        test: (count(|j| !j.train && j.defect.is_none()), count(|j| j.defect.is_some())),
        reused: true,
    };
    let there = |p: &Path| root.join(p).is_file();
    if claim(root, plan)?
        && jobs.iter().map(Job::files).all(|(p, m)| there(&p) && m.is_none_or(|m| there(&m)))
    {
        return Ok(summary);
    }
    mark(root, plan, false)?;
    let done = AtomicUsize::new(0);
    jobs.par_iter().try_for_each(|job| {
        let picture = draw(plan, job.class, job.train, job.defect, job.index);
        let (path, mask) = job.files();
        save(&root.join(path), |p| picture.image.save(p))?;
        if let Some(mask) = mask {
            save(&root.join(mask), |p| picture.mask.save(p))?;
        }
        progress(done.fetch_add(1, Relaxed) + 1, jobs.len());
        Ok(())
    })?;
    mark(root, plan, true)?;
    Ok(Summary { reused: false, ..summary })
}

/// Makes sure that `root` is ours to write; true if it holds a complete set of this plan.
fn claim(root: &Path, plan: &Plan) -> Result<bool> {
    if root.exists() && !root.is_dir() {
        return Err(Error::dataset(root, "is a file; the demo data set needs a folder"));
    }
    std::fs::create_dir_all(root).at(root, "create the folder")?;
    let path = root.join(MARKER);
    if !path.exists() {
        let used = std::fs::read_dir(root).at(root, "list the folder")?.next().is_some();
        let what = "the folder is not empty and holds no demo data set; name an empty or a new one";
        return if used { Err(Error::dataset(root, what)) } else { Ok(false) };
    }
    let text = std::fs::read_to_string(&path).at(&path, "read")?;
    let found: Marker = serde_json::from_str(&text).map_err(|e| {
        Error::file(
            &path,
            format!("does not describe a demo data set ({e}); delete the folder or name another"),
        )
    })?;
    if found.plan != *plan || found.version != VERSION {
        let what =
            "holds a demo data set made with another plan or version; delete the folder or name another";
        return Err(Error::dataset(root, what));
    }
    Ok(found.complete)
}

/// Writes the marker in one piece.
fn mark(root: &Path, plan: &Plan, complete: bool) -> Result<()> {
    let (path, part) = (root.join(MARKER), root.join("demo.json.part"));
    let marker = Marker { version: VERSION, plan: plan.clone(), complete };
    let text = serde_json::to_string_pretty(&marker).map_err(|e| Error::file(&path, e.to_string()))?;
    std::fs::write(&part, text + "\n").at(&part, "write")?;
    std::fs::rename(&part, &path).at(&path, "write")
}

fn save(path: &Path, write: impl Fn(&Path) -> image::ImageResult<()>) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).at(folder, "create the folder")?;
    }
    write(path).map_err(|e| Error::file(path, format!("cannot write the picture: {e}")))
}
