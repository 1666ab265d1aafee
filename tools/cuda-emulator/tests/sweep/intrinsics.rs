//! nvcc's intrinsics (`foreign/sweep_intrinsics.cu`): every expression of the list that its preprocessor makes, on special and
//! random values, against references that share nothing with the emulator.

use super::floats::{self, Kind};
use super::{functions, integers, read};
use crate::exact::{BF16, E4M3, E5M2, F16, F32, F64, Rng, Shape};
use inp_cuda_emulator::{options::Options, run::Machine};

/// As in the kernels: distance of results, in words.
const ROWS: usize = 4096;
const FILL: u64 = 0xEEEE_EEEE_EEEE_EEEE;

/// The operands of a launch.
pub struct Row<'a> {
    columns: &'a [Vec<u64>; 3],
    i: usize,
}
impl Row<'_> {
    /// Operand `n` of this row.
    pub fn get(&self, n: usize) -> u64 {
        self.columns[n][self.i]
    }
    /// The first operand of another lane.
    fn lane(&self, lane: usize) -> u64 {
        self.columns[0][self.i / 32 * 32 + lane]
    }
}

/// Floats of a type's name.
pub fn shape(name: &str) -> Option<Shape> {
    Some(match name {
        "f16" | "f16x2" => F16,
        "bf16" | "bf16x2" => BF16,
        "f32" => F32,
        "f64" => F64,
        _ => return None,
    })
}

/// Bits of a type.
fn width(name: &str) -> u32 {
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit()).replace("16x2", "32");
    digits.parse().unwrap_or_else(|_| panic!("{name} has no width"))
}

/// Values of a type. `narrow`: they are to be converted to this, so half of them lie near its numbers and midpoints.
fn column(r: &mut Rng, name: &str, narrow: Option<Shape>) -> Vec<u64> {
    let one = |r: &mut Rng, s: Shape| match (r.next() % 32, narrow) {
        (0, _) => s.max + 2,
        (1, _) => s.max + 1,
        (2, _) => (s.max + 1) | 1 << (s.mantissa + s.exponent),
        (3..16, Some(n)) if n.mantissa < s.mantissa => {
            let finer = Shape { mantissa: n.mantissa + 1, max: n.max << 1, ..n };
            let x = Kind(finer).value(r.float(finer));
            let near = if s.mantissa == 52 { x.to_bits() } else { (x as f32).to_bits().into() };
            match s.mantissa {
                7 => near >> 16,
                10 => u64::from(half::f16::from_f64(x).to_bits()),
                _ => near.wrapping_add(r.next() % 3).wrapping_sub(1),
            }
        }
        _ => r.float(s),
    };
    let row = |_| match shape(name) {
        Some(s) if name.ends_with("x2") => one(r, s) | one(r, s) << 16,
        Some(s) => one(r, s),
        None => r.word(width(name)),
    };
    (0..ROWS).map(row).collect()
}

/// Columns for each launch of a kernel: all numbers where there are 65536.
fn launches(kernel: &str, types: [&str; 3]) -> Vec<[Vec<u64>; 3]> {
    let mut r = Rng(kernel.bytes().map(u64::from).sum());
    if types[1] == "u8"
        && matches!(width(types[0]), 16 | 32)
        && shape(types[0]).is_some_and(|s| s.mantissa < 23)
    {
        let packed = |x: u64| if types[0].ends_with("x2") { x | (x * 40503 & 0xffff) << 16 } else { x };
        let chunk = |n: u64| (0..ROWS as u64).map(|i| packed(n * ROWS as u64 + i)).collect();
        return (0..16).map(|n| [chunk(n), vec![0; ROWS], vec![0; ROWS]]).collect();
    }
    let narrow = match kernel.split_once("_from") {
        Some(("fp8", _)) => Some(if r.next() & 1 == 0 { E4M3 } else { E5M2 }),
        Some((to, _)) => shape(to),
        None => None,
    };
    let mut columns = types.map(|t| column(&mut r, t, narrow));
    if let Some(s) = shape(types[2]) {
        // Some products nearly cancel.
        for i in (0..ROWS).step_by(4) {
            let by = |c: u64, n: u32| Kind(s).value(c >> n & (s.sign() * 2).wrapping_sub(1));
            let product = |n: u32| {
                let p = -by(columns[0][i], n) * by(columns[1][i], n);
                match s.mantissa {
                    10 => half::f16::from_f64(p).to_bits().into(),
                    7 => half::bf16::from_f64(p).to_bits().into(),
                    23 => (p as f32).to_bits().into(),
                    _ => p.to_bits(),
                }
            };
            columns[2][i] =
                if types[2].ends_with("x2") { product(0) | product(16) << 16 } else { product(0) };
        }
    }
    vec![columns]
}

/// Bytes of a type of C++.
fn size(name: &str) -> u32 {
    match name {
        "s8" => 1,
        "f16" | "bf16" => 2,
        "ushort4" | "int2" | "float2" | "double" | "u64" => 8,
        _ => 4,
    }
}

/// Loads, stores, shuffles and atomics.
fn memory(call: &str, t: &str, row: &Row, got: u64) -> Option<bool> {
    let low = |x: u64, bytes: u32| if bytes == 8 { x } else { x & ((1 << (8 * bytes)) - 1) };
    let lane = row.i % 32;
    let from = match call {
        "__shfl_sync(~0u, a, 3)" => row.lane(3),
        "__shfl_up_sync(~0u, a, 2)" => row.lane(if lane < 2 { lane } else { lane - 2 }),
        "__shfl_down_sync(~0u, a, 5, 16)" => row.lane(if lane % 16 > 10 { lane } else { lane + 5 }),
        "__shfl_xor_sync(~0u, a, 9)" => row.lane(lane ^ 9),
        "fetched(r, a, b)" => row.get(1),
        "__halves2half2(a, b)" => row.get(0) | row.get(1) << 16,
        "added(r, a, b)" => {
            return floats::call(
                shape(t)?,
                t.ends_with("x2"),
                if t.ends_with("x2") { "__hadd2" } else { "__hadd" },
                row,
                got,
            );
        }
        _ => {
            let (function, rest) = call.split_once(['(', '<'])?;
            let bytes = size(rest.trim_start_matches('(').split([' ', '>']).next()?);
            let rest = if function.starts_with("__st") { FILL & !low(!0, bytes) } else { 0 };
            let ours = function.starts_with("__ld") || function.starts_with("__st");
            return ours.then_some(got == low(row.get(0), bytes) | rest);
        }
    };
    Some(got == from)
}

/// Whether a result is right; `None`: there is no reference.
fn right(kernel: &str, types: [&str; 3], call: &str, row: &Row, got: u64) -> Option<bool> {
    let call = &call.replace("bfloat16", "half");
    let name = call.split('(').next()?;
    if let Some(r) = memory(call, types[0], row, got) {
        return Some(r);
    }
    let words = [row.get(0), row.get(1), row.get(2)];
    if let Some(to) = kernel.split_once("_from_").and_then(|k| shape(k.0)) {
        return floats::from(to, types[0], name, words, got);
    }
    if kernel.starts_with("fp8") {
        return floats::eight(types[0], call, words, got);
    }
    if matches!(kernel, "f32_rounded" | "f64_rounded") {
        return floats::directed(shape(types[0])?, name, words, got);
    }
    if kernel.ends_with("_exact") {
        return functions::single_valued(shape(types[0])?, call, words, got);
    }
    if kernel == "f32_fast" {
        return functions::fast(name, words, got);
    }
    if let Some(s) = shape(types[0]) {
        return floats::casts(s, name, words, got)
            .or_else(|| floats::call(s, types[0].ends_with("x2"), name, row, got));
    }
    if kernel.ends_with("_casts") {
        return floats::from(
            shape(if name.contains("double") { "f64" } else { "f32" })?,
            types[0],
            name,
            words,
            got,
        );
    }
    integers::value(call, words).map(|want| want == got)
}

fn sweep(gpu: &str, file: &str) {
    let text = read(file);
    let list = read("intrinsics.txt");
    let mut failures = vec![];
    let mut m = Machine::new(gpu, Options::default()).unwrap();
    m.load(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut count = 0;
    for line in list.lines().filter(|l| !l.is_empty()) {
        let (head, _) = line.split_once('"').unwrap();
        let words: Vec<&str> = head.split_whitespace().collect();
        let [_, kernel, types @ ..] = &words[..] else { panic!("{line}") };
        let types: [&str; 3] = types.try_into().unwrap();
        let calls: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        count += calls.len();
        let mut wrong = vec![0; calls.len()];
        for columns in launches(kernel, types) {
            let at = columns.each_ref().map(|c| m.upload(c));
            let out = m.upload(&vec![FILL; calls.len() * ROWS]);
            let args = [at[0], at[1], at[2], out].map(Into::into);
            m.launch(kernel, ROWS as u32 / 128, 128, 0, &args).ok();
            let got = m.read::<u64>(out, calls.len() * ROWS);
            at.into_iter().chain([out]).for_each(|p| m.memory.free(p).expect("an allocation"));
            for (n, call) in calls.iter().enumerate() {
                for i in 0..ROWS {
                    let (row, got) = (Row { columns: &columns, i }, got[n * ROWS + i]);
                    let good = right(kernel, types, call, &row, got)
                        .unwrap_or_else(|| panic!("{kernel}: {call}: no reference"));
                    if !good && wrong[n] == 0 {
                        let v = [0, 1, 2].map(|n| row.get(n));
                        failures.push(format!("{gpu} {kernel} {call}: {v:#x?}: {got:#x}").replace('\n', ""));
                    }
                    wrong[n] += usize::from(!good);
                }
            }
        }
        println!("{kernel}: {wrong:?}");
    }
    assert!(count >= 985, "{count} intrinsics");
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn intrinsics_of_sm_80() {
    sweep("a100", "intrinsics.sm_80.ptx");
}

#[test]
fn intrinsics_of_sm_90() {
    sweep("h100", "intrinsics.sm_90.ptx");
}
