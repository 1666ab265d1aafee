//! MVTec-AD, and VisA after its official split: `CLASS/{train/good, test/DEFECT, ground_truth/DEFECT}`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Class, Sample, folders, name, pictures, select};
use crate::error::{Error, Result};

/// Whether a folder is one class of this layout.
pub fn is_class(folder: &Path) -> bool {
    folder.join("train/good").is_dir()
}

pub fn open(root: &Path, wanted: &[String], notes: &mut Vec<String>) -> Result<Vec<Class>> {
    let looks_like = |p: &Path| is_class(p) || p.join("train").is_dir() || p.join("test").is_dir();
    let present = if looks_like(root) {
        vec![(name(root), root.to_path_buf())]
    } else {
        folders(root)?.into_iter().filter(|(_, p)| looks_like(p)).collect()
    };
    if present.is_empty() {
        return Err(Error::dataset(root, "there is no CLASS/train/good and no train/good"));
    }
    let chosen = select(root, present, wanted)?;
    chosen.into_iter().map(|(name, folder)| class(root, name, &folder, notes)).collect()
}

fn class(root: &Path, name: String, folder: &Path, notes: &mut Vec<String>) -> Result<Class> {
    if !is_class(folder) {
        return Err(Error::dataset(root, format!("class `{name}` has no train/good")));
    }
    let train = pictures(&folder.join("train/good"))?;
    let mut test = Vec::new();
    let tests = folder.join("test");
    if tests.is_dir() {
        for (kind, at) in folders(&tests)? {
            if kind == "good" {
                test.extend(good(&at)?);
            } else {
                test.extend(defects(root, &name, &kind, &at, &folder.join("ground_truth"), notes)?);
            }
        }
        let loose = pictures(&tests)?.len();
        if loose > 0 {
            notes.push(format!(
                "{name}: {loose} pictures directly in test/ are in no defect's folder, and ignored"
            ));
        }
    } else {
        notes.push(format!("{name}: there is no test folder"));
    }
    Ok(Class { name, train, test, numbered_masks: false })
}

fn good(folder: &Path) -> Result<impl Iterator<Item = Sample>> {
    Ok(pictures(folder)?.into_iter().map(|path| Sample { path, defect: None, mask: None }))
}

/// One defect's pictures, with masks if `ground_truth/DEFECT` exists.
pub fn defects(
    root: &Path,
    class: &str,
    defect: &str,
    folder: &Path,
    ground_truth: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<Sample>> {
    let images = pictures(folder)?;
    let truth = ground_truth.join(defect);
    let masks = if truth.is_dir() {
        let what = format!("{class}/{defect}");
        pair(root, &what, &images, pictures(&truth)?, notes)?.into_iter().map(Some).collect()
    } else {
        if ground_truth.is_dir() && !images.is_empty() {
            notes.push(format!("{class}: there are no masks for `{defect}`"));
        }
        vec![None; images.len()]
    };
    let sample = |(path, mask)| Sample { path, defect: Some(defect.to_string()), mask };
    Ok(images.into_iter().zip(masks).map(sample).collect())
}

/// One mask a picture, in the pictures' order: by stem (`NAME` or `NAME_mask`) if any stem matches, then all must; else
/// by sorted order.
fn pair(
    root: &Path,
    what: &str,
    images: &[PathBuf],
    masks: Vec<PathBuf>,
    notes: &mut Vec<String>,
) -> Result<Vec<PathBuf>> {
    let stem = |p: &Path| p.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if images.len() != masks.len() {
        let what = format!(
            "{what} has {} pictures but {} masks; give one mask a picture",
            images.len(),
            masks.len()
        );
        return Err(Error::dataset(root, what));
    }
    let mut by_stem: BTreeMap<String, &PathBuf> = masks.iter().map(|m| (stem(m), m)).collect();
    let mut unmatched = Vec::new();
    let mut paired = Vec::new();
    for image in images {
        let s = stem(image);
        match by_stem.remove(&s).or_else(|| by_stem.remove(&format!("{s}_mask"))) {
            Some(mask) => paired.push(mask.clone()),
            None => unmatched.push(name(image)),
        }
    }
    if unmatched.is_empty() {
        return Ok(paired);
    }
    if paired.is_empty() {
        notes.push(format!("{what}: no mask has its picture's name; they are paired in sorted order"));
        return Ok(masks);
    }
    let (n, some) = (unmatched.len(), unmatched[..unmatched.len().min(5)].join(", "));
    let what =
        format!("{what}: {n} pictures have no mask of their name (NAME or NAME_mask), others do: {some}");
    Err(Error::dataset(root, what))
}
