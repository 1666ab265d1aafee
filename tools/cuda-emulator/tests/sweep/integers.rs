//! Integer intrinsics, written from their descriptions.

/// Lanes of a word: of `n` in it, signed and unsigned.
fn lanes(x: u64, n: u32) -> impl Iterator<Item = (i64, i64)> {
    let w = 32 / n;
    (0..n).map(move |i| {
        let u = (x >> (i * w) & ((1 << w) - 1)) as i64;
        (u << (64 - w) >> (64 - w), u)
    })
}

/// A SIMD instruction on 2 or 4 lanes: `__vaddss4` is `addss` on 4.
fn video(op: &str, n: u32, a: u64, b: u64) -> Option<u64> {
    let (w, mut word, mut sum) = (32 / n, 0, 0);
    let (least, most, top) = (-1i64 << (w - 1), (1i64 << (w - 1)) - 1, (1i64 << w) - 1);
    for (i, ((a, ua), (b, ub))) in lanes(a, n).zip(lanes(b, n)).enumerate() {
        let compare = |op: &str| {
            let (a, b) = if op.ends_with('u') { (ua, ub) } else { (a, b) };
            Some(match &op[..2] {
                "eq" => a == b,
                "ne" => a != b,
                "ge" => a >= b,
                "gt" => a > b,
                "le" => a <= b,
                "lt" => a < b,
                _ => return None,
            })
        };
        let r = match op {
            "abs" => a.abs(),
            "absss" => a.abs().min(most),
            "neg" => -a,
            "negss" => (-a).min(most),
            "add" => a + b,
            "addss" => (a + b).clamp(least, most),
            "addus" => (ua + ub).min(top),
            "sub" => a - b,
            "subss" => (a - b).clamp(least, most),
            "subus" => (ua - ub).max(0),
            "absdiffs" => (a - b).abs(),
            "absdiffu" => (ua - ub).abs(),
            "avgs" => (a + b + i64::from(a + b >= 0)) >> 1,
            "avgu" => (ua + ub + 1) >> 1,
            "haddu" => (ua + ub) >> 1,
            "maxs" => a.max(b),
            "maxu" => ua.max(ub),
            "mins" => a.min(b),
            "minu" => ua.min(ub),
            "sads" => (a - b).abs(),
            "sadu" => (ua - ub).abs(),
            _ if op.starts_with("cmp") => -i64::from(compare(&op[3..])?),
            _ if op.starts_with("set") => i64::from(compare(&op[3..])?),
            _ => return None,
        };
        sum += r;
        word |= (r & top) << (i as u32 * w);
    }
    Some(if op.starts_with("sad") { sum } else { word } as u64)
}

/// `__viaddmax_s16x2_relu` and its kin.
fn extreme(name: &str, v: [u64; 3]) -> Option<u64> {
    let relu = name.ends_with("_relu");
    let (op, kind) = name.trim_end_matches("_relu").strip_prefix("__vi")?.split_once('_')?;
    let (n, signed) = (if kind.ends_with("x2") { 2 } else { 1 }, kind.starts_with('s'));
    let w = 32 / n;
    let top = (1i64 << w) - 1;
    let mut word = 0;
    for i in 0..n as usize {
        let [a, b, c] = v.map(|x| lanes(x, n).nth(i).map(|x| if signed { x.0 } else { x.1 }).unwrap_or(0));
        let wrap = |x: i64| if signed { x << (64 - w) >> (64 - w) } else { x & top };
        let r = match op {
            "addmax" => wrap(a + b).max(c),
            "addmin" => wrap(a + b).min(c),
            "max3" => a.max(b).max(c),
            "min3" => a.min(b).min(c),
            "max" => a.max(b),
            "min" => a.min(b),
            _ => return None,
        };
        word |= ((if relu { r.max(0) } else { r }) & top) << (i as u32 * w);
    }
    Some(word as u64)
}

/// Greater or less of two in `n` lanes, and above the word whether the first was (or equal).
fn chosen(n: u32, signed: bool, max: bool, a: u64, b: u64) -> u64 {
    let pick = |(i, (a, b)): (usize, ((i64, i64), (i64, i64)))| {
        let (x, y) = if signed { (a.0, b.0) } else { (a.1, b.1) };
        let first = if max { x >= y } else { x <= y };
        (if first { a.1 } else { b.1 } as u64) << (i as u32 * (32 / n)) | u64::from(first) << (32 + i)
    };
    lanes(a, n).zip(lanes(b, n)).enumerate().map(pick).sum()
}

/// Position of the `offset`-th bit that is set, from `base` on, up or down.
fn nth_set(mask: u32, base: i32, offset: i32) -> u32 {
    let step = if offset < 0 { -1 } else { 1 };
    let left = offset.unsigned_abs().max(1) as usize - 1;
    let set = |p: &i32| mask >> p & 1 == 1;
    let mut ways: Box<dyn Iterator<Item = i32>> = match (offset, step) {
        (0, _) => Box::new(base..base + 1),
        (_, 1) => Box::new(base..32),
        _ => Box::new((0..=base).rev()),
    };
    ways.by_ref().filter(set).nth(left).map_or(!0, |p| p as u32)
}

/// Sum of products of bytes with bytes, or (`half`) of half words with two of the bytes.
fn dot(v: [u64; 3], signed: bool, half: Option<usize>) -> u64 {
    let take = |x: u64, n: u32| lanes(x, n).map(move |x| if signed { x.0 } else { x.1 }).collect::<Vec<_>>();
    let bytes = take(v[1], 4);
    let products: i64 = match half {
        None => take(v[0], 4).iter().zip(&bytes).map(|(a, b)| a * b).sum(),
        Some(from) => take(v[0], 2).iter().zip(&bytes[from..]).map(|(a, b)| a * b).sum(),
    };
    (products as u32).wrapping_add(v[2] as u32).into()
}

/// The value of an expression.
pub fn value(call: &str, v: [u64; 3]) -> Option<u64> {
    let name = call.split('(').next()?;
    if let Some(op) = name.strip_prefix("__v") {
        let n = if op.ends_with('4') { 4 } else { 2 };
        if let Some(r) = video(op.trim_end_matches(['2', '4']), n, v[0], v[1]).or_else(|| extreme(name, v)) {
            return Some(r);
        }
    }
    let [a, b, c] = v;
    let [w, x, y] = v.map(|x| x as u32);
    let [i, j, k] = v.map(|x| x as i32);
    let [l, m] = [a as i64, b as i64];
    let dividend = u128::from(a) << 64 | u128::from(b);
    let word = |x: i64| u64::from(x as u32);
    Some(match call {
        "vibmax(s32(a), s32(b))" => chosen(1, true, true, a, b),
        "vibmin(s32(a), s32(b))" => chosen(1, true, false, a, b),
        "vibmax(a, b)" => chosen(1, false, true, a, b),
        "vibmin(a, b)" => chosen(1, false, false, a, b),
        "vibmax_s16x2(a, b)" => chosen(2, true, true, a, b),
        "vibmin_u16x2(a, b)" => chosen(2, false, false, a, b),
        "__brev(a)" => w.reverse_bits().into(),
        "__clz(s32(a))" => w.leading_zeros().into(),
        "__ffs(s32(a))" => u64::from(if w == 0 { 0 } else { w.trailing_zeros() + 1 }),
        "__popc(a)" => w.count_ones().into(),
        "__fns(a, b % 32, s32(c) % 8)" => nth_set(w, (x % 32) as i32, k % 8).into(),
        "__funnelshift_l(a, b, c)" => (u64::from(x) << 32 | u64::from(w)) << (y & 31) >> 32,
        "__funnelshift_lc(a, b, c)" => {
            (u128::from(x) << 32 | u128::from(w)).wrapping_shl(y.min(32)) as u64 >> 32
        }
        "__funnelshift_r(a, b, c)" => word(((u64::from(x) << 32 | u64::from(w)) >> (y & 31)) as i64),
        "__funnelshift_rc(a, b, c)" => word(((u64::from(x) << 32 | u64::from(w)) >> y.min(32)) as i64),
        "__byte_perm(a, b, c)" => {
            let bytes = (u64::from(x) << 32 | u64::from(w)).to_le_bytes();
            let pick = |n: u32| u64::from(bytes[(y >> (4 * n) & 7) as usize]) << (8 * n);
            (0..4).map(pick).sum()
        }
        "__mulhi(s32(a), s32(b))" => word(i64::from(i) * i64::from(j) >> 32),
        "__umulhi(a, b)" => u64::from(w) * u64::from(x) >> 32,
        "__mul24(s32(a), s32(b))" => word(i64::from(i << 8 >> 8) * i64::from(j << 8 >> 8)),
        "__umul24(a, b)" => word((u64::from(w & 0xff_ffff) * u64::from(x & 0xff_ffff)) as i64),
        "__sad(s32(a), s32(b), c)" => i.abs_diff(j).wrapping_add(y).into(),
        "__usad(a, b, c)" => w.abs_diff(x).wrapping_add(y).into(),
        "__hadd(s32(a), s32(b))" => word((i64::from(i) + i64::from(j)) >> 1),
        "__rhadd(s32(a), s32(b))" => word((i64::from(i) + i64::from(j) + 1) >> 1),
        "__uhadd(a, b)" => (u64::from(w) + u64::from(x)) >> 1,
        "__urhadd(a, b)" => (u64::from(w) + u64::from(x) + 1) >> 1,
        "__dp4a(s32(a), s32(b), s32(c))" => dot(v, true, None),
        "__dp4a(a, b, c)" => dot(v, false, None),
        "__dp2a_lo(s32(a), s32(b), s32(c))" => dot(v, true, Some(0)),
        "__dp2a_lo(a, b, c)" => dot(v, false, Some(0)),
        "__dp2a_hi(s32(a), s32(b), s32(c))" => dot(v, true, Some(2)),
        "__dp2a_hi(a, b, c)" => dot(v, false, Some(2)),
        "s32(a) / s32(b >> 1 | 1)" => word((i / ((x >> 1 | 1) as i32)).into()),
        "s32(a) % s32(b >> 1 | 1)" => word((i % ((x >> 1 | 1) as i32)).into()),
        "s32(a) >> b % 32" => word((i >> (x % 32)).into()),
        // Unsigned words divide as the double words that hold them.
        "a / (b | 1)" => a / (b | 1),
        "a % (b | 1)" => a % (b | 1),
        "__brevll(a)" => a.reverse_bits(),
        "__clzll(s64(a))" => a.leading_zeros().into(),
        "__ffsll(s64(a))" => u64::from(if a == 0 { 0 } else { a.trailing_zeros() + 1 }),
        "__popcll(a)" => a.count_ones().into(),
        "__mul64hi(s64(a), s64(b))" => (i128::from(l) * i128::from(m) >> 64) as u64,
        "__umul64hi(a, b)" => (u128::from(a) * u128::from(b) >> 64) as u64,
        "s64(a) / s64(b >> 1 | 1)" => (l / ((b >> 1 | 1) as i64)) as u64,
        "s64(a) % s64(b >> 1 | 1)" => (l % ((b >> 1 | 1) as i64)) as u64,
        "s64(a) >> b % 64" => (l >> (b % 64)) as u64,
        "u64((u128(a) << 64 | b) / (c | 1))" => (dividend / u128::from(c | 1)) as u64,
        "u64((u128(a) << 64 | b) % (c | 1))" => (dividend % u128::from(c | 1)) as u64,
        _ => return None,
    })
}
