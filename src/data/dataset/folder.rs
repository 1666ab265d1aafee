//! The user's own pictures: a folder of good ones, or `good/` beside a folder a defect.

use std::path::Path;

use super::{Class, Sample, folders, mvtec, name, pictures, select};
use crate::error::{Error, Result};

/// With defects but no test set of good pictures, every `HELD_OUT`-th good one is tested on instead of trained on.
const HELD_OUT: usize = 5;

pub fn open(root: &Path, wanted: &[String], notes: &mut Vec<String>) -> Result<Vec<Class>> {
    let class = select(root, vec![(name(root), ())], wanted)?.remove(0).0;
    let good = root.join("good");
    let mut train = pictures(if good.is_dir() { &good } else { root })?;
    if train.is_empty() {
        return Err(Error::dataset(
            root,
            "there are no pictures (png, jpg, bmp, tif or webp) directly in it or in good/",
        ));
    }
    let mut test = Vec::new();
    if good.is_dir() {
        let kinds = folders(root)?.into_iter().filter(|(kind, _)| kind != "good" && kind != "ground_truth");
        for (kind, at) in kinds {
            test.extend(mvtec::defects(root, &class, &kind, &at, &root.join("ground_truth"), notes)?);
        }
    }
    if !test.is_empty() && train.len() >= HELD_OUT {
        let (held, kept): (Vec<_>, Vec<_>) =
            train.into_iter().enumerate().partition(|(i, _)| i % HELD_OUT == HELD_OUT - 1);
        notes.push(format!(
            "{class}: {} of {} good pictures are kept for testing",
            held.len(),
            held.len() + kept.len()
        ));
        test.extend(held.into_iter().map(|(_, path)| Sample { path, defect: None, mask: None }));
        train = kept.into_iter().map(|(_, path)| path).collect();
    }
    Ok(vec![Class { name: class, train, test, numbered_masks: false }])
}
