//! What every scene is drawn with: random numbers, noise, shapes as distances, and the camera.
//!
//! Lengths are in units of 1/256 of the picture's side, x to the right, y down, so a scene looks the same at any size.
//! Only `+ - * / sqrt` of the standard library and `libm`'s functions are used: they give the same bits everywhere.

use image::{Rgb as Pixel, RgbImage};

/// A colour, display-referred, 1.0 = white.
pub type Rgb = [f32; 3];
/// The colour of the scene at a point.
pub type Scene = Box<dyn Fn(f32, f32) -> Rgb + Send + Sync>;

/// SplitMix64 (Steele, Lea, Flood 2014): one stream for every purpose, keyed by what it is for.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a key; keys that differ in any word give unrelated streams.
    pub fn new(key: &[u64]) -> Self {
        Self(
            key.iter()
                .fold(0x243F_6A88_85A3_08D3, |h, &w| mix(h ^ mix(w.wrapping_add(0x9E37_79B9_7F4A_7C15)))),
        )
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }
    /// Uniform in `[lo, hi)`.
    pub fn range(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * ((self.next() >> 40) as f32 / 16_777_216.0)
    }
    /// Uniform in `(-half, half)`.
    pub fn around(&mut self, half: f32) -> f32 {
        self.range(-half, half)
    }
    /// Uniform in `0..n`.
    pub fn pick(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// A seed for [`noise`].
    pub fn seed(&mut self) -> u32 {
        self.next() as u32
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// White noise on the integer lattice, uniform in `[-1, 1)`.
pub fn white(seed: u32, x: i32, y: i32) -> f32 {
    let mut h = seed ^ (x as u32).wrapping_mul(0x85EB_CA6B) ^ (y as u32).wrapping_mul(0xC2B2_AE35);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    ((h ^ (h >> 16)) >> 8) as f32 / 8_388_608.0 - 1.0
}

/// Value noise in about `(-1, 1)`, one feature a unit.
pub fn noise(seed: u32, x: f32, y: f32) -> f32 {
    let (i, j) = (x.floor(), y.floor());
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (u, v, i, j) = (ease(x - i), ease(y - j), i as i32, j as i32);
    let row = |j| mix1(white(seed, i, j), white(seed, i + 1, j), u);
    mix1(row(j), row(j + 1), v)
}

/// Three octaves of [`noise`].
pub fn fbm(seed: u32, x: f32, y: f32) -> f32 {
    (noise(seed, x, y) + 0.5 * noise(seed ^ 1, 2.1 * x, 2.1 * y) + 0.25 * noise(seed ^ 2, 4.3 * x, 4.3 * y))
        / 1.75
}

/// 0 at `from`, 1 at `to` (either may be larger), smooth between.
pub fn step(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Linear interpolation.
pub fn mix1(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// Linear interpolation of colours.
pub fn blend(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [mix1(a[0], b[0], t), mix1(a[1], b[1], t), mix1(a[2], b[2], t)]
}

/// A colour times a brightness.
pub fn lit(c: Rgb, k: f32) -> Rgb {
    [c[0] * k, c[1] * k, c[2] * k]
}

/// Length of a vector.
pub fn hypot(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// Signed distance to a box of half sides `w`, `h` with corners of radius `r`, centred on 0 (negative inside).
pub fn rounded_box(x: f32, y: f32, w: f32, h: f32, r: f32) -> f32 {
    let (dx, dy) = (x.abs() - w + r, y.abs() - h + r);
    hypot(dx.max(0.0), dy.max(0.0)) + dx.max(dy).min(0.0) - r
}

/// Distance to a segment, and where along it the nearest point lies (0 to 1).
pub fn segment(x: f32, y: f32, a: (f32, f32), b: (f32, f32)) -> (f32, f32) {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let t = (((x - a.0) * dx + (y - a.1) * dy) / (dx * dx + dy * dy).max(1e-6)).clamp(0.0, 1.0);
    (hypot(x - a.0 - t * dx, y - a.1 - t * dy), t)
}

/// Brightness of a slope that faces direction `(nx, ny)`: the lamp is always up and to the left.
pub fn facing(nx: f32, ny: f32) -> f32 {
    -(0.6 * nx + 0.8 * ny)
}

/// Where a part lies: shift, turn, scale.
#[derive(Clone, Copy)]
pub struct Pose {
    /// The part's origin in the picture.
    pub at: (f32, f32),
    cos: f32,
    sin: f32,
    scale: f32,
}

impl Pose {
    /// A part at `at`, turned by `angle` radians, `scale` times as large.
    pub fn new(at: (f32, f32), angle: f32, scale: f32) -> Self {
        Self { at, cos: libm::cosf(angle), sin: libm::sinf(angle), scale }
    }
    /// A point of the picture in the part's own coordinates.
    pub fn local(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = ((x - self.at.0) / self.scale, (y - self.at.1) / self.scale);
        (self.cos * x + self.sin * y, self.cos * y - self.sin * x)
    }
}

/// A thin wandering line: scratch, crack, fibre.
pub struct Stroke {
    points: Vec<(f32, f32)>,
    width: f32,
    reach: (f32, f32, f32),
}

impl Stroke {
    /// A line through `middle`, `length` long, that starts at `angle` and turns by up to `bend` radians at each of 10 joints.
    pub fn new(rng: &mut Rng, middle: (f32, f32), angle: f32, length: f32, bend: f32, width: f32) -> Self {
        let (mut angle, mut p, mut points) = (angle, (0.0, 0.0), vec![(0.0, 0.0)]);
        for _ in 0..10 {
            angle += rng.around(bend);
            p = (p.0 + libm::cosf(angle) * length / 10.0, p.1 + libm::sinf(angle) * length / 10.0);
            points.push(p);
        }
        let shift = (middle.0 - points[5].0, middle.1 - points[5].1);
        points.iter_mut().for_each(|p| *p = (p.0 + shift.0, p.1 + shift.1));
        Self { points, width, reach: (middle.0, middle.1, 0.5 * length + 4.0 * width) }
    }
    /// Signed distance to the line's edge (it tapers towards its ends), large when far away.
    pub fn edge(&self, x: f32, y: f32) -> f32 {
        let (cx, cy, r) = self.reach;
        if hypot(x - cx, y - cy) > r {
            return 99.0;
        }
        let n = self.points.len() - 1;
        (0..n).fold(99.0, |best: f32, i| {
            let (d, t) = segment(x, y, self.points[i], self.points[i + 1]);
            let along = (i as f32 + t) / n as f32;
            best.min(d - 0.5 * self.width * (0.35 + 0.65 * step(0.0, 0.2, along.min(1.0 - along))))
        })
    }
}

/// An irregular patch: stain, rust, glue.
pub struct Blob {
    at: (f32, f32),
    radius: f32,
    stretch: f32,
    seed: u32,
}

impl Blob {
    /// A patch of about `radius` around `at`.
    pub fn new(rng: &mut Rng, at: (f32, f32), radius: f32) -> Self {
        Self { at, radius, stretch: rng.range(0.75, 1.35), seed: rng.seed() }
    }
    /// 0 at the middle, 1 at the edge, more outside.
    pub fn depth(&self, x: f32, y: f32) -> f32 {
        let (u, v) =
            ((x - self.at.0) / self.radius * self.stretch, (y - self.at.1) / self.radius / self.stretch);
        let d = hypot(u, v);
        if d > 2.0 { d } else { d + 0.4 * fbm(self.seed, 1.6 * u, 1.6 * v) }
    }
}

/// One exposure: lamp, colour balance and sensor noise.
pub struct Exposure {
    /// Brightness of each channel.
    pub gain: Rgb,
    /// Relative change of brightness from the middle to the right and lower edges.
    pub slope: (f32, f32),
    /// Standard deviation of the sensor noise, 1.0 = white.
    pub noise: f32,
    /// Seed of the noise.
    pub seed: u32,
}

/// A picture of `size` × `size` pixels: 2 × 2 samples a pixel, a slightly soft lens, uneven light, sensor noise.
pub fn shoot(size: usize, scene: &Scene, e: &Exposure) -> RgbImage {
    let unit = 256.0 / size as f32;
    let mut sharp = vec![[0.0f32; 3]; size * size];
    for (i, p) in sharp.iter_mut().enumerate() {
        let (x, y) = ((i % size) as f32, (i / size) as f32);
        for (dx, dy) in [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)] {
            let c = scene((x + dx) * unit, (y + dy) * unit);
            (0..3).for_each(|k| p[k] += 0.25 * c[k].clamp(0.0, 1.0));
        }
    }
    let tap = |x: usize, y: usize, k: usize| sharp[y * size + x][k];
    let soft = |x: usize, y: usize, k: usize| {
        let (l, r) = (x.saturating_sub(1), (x + 1).min(size - 1));
        0.125 * (tap(l, y, k) + tap(r, y, k)) + 0.75 * tap(x, y, k)
    };
    RgbImage::from_fn(size as u32, size as u32, |px, py| {
        let (x, y) = (px as usize, py as usize);
        let (up, down) = (y.saturating_sub(1), (y + 1).min(size - 1));
        let half = 0.5 * size as f32;
        let (u, v) = (x as f32 / half - 1.0, y as f32 / half - 1.0);
        let light = (1.0 + e.slope.0 * u + e.slope.1 * v) * (1.0 - 0.05 * (u * u + v * v));
        Pixel(std::array::from_fn(|k| {
            let c = 0.125 * (soft(x, up, k) + soft(x, down, k)) + 0.75 * soft(x, y, k);
            // Three uniform variables make a good enough bell; their sum has variance 1. Half is shared by the channels.
            let draw = |s: u32| (0..3).map(|n| white(e.seed ^ (s + n), px as i32, py as i32)).sum::<f32>();
            let grain = 0.7 * draw(16) + 0.7 * draw(32 + 8 * k as u32);
            ((c * light * e.gain[k] + e.noise * grain) * 255.0 + 0.5).clamp(0.0, 255.0) as u8
        }))
    })
}
