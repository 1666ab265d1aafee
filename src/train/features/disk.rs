//! A folder of feature files of bounded size: the oldest files make room for new ones.

use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};
use crate::runtime::Tier;
use crate::runtime::weights::{Dtype, RawTensor, WeightFile};

/// Metadata key of the [`checksum`].
const CHECKSUM: &str = "blake3";

fn checksum(features: &RawTensor) -> String {
    blake3::hash(&features.bytes).to_hex().to_string()
}

/// The folder and how much is in it.
pub struct Disk {
    folder: PathBuf,
    tier: &'static str,
    limit: u64,
    used: u64,
}

impl Disk {
    /// Makes the folder and adds up what it holds. Features of another instruction tier are other bits: they are kept,
    /// but not read.
    pub fn open(folder: &Path, limit: u64, tier: Tier) -> Result<Self> {
        std::fs::create_dir_all(folder).at(folder, "make the cache folder")?;
        let used = list(folder)?.iter().map(|f| f.1).sum();
        Ok(Self { folder: folder.to_path_buf(), tier: tier.name(), limit, used })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}-{}-{}.safetensors", self.tier, env!("CARGO_PKG_VERSION")))
    }

    /// Whether there is a file for a key.
    pub fn has(&self, key: &str) -> bool {
        self.path(key).exists()
    }

    /// The features of a key, if the file is there and whole; a damaged one counts as missing and is written again.
    pub fn read(&self, key: &str, dtype: Dtype, len: usize) -> Option<RawTensor> {
        let mut file = WeightFile::read(self.path(key)).ok()?;
        let raw = file.tensors.remove("features")?;
        let whole = *file.metadata.get(CHECKSUM)? == checksum(&raw);
        Some(raw).filter(|raw| whole && raw.dtype == dtype && raw.shape == [len])
    }

    /// Keeps the features of a key; one that is larger than the limit is not kept.
    pub fn write(&mut self, key: &str, raw: &RawTensor) -> Result<()> {
        let size = raw.bytes.len() as u64 + 256;
        if size > self.limit {
            return Ok(());
        }
        if self.used + size > self.limit {
            self.make_room(self.limit - size)?;
        }
        let path = self.path(key);
        let mut file = WeightFile { path: path.clone(), ..WeightFile::default() };
        file.metadata.insert(CHECKSUM.into(), checksum(raw));
        file.tensors.insert("features".into(), raw.clone());
        file.write(&path)?;
        self.used += size;
        Ok(())
    }

    /// Removes the oldest files until at most `limit` bytes are left.
    fn make_room(&mut self, limit: u64) -> Result<()> {
        let mut files = list(&self.folder)?;
        files.sort();
        self.used = files.iter().map(|f| f.1).sum();
        for (_, size, path) in files {
            if self.used <= limit {
                break;
            }
            std::fs::remove_file(&path).at(&path, "remove an old cache file")?;
            self.used -= size;
        }
        Ok(())
    }
}

/// Time of writing, size and path of every feature file.
fn list(folder: &Path) -> Result<Vec<(std::time::SystemTime, u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).at(folder, "read the cache folder")? {
        let path = entry.at(folder, "read the cache folder")?.path();
        // Another run may remove a file between the listing and the look at it.
        if path.extension().is_some_and(|e| e == "safetensors")
            && let Ok(m) = path.metadata()
        {
            files.push((m.modified().at(&path, "read a cache file")?, m.len(), path));
        }
    }
    Ok(files)
}
