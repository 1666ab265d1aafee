//! The shape of a model: inferred from the names and shapes of its weights, corrected by the file's metadata.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::runtime::weights::WeightFile;

/// Side of a patch in pixels: 14 in every DINOv2.
pub const PATCH: usize = 14;
/// More blocks than any encoder has: a number from here on is no block.
const MAX_BLOCKS: usize = 256;

/// Everything that fixes what is computed, besides the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Embedding width C.
    pub channels: usize,
    /// Heads H of the encoder and the decoder.
    pub heads: usize,
    /// Hidden width of the encoder's MLPs (4C in DINOv2).
    pub hidden: usize,
    /// Encoder blocks in the file; only those up to the last target layer run.
    pub depth: usize,
    /// Register tokens (0 or 4).
    pub registers: usize,
    /// Side g of the stored position grid.
    pub pos_grid: usize,
    /// Encoder blocks whose outputs are used, 0-based, ascending.
    pub target_layers: Vec<usize>,
    /// Groups of target layers (indices into `target_layers`), which they partition.
    pub groups: Vec<Vec<usize>>,
    /// Groups of decoder outputs, indices into the reversed list.
    pub decoder_groups: Vec<Vec<usize>>,
    /// Prototypes P.
    pub prototypes: usize,
    /// Decoder blocks J.
    pub decoder_blocks: usize,
    /// Side in pixels that pictures are resized to.
    pub resize: usize,
    /// Side in pixels of the centre crop, a multiple of 14.
    pub crop: usize,
    /// Whether the file holds the trained part (false: an encoder alone).
    pub trained: bool,
    /// Fields of the metadata that we do not interpret; kept when the model is written again.
    pub other: Map<String, Value>,
}

impl Config {
    /// The group that decoder block `j` belongs to, and its weight in the group's mean. Groups count the blocks from the
    /// last.
    pub fn decoder_share(&self, j: usize) -> (f64, usize) {
        let i = self.decoder_blocks - 1 - j;
        let group = self.decoder_groups.iter().position(|g| g.contains(&i));
        let group = group.expect("decoder groups partition the blocks");
        (1.0 / self.decoder_groups[group].len() as f64, group)
    }
    /// Reads names and shapes (published naming, see `naming::normalise`) and the metadata key `inp_former`.
    pub fn infer(file: &WeightFile) -> Result<Self> {
        let bad = |what: String| Error::file(&file.path, what);
        let shape = |key: &str| file.tensors.get(key).map(|t| t.shape.as_slice());
        let mut meta = match file.metadata.get("inp_former") {
            None => Map::new(),
            Some(text) => serde_json::from_str(text)
                .map_err(|e| bad(format!("the metadata key `inp_former` is not a JSON object: {e}")))?,
        };
        let Some(&[channels @ 1..=usize::MAX, 3, PATCH, PATCH]) = shape("encoder.patch_embed.proj.weight")
        else {
            return Err(bad(format!(
                "no ViT encoder with 14-pixel patches: `encoder.patch_embed.proj.weight` is {}; give a DINOv2 or \
                 INP-Former file",
                shape("encoder.patch_embed.proj.weight").map_or("missing".into(), |s| format!("{s:?}"))
            )));
        };
        let depth = count(file, "encoder.blocks.");
        let decoder_blocks = count(file, "decoder.");
        let trained = decoder_blocks > 0 || file.tensors.contains_key("prototype_token");
        let heads = match (take_usize(&mut meta, "heads", &bad)?, shape("decoder.0.attn.learn_scale")) {
            (Some(h), _) => h,
            (None, Some(s)) => s.first().copied().unwrap_or(0),
            (None, None) => channels / 64,
        };
        if heads == 0 || channels % heads != 0 {
            return Err(bad(format!("{heads} heads do not divide {channels} channels")));
        }
        let hidden =
            shape("encoder.blocks.0.mlp.fc1.weight").and_then(|s| s.first().copied()).unwrap_or(4 * channels);
        let registers = shape("encoder.register_tokens").map_or(0, |s| s.get(1).copied().unwrap_or(0));
        let rows = shape("encoder.pos_embed").and_then(|s| s.get(1).copied()).unwrap_or(0);
        let pos_grid = (rows.saturating_sub(1) as f64).sqrt().round() as usize;
        if rows < 2 || pos_grid * pos_grid + 1 != rows {
            return Err(bad(format!(
                "`encoder.pos_embed` has {rows} rows, not a class row and a square grid"
            )));
        }
        let target_layers = match take_list(&mut meta, "target_layers", &bad)? {
            Some(l) => l,
            None => match depth {
                12 => (2..10).collect(),
                24 => (4..19).step_by(2).collect(),
                _ => {
                    return Err(bad(format!(
                        "an encoder of {depth} blocks has no published target layers; set them in the file's \
                         metadata, key `inp_former`: {{\"target_layers\": [...]}}"
                    )));
                }
            },
        };
        if target_layers.is_empty()
            || target_layers.windows(2).any(|w| w[0] >= w[1])
            || *target_layers.last().expect("not empty") >= depth
        {
            return Err(bad(format!(
                "target layers {target_layers:?} must ascend and be below the depth {depth}"
            )));
        }
        let halves = |n: usize| vec![(0..n.div_ceil(2)).collect(), (n.div_ceil(2)..n).collect()];
        let groups = take_groups(&mut meta, "groups", &bad)?.unwrap_or_else(|| halves(target_layers.len()));
        partition(&groups, target_layers.len(), "groups").map_err(&bad)?;
        let decoder_groups = match take_groups(&mut meta, "decoder_groups", &bad)? {
            Some(g) => g,
            None if decoder_blocks == target_layers.len() || !trained => groups.clone(),
            None => halves(decoder_blocks),
        };
        if trained {
            partition(&decoder_groups, decoder_blocks, "decoder_groups").map_err(&bad)?;
            if decoder_groups.len() != groups.len() {
                return Err(bad(format!(
                    "{} groups but {} decoder groups",
                    groups.len(),
                    decoder_groups.len()
                )));
            }
        }
        let resize = take_usize(&mut meta, "resize", &bad)?.unwrap_or(448);
        let crop = take_usize(&mut meta, "crop", &bad)?.unwrap_or(392);
        check_sizes(resize, crop).map_err(&bad)?;
        let prototypes = shape("prototype_token").map_or(0, |s| s.first().copied().unwrap_or(0));
        Ok(Self {
            channels,
            heads,
            hidden,
            depth,
            registers,
            pos_grid,
            target_layers,
            groups,
            decoder_groups,
            prototypes,
            decoder_blocks,
            resize,
            crop,
            trained,
            other: meta,
        })
    }

    /// Tokens in front of the patches: class and registers.
    pub fn prefix(&self) -> usize {
        1 + self.registers
    }
    /// Patches along a side of the crop, √N.
    pub fn side(&self) -> usize {
        self.crop / PATCH
    }
    /// Encoder blocks that must run.
    pub fn blocks(&self) -> usize {
        self.target_layers.last().map_or(0, |l| l + 1)
    }
    /// Names and inputs K of the layers that int8 is for: those that run on every token or patch.
    pub fn large_layers(&self) -> Vec<(String, usize)> {
        let (c, hidden) = (self.channels, 4 * self.channels);
        let block = |l| {
            let all = [("qkv", c), ("proj", c), ("fc1", c), ("fc2", self.hidden)];
            all.map(|(name, k)| (format!("encoder.blocks.{l}.{name}"), k))
        };
        let mut all: Vec<_> = (0..self.blocks()).flat_map(block).collect();
        all.extend([("fc1", c), ("fc2", hidden)].map(|(name, k)| (format!("bottleneck.{name}"), k)));
        for j in 0..self.decoder_blocks {
            all.extend([("q", c), ("fc2", hidden)].map(|(name, k)| (format!("decoder.{j}.{name}"), k)));
        }
        all
    }
    /// Threshold of the image score that was calibrated for this way of scoring, if the file has one.
    pub fn threshold(&self, zero_shot: bool) -> Option<f32> {
        let t = self.other.get("threshold")?;
        let fits = t.get("zero_shot").and_then(Value::as_bool).unwrap_or(false) == zero_shot;
        t.get("image")?.as_f64().filter(|_| fits).map(|x| x as f32)
    }
    /// Precision that the threshold was calibrated in, if the file has one.
    pub fn threshold_precision(&self) -> Option<&str> {
        self.other.get("threshold")?.get("precision")?.as_str()
    }
    /// Range of map values that heat maps are drawn on, if the file has one.
    pub fn map_range(&self) -> Option<(f32, f32)> {
        let r = self.other.get("map_range")?;
        Some((r.get(0)?.as_f64()? as f32, r.get(1)?.as_f64()? as f32))
    }
    /// Whether the encoder is the small one that comes with the program.
    pub fn is_demonstration(&self) -> bool {
        self.other.get("name").and_then(Value::as_str) == Some("inp-proc-d192-b8")
    }
    /// The JSON object of the metadata key `inp_former`.
    pub fn to_json(&self) -> Value {
        let mut m = Map::new();
        m.insert("heads".into(), json!(self.heads));
        m.insert("target_layers".into(), json!(self.target_layers));
        m.insert("groups".into(), json!(self.groups));
        if self.decoder_groups != self.groups {
            m.insert("decoder_groups".into(), json!(self.decoder_groups));
        }
        m.insert("resize".into(), json!(self.resize));
        m.insert("crop".into(), json!(self.crop));
        m.extend(self.other.clone());
        Value::Object(m)
    }
    /// The same model with the sizes of the input changed.
    pub fn with_sizes(mut self, resize: Option<usize>, crop: Option<usize>) -> Result<Self> {
        self.resize = resize.unwrap_or(self.resize);
        self.crop = crop.unwrap_or(self.crop);
        check_sizes(self.resize, self.crop).map_err(Error::Usage)?;
        Ok(self)
    }
}

fn check_sizes(resize: usize, crop: usize) -> std::result::Result<(), String> {
    match () {
        _ if crop == 0 || !crop.is_multiple_of(PATCH) => {
            Err(format!("crop {crop} is not a multiple of {PATCH}"))
        }
        _ if resize < crop => Err(format!("resize {resize} is smaller than crop {crop}")),
        _ if resize > 16384 => Err(format!("resize {resize} is above 16384")),
        _ => Ok(()),
    }
}

/// One more than the highest block number under `prefix`; a block missing below it is for the loader to report.
fn count(file: &WeightFile, prefix: &str) -> usize {
    let number = |k: &String| k.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    // A lying file may name block 10^18.
    file.tensors.keys().filter_map(number).filter(|n| *n < MAX_BLOCKS).max().map_or(0, |n| n + 1)
}

fn partition(groups: &[Vec<usize>], n: usize, name: &str) -> std::result::Result<(), String> {
    let mut all: Vec<usize> = groups.iter().flatten().copied().collect();
    all.sort_unstable();
    if groups.iter().any(|g| g.is_empty()) || all != (0..n).collect::<Vec<_>>() {
        return Err(format!("`{name}` {groups:?} must use each of 0..{n} once, and none may be empty"));
    }
    Ok(())
}

type Bad<'a> = &'a dyn Fn(String) -> Error;

fn take_usize(m: &mut Map<String, Value>, key: &str, bad: Bad) -> Result<Option<usize>> {
    m.shift_remove(key)
        .map(|v| as_usize(&v).ok_or_else(|| bad(format!("metadata `{key}` is not a count: {v}"))))
        .transpose()
}

fn take_list(m: &mut Map<String, Value>, key: &str, bad: Bad) -> Result<Option<Vec<usize>>> {
    m.shift_remove(key)
        .map(|v| as_list(&v).ok_or_else(|| bad(format!("metadata `{key}` is not a list of counts: {v}"))))
        .transpose()
}

fn take_groups(m: &mut Map<String, Value>, key: &str, bad: Bad) -> Result<Option<Vec<Vec<usize>>>> {
    let parse = |v: &Value| v.as_array()?.iter().map(as_list).collect::<Option<Vec<_>>>();
    m.shift_remove(key)
        .map(|v| parse(&v).ok_or_else(|| bad(format!("metadata `{key}` is not a list of lists: {v}"))))
        .transpose()
}

fn as_usize(v: &Value) -> Option<usize> {
    v.as_u64().filter(|x| *x <= 1 << 20).map(|x| x as usize)
}

fn as_list(v: &Value) -> Option<Vec<usize>> {
    v.as_array()?.iter().map(as_usize).collect()
}
