//! Random numbers of training: initial weights and the order of images. Our own small generator, so that a seed means
//! the same run on every machine.

use crate::error::Result;
use crate::model::Config;
use crate::model::params::Trained;
use crate::runtime::Tensor;

/// splitmix64: one 64-bit state, which is all that a checkpoint must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng(pub u64);

impl Rng {
    /// Next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Uniform on (0, 1).
    pub fn uniform(&mut self) -> f64 {
        ((self.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
    /// Uniform on 0..n, without bias.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let x = self.next_u64();
            if x < limit {
                return (x % n) as usize;
            }
        }
    }
    /// Standard normal (Box-Muller; `libm`, so the same bits everywhere).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        (-2.0 * libm::log(u)).sqrt() * libm::cos(std::f64::consts::TAU * v)
    }
    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, v: &mut [T]) {
        for i in (1..v.len()).rev() {
            v.swap(i, self.below(i + 1));
        }
    }
}

/// Shape of the trained part that a new model gets on top of an encoder. What the metadata say of a part trained
/// before (the encoder may come from a model) does not hold for the new one.
pub fn plan(encoder: &Config, prototypes: usize) -> Config {
    let decoder_blocks = encoder.target_layers.len();
    let mut other = encoder.other.clone();
    other.retain(|key, _| !["threshold", "map_range", "training"].contains(&key.as_str()));
    Config {
        prototypes,
        decoder_blocks,
        decoder_groups: encoder.groups.clone(),
        trained: true,
        other,
        ..encoder.clone()
    }
}

/// Initial weights: linear truncated normal (deviation 0.01, cut at ±0.03), biases 0, LayerNorm 1 and 0, prototypes
/// standard normal, `learn_scale` 1.
pub fn init(cfg: &Config, seed: u64) -> Result<Trained> {
    let mut rng = Rng(seed ^ 0x1A2B_3C4D_5E6F_7788);
    Trained::build(cfg, &mut |name, shape| {
        let mut draw = |f: &mut dyn FnMut(&mut Rng) -> f64| {
            let n: usize = shape.iter().product();
            Tensor::new(shape, (0..n).map(|_| f(&mut rng) as f32).collect())
        };
        Ok(match name.rsplit('.').next() {
            Some("prototype_token") => draw(&mut |r| r.normal()),
            Some("learn_scale") => draw(&mut |_| 1.0),
            Some("weight") if shape.len() == 1 => draw(&mut |_| 1.0),
            Some("weight") => draw(&mut |r| {
                loop {
                    let x = r.normal();
                    if x.abs() <= 3.0 {
                        return 0.01 * x;
                    }
                }
            }),
            _ => Tensor::zeros(shape),
        })
    })
}
