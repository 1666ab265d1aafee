//! Register tiles of int8 products: unsigned activations times signed weights. Sums in i32 are exact, so every way of
//! computing one gives the same bits.

use super::Tier;
use super::aligned::LINE;

/// Rows of the tile.
pub const MR: usize = 8;
/// Columns of the tile, and of a panel of weights `[K/4][NR][4]`.
pub const NR: usize = 48;
/// Most inputs of a product: 255·127 of each stay within an i32.
pub const MAX_K: usize = 65536;

/// What sums products of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dot {
    /// Plain Rust; every machine.
    Scalar,
    /// Bytes widened to 16 bits and `vpmaddwd`: `vpmaddubsw` would saturate.
    Avx2,
    /// `vpdpbusd` on eight sums.
    AvxVnni,
    /// `vpdpbusd` on sixteen sums.
    Avx512Vnni,
}

/// One tile: `out[i·NR + j] = Σ_k a[i, k]·b[k, j] - less[j]`, converted to f32, for `rows` (1 to `MR`) and `cols` (1 to
/// `NR`, rounded up to 16).
#[derive(Clone, Copy)]
pub struct Tile {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// K in fours; what A has past its last column meets weights of 0.
    pub k4: usize,
    /// Row `i` begins at `a + i·ld`.
    pub a: *const u8,
    /// Bytes between rows of A.
    pub ld: usize,
    /// The panel.
    pub b: *const i8,
    /// `NR` numbers.
    pub less: *const i32,
    /// `(MR, NR)`.
    pub out: *mut f32,
    /// The `k4 / 4` lines from here on come nearer; they need not exist.
    pub ahead: *const i8,
}

impl Dot {
    /// Every one, slowest first.
    pub const ALL: [Dot; 4] = [Dot::Scalar, Dot::Avx2, Dot::AvxVnni, Dot::Avx512Vnni];
    /// The best that this chip has and the tier allows.
    pub fn of(tier: Tier) -> Self {
        let fits = |d: &&Dot| d.tier() <= tier && d.is_supported();
        *Self::ALL.iter().rev().find(fits).unwrap_or(&Dot::Scalar)
    }
    /// The lowest tier that it belongs to.
    pub fn tier(self) -> Tier {
        match self {
            Dot::Scalar => Tier::Scalar,
            Dot::Avx2 | Dot::AvxVnni => Tier::Avx2,
            Dot::Avx512Vnni => Tier::Avx512,
        }
    }
    /// Name as printed.
    pub fn name(self) -> &'static str {
        match self {
            Dot::Scalar => "scalar",
            Dot::Avx2 => "avx2",
            Dot::AvxVnni => "avxvnni",
            Dot::Avx512Vnni => "avx512vnni",
        }
    }
    /// Whether this chip has it.
    pub fn is_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let more = match self {
            Dot::Scalar | Dot::Avx2 => true,
            Dot::AvxVnni => is_x86_feature_detected!("avxvnni"),
            Dot::Avx512Vnni => is_x86_feature_detected!("avx512vnni"),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let more = self == Dot::Scalar;
        more && self.tier().is_supported()
    }
    /// Computes a tile.
    ///
    /// # Safety
    /// SAFETY is the caller's: the chip has it, and the tile's operands hold what their comments say.
    pub unsafe fn tile(self, t: Tile) {
        debug_assert!(t.shape[0] >= 1 && t.shape[0] <= MR && t.shape[1] <= NR);
        // SAFETY: the caller's.
        unsafe {
            match self {
                Dot::Scalar => scalar(t),
                #[cfg(target_arch = "x86_64")]
                Dot::Avx2 => x86::avx2(t),
                #[cfg(target_arch = "x86_64")]
                Dot::AvxVnni => x86::avx_vnni(t),
                #[cfg(target_arch = "x86_64")]
                Dot::Avx512Vnni => x86::avx512_vnni(t),
                #[cfg(not(target_arch = "x86_64"))]
                _ => unreachable!("no {} on this processor", self.name()),
            }
        }
    }
}

/// SAFETY: as [`Dot::tile`].
unsafe fn scalar(t: Tile) {
    let [rows, cols] = t.shape;
    for i in 0..rows {
        let mut sums = [0i32; NR];
        // SAFETY: the caller's.
        unsafe {
            for k in 0..t.k4 {
                let (a, b) = (t.a.add(i * t.ld + 4 * k), t.b.add(4 * NR * k));
                for (j, sum) in sums[..cols].iter_mut().enumerate() {
                    for l in 0..4 {
                        *sum += *a.add(l) as i32 * *b.add(4 * j + l) as i32;
                    }
                }
            }
            for (j, sum) in sums[..cols].iter().enumerate() {
                *t.out.add(i * NR + j) = (sum - *t.less.add(j)) as f32;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// Four bytes in each lane, and their products summed, on eight lanes.
    trait Ymm {
        /// Activations and weights as the products take them.
        type A: Copy;
        type B: Copy;
        unsafe fn a(x: __m256i) -> Self::A;
        unsafe fn b(x: __m256i) -> Self::B;
        unsafe fn dot(sum: __m256i, a: Self::A, b: Self::B) -> __m256i;
    }

    // SAFETY of every intrinsic below: only called inside the function that enables its features.
    struct Widened;
    impl Ymm for Widened {
        /// Even bytes and odd ones, as 16 bits.
        type A = [__m256i; 2];
        type B = [__m256i; 2];
        #[inline(always)]
        unsafe fn a(x: __m256i) -> [__m256i; 2] {
            unsafe { [_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(x)] }
        }
        #[inline(always)]
        unsafe fn b(x: __m256i) -> [__m256i; 2] {
            unsafe { [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x)] }
        }
        #[inline(always)]
        unsafe fn dot(sum: __m256i, a: [__m256i; 2], b: [__m256i; 2]) -> __m256i {
            unsafe {
                let pair = _mm256_add_epi32(_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1]));
                _mm256_add_epi32(sum, pair)
            }
        }
    }

    struct Vnni;
    impl Ymm for Vnni {
        type A = __m256i;
        type B = __m256i;
        #[inline(always)]
        unsafe fn a(x: __m256i) -> __m256i {
            x
        }
        #[inline(always)]
        unsafe fn b(x: __m256i) -> __m256i {
            x
        }
        #[inline(always)]
        unsafe fn dot(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_dpbusd_avx_epi32(sum, a, b) }
        }
    }

    /// SAFETY: as [`Dot::tile`].
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(t: Tile) {
        unsafe { ymm::<Widened>(t) }
    }

    /// SAFETY: as [`Dot::tile`].
    #[target_feature(enable = "avx2,fma,avxvnni")]
    pub unsafe fn avx_vnni(t: Tile) {
        unsafe { ymm::<Vnni>(t) }
    }

    /// Four rows and sixteen columns at a time, as many as fit the registers.
    #[inline(always)]
    unsafe fn ymm<Y: Ymm>(t: Tile) {
        let [rows, cols] = t.shape;
        for j in (0..cols).step_by(16) {
            for i in (0..rows).step_by(4) {
                let at: [usize; 4] = std::array::from_fn(|r| (i + r).min(rows - 1) * t.ld);
                unsafe {
                    let mut acc = [[_mm256_setzero_si256(); 2]; 4];
                    for k in 0..t.k4 {
                        let p = t.b.add(4 * (k * NR + j));
                        let b = [Y::b(load(p)), Y::b(load(p.add(32)))];
                        for r in 0..4 {
                            let four = t.a.add(at[r] + 4 * k).cast::<i32>().read_unaligned();
                            let a = Y::a(_mm256_set1_epi32(four));
                            for v in 0..2 {
                                acc[r][v] = Y::dot(acc[r][v], a, b[v]);
                            }
                        }
                    }
                    for (r, acc) in acc.into_iter().enumerate().take(rows - i) {
                        for (v, sum) in acc.into_iter().enumerate() {
                            let j = j + 8 * v;
                            let sum = _mm256_sub_epi32(sum, load(t.less.add(j).cast()));
                            _mm256_storeu_ps(t.out.add((i + r) * NR + j), _mm256_cvtepi32_ps(sum));
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load(p: *const i8) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    /// SAFETY: as [`Dot::tile`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub unsafe fn avx512_vnni(t: Tile) {
        unsafe {
            match t.shape[1].div_ceil(16) {
                1 => zmm::<1>(t),
                2 => zmm::<2>(t),
                _ => zmm::<3>(t),
            }
        }
    }

    #[inline(always)]
    unsafe fn zmm<const NV: usize>(t: Tile) {
        let (mut at, mut b, mut ahead) = ([t.a; MR], t.b, t.ahead);
        unsafe {
            for (i, at) in at.iter_mut().enumerate() {
                *at = t.a.add(i.min(t.shape[0] - 1) * t.ld);
            }
            let mut acc = [[_mm512_setzero_si512(); NV]; MR];
            let mut k = 0;
            for _ in 0..t.k4 / 4 {
                _mm_prefetch::<_MM_HINT_T1>(ahead);
                ahead = ahead.wrapping_add(LINE);
                for i in 0..4 {
                    step(&at, k + 4 * i, b.add(4 * NR * i), &mut acc);
                }
                (k, b) = (k + 16, b.add(16 * NR));
            }
            for _ in 0..t.k4 % 4 {
                step(&at, k, b, &mut acc);
                (k, b) = (k + 4, b.add(4 * NR));
            }
            for (i, acc) in acc.into_iter().enumerate().take(t.shape[0]) {
                for (j, sum) in acc.into_iter().enumerate() {
                    let sum = _mm512_sub_epi32(sum, _mm512_loadu_si512(t.less.add(16 * j).cast()));
                    _mm512_storeu_ps(t.out.add(i * NR + 16 * j), _mm512_cvtepi32_ps(sum));
                }
            }
        }
    }

    /// What four rows of B add.
    #[inline(always)]
    unsafe fn step<const NV: usize>(
        at: &[*const u8; MR],
        k: usize,
        b: *const i8,
        acc: &mut [[__m512i; NV]; MR],
    ) {
        unsafe {
            let mut v = [_mm512_setzero_si512(); NV];
            for (j, v) in v.iter_mut().enumerate() {
                *v = _mm512_loadu_si512(b.add(j * LINE).cast());
            }
            for (acc, at) in acc.iter_mut().zip(at) {
                let a = _mm512_set1_epi32(at.add(k).cast::<i32>().read_unaligned());
                for j in 0..NV {
                    acc[j] = _mm512_dpbusd_epi32(acc[j], a, v[j]);
                }
            }
        }
    }
}
