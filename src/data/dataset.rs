//! Data-set layouts: MVTec-AD, VisA, Real-IAD, plain folders. Every listing is sorted, so that the order of pictures
//! does not depend on the file system; hidden files and files that are no pictures are passed over.

mod folder;
mod mvtec;
mod realiad;
mod visa;

use std::path::{Path, PathBuf};

use crate::data::image::is_image;
use crate::error::{Error, IoContext, Result};

/// How a data set lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// `CLASS/{train/good, test/DEFECT, ground_truth/DEFECT}`, or one such class itself.
    Mvtec,
    /// The raw layout through `split_csv/1cls.csv`, or after the official split as MVTec-AD with `test/{good,bad}`.
    Visa,
    /// `realiad_jsons/realiad_jsons/CLASS.json` and `realiad_1024/CLASS/…`.
    RealIad,
    /// Good pictures, or `good/` beside a folder a defect.
    Folder,
}

impl Layout {
    /// Name as the command line takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mvtec => "mvtec",
            Self::Visa => "visa",
            Self::RealIad => "real-iad",
            Self::Folder => "folder",
        }
    }
    /// The layout that `root` has, judged by the names in it.
    pub fn detect(root: &Path) -> Result<Self> {
        let folders = list(root, |p| p.is_dir())?;
        if root.join(visa::CSV).is_file() {
            Ok(Self::Visa)
        } else if root.join("realiad_jsons").is_dir() || root.join("realiad_1024").is_dir() {
            Ok(Self::RealIad)
        } else if mvtec::is_class(root) || folders.iter().any(|f| mvtec::is_class(f)) {
            Ok(Self::Mvtec)
        } else if !pictures(root)?.is_empty() || root.join("good").is_dir() {
            Ok(Self::Folder)
        } else {
            Err(Error::dataset(
                root,
                "no known layout: there are no pictures here, no good/, no CLASS/train/good, no split_csv/1cls.csv \
                 and no realiad_jsons",
            ))
        }
    }
}

/// One test picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Picture file.
    pub path: PathBuf,
    /// Name of the defect; `None` is a good picture.
    pub defect: Option<String>,
    /// Ground truth of a defect, where there is one.
    pub mask: Option<PathBuf>,
}

/// One kind of object: good pictures to train on, pictures to test on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Name, as its folder or list has it.
    pub name: String,
    /// Good pictures, sorted.
    pub train: Vec<PathBuf>,
    /// Test pictures, sorted by path.
    pub test: Vec<Sample>,
    /// Masks hold the number of the defect's kind, as VisA's do, and not 0 and 255: see [`Mask::mark_all_kinds`].
    ///
    /// [`Mask::mark_all_kinds`]: crate::data::image::Mask::mark_all_kinds
    pub numbered_masks: bool,
}

/// A data set's files; nothing is decoded yet.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Folder that was opened.
    pub root: PathBuf,
    /// Layout that was given or found.
    pub layout: Layout,
    /// Sorted by name; never empty, each with at least one training picture.
    pub classes: Vec<Class>,
    /// What a user should know of how the files were read, a sentence each.
    pub notes: Vec<String>,
}

impl Dataset {
    /// Finds the files below `root`. `layout = None` detects it; `classes` names the ones wanted, empty for all.
    ///
    /// Errors ([`Error::Dataset`], or [`Error::File`] for one file) on: no such folder, no pictures, no training
    /// pictures, a class that is not there (those present are named), files named in a list but missing, lists that
    /// cannot be understood, masks that do not pair with their pictures.
    pub fn open(root: &Path, layout: Option<Layout>, classes: &[String]) -> Result<Self> {
        if !root.is_dir() {
            let what = if root.exists() { "this is a file, not a folder" } else { "there is no such folder" };
            return Err(Error::dataset(root, what));
        }
        let layout = layout.map_or_else(|| Layout::detect(root), Ok)?;
        let mut notes = Vec::new();
        let mut found = match layout {
            Layout::Visa if root.join(visa::CSV).is_file() => visa::open(root, classes, &mut notes),
            Layout::Mvtec | Layout::Visa => mvtec::open(root, classes, &mut notes),
            Layout::RealIad => realiad::open(root, classes, &mut notes),
            Layout::Folder => folder::open(root, classes, &mut notes),
        }?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        for class in &mut found {
            class.test.sort_by(|a, b| a.path.cmp(&b.path));
            class.train.sort();
            if class.train.is_empty() {
                return Err(Error::dataset(root, format!("class `{}` has no training pictures", class.name)));
            }
        }
        Ok(Self { root: root.to_path_buf(), layout, classes: found, notes })
    }
}

/// Sorted entries of a folder that are not hidden and that `keep` keeps.
fn list(folder: &Path, keep: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).at(folder, "list the folder")? {
        let entry = entry.at(folder, "list the folder")?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") && keep(&entry.path()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Sorted picture files directly in a folder.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    list(folder, |p| is_image(p) && !p.is_dir())
}

/// Sorted folders directly in a folder, with their names.
fn folders(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    Ok(list(folder, |p| p.is_dir())?.into_iter().map(|p| (name(&p), p)).collect())
}

/// The last part of a path, for people.
fn name(path: &Path) -> String {
    let last = path.file_name().map(|n| n.to_string_lossy().into_owned());
    // A root such as `.` has a name only once it is resolved.
    last.or_else(|| Some(path.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "data".into())
}

/// Of the classes present, those wanted (all if none is named); an unknown one is an error that names those present.
fn select<T>(root: &Path, present: Vec<(String, T)>, wanted: &[String]) -> Result<Vec<(String, T)>> {
    if let Some(unknown) = wanted.iter().find(|w| present.iter().all(|(name, _)| name != *w)) {
        let names: Vec<&str> = present.iter().map(|(name, _)| name.as_str()).collect();
        let what = format!("there is no class `{unknown}`; those present: {}", names.join(", "));
        return Err(Error::dataset(root, what));
    }
    Ok(present.into_iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)).collect())
}

/// A file named by a list, which must be there.
fn listed(root: &Path, path: PathBuf, by: &Path, place: &str) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path);
    }
    let shown = path.strip_prefix(root).unwrap_or(&path).display();
    Err(Error::file(by, format!("{place} names `{shown}`, which is not there")))
}
