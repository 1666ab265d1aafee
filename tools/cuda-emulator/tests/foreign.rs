//! Kernels whose layouts are not ours: PTX of Triton and of CuTe's headers, against references in float64.

mod mutation;
mod number;
mod redundant;
mod reference;

use inp_cuda_emulator::exec::launch::Report;
use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::run::{Arg, Machine};
use number::{Number, Random};
use serde_json::Value;
use std::path::PathBuf;

/// A kernel with its launch; see `foreign/make_triton.py`.
#[derive(serde::Deserialize)]
pub struct Case {
    name: String,
    file: String,
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    args: Vec<Value>,
    op: Value,
    tolerance: f64,
}

/// A buffer of a case: its numbers, or where results are to be, how many.
pub struct Buffer {
    pub number: Number,
    pub data: Vec<f64>,
    poison: bool,
    out: bool,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/foreign")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(folder().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// All cases of a list.
fn cases(list: &str) -> Vec<Case> {
    serde_json::from_str(&read(list)).expect("a list of cases")
}

impl Case {
    fn ptx(&self) -> String {
        read(&self.file)
    }
    /// The buffers among the arguments, filled by the case's own generator.
    fn buffers(&self) -> Vec<Buffer> {
        let mut random = Random::named(&self.name);
        let buffer = |a: &Value| {
            let number = Number::named(a["buffer"].as_str()?);
            let shape: Vec<_> =
                a["shape"].as_array()?.iter().map(|x| x.as_u64().unwrap_or(0) as usize).collect();
            let fill = a["fill"].as_str()?;
            let n = shape.iter().product();
            let data = if fill == "poison" { vec![0.; n] } else { random.fill(number, fill, n) };
            Some(Buffer { number, data, poison: fill == "poison", out: a["out"] == true })
        };
        self.args.iter().filter_map(buffer).collect()
    }
    /// Runs a text of the kernel; gives what was reported and the results, if it loads.
    fn run(
        &self,
        ptx: &str,
        buffers: &[Buffer],
        options: Options,
    ) -> Result<(Report, Vec<Vec<f64>>), String> {
        let mut m = Machine::new("h100", options)?;
        m.load(ptx).map_err(|e| e.to_string())?;
        let mut next = buffers.iter();
        let mut outs = vec![];
        let arg = |a: &Value| -> Arg {
            if let Some(x) = a["i32"].as_i64() {
                return (x as i32).into();
            }
            if let Some(x) = a["f32"].as_f64() {
                return (x as f32).into();
            }
            let Some(b) = next.next().filter(|_| a["buffer"].is_string()) else { return 0u64.into() };
            let bytes = b.number.encode(&b.data);
            let at = if b.poison { m.alloc(bytes.len()) } else { m.upload(&bytes) };
            if b.out {
                outs.push((at, b));
            }
            at.into()
        };
        let args: Vec<_> = self.args.iter().map(arg).collect();
        let report = m.launch(&self.kernel, self.grid, self.block, self.shared, &args);
        let value = |&(at, b): &(u64, &Buffer)| b.number.decode(&m.read(at, b.data.len() * b.number.bytes()));
        let results = outs.iter().map(value).collect();
        Ok((report, results))
    }
    /// What is wrong with results, if anything.
    fn wrong(&self, expected: &[Vec<(f64, f64)>], results: &[Vec<f64>]) -> Option<String> {
        assert_eq!(expected.len(), results.len(), "{}: results", self.name);
        for (n, (e, r)) in expected.iter().zip(results).enumerate() {
            assert_eq!(e.len(), r.len(), "{}: elements of result {n}", self.name);
            let good = |((want, scale), got): (&(f64, f64), &f64)| {
                got == want || (got - want).abs() <= self.tolerance * scale
            };
            let bad: Vec<_> = (0..e.len()).filter(|&i| !good((&e[i], &r[i]))).collect();
            if let Some(&i) = bad.first() {
                let (want, scale) = e[i];
                let all = e.len();
                return Some(format!(
                    "result {n}: {} of {all} wrong, first [{i}]: {} for {want} (scale {scale})",
                    bad.len(),
                    r[i]
                ));
            }
        }
        None
    }
}

/// What a report complains about first.
fn complaint(r: &Report) -> Option<String> {
    let fault = r.fault.as_ref().map(|(site, f)| format!("{:?}: {f} in {site}", f.code));
    fault.or_else(|| r.findings.first().map(|f| format!("{} findings, first {f}", r.findings.len())))
}

/// Every case of a list whose name begins so: plainly, and under two seeds with all checkers silent.
fn check(list: &str, prefix: impl Fn(&str) -> bool) {
    let only = std::env::var("INP_FOREIGN").unwrap_or_default();
    let mut failures = vec![];
    let mut count = 0;
    for case in cases(list).iter().filter(|c| prefix(&c.name) && c.name.contains(&only)) {
        count += 1;
        let buffers = case.buffers();
        let expected = reference::compute(&case.op, &buffers);
        let ptx = case.ptx();
        let ways = [None, Some(1), Some(2)];
        for seed in ways {
            let base = if seed.is_some() { Options::all() } else { Options::default() };
            let verdict = match case.run(&ptx, &buffers, Options { seed, ..base }) {
                Err(e) => Some(e),
                Ok((report, results)) => complaint(&report).or_else(|| case.wrong(&expected, &results)),
            };
            if let Some(what) = verdict {
                failures.push(format!("{} (seed {seed:?}): {what}", case.name));
                break;
            }
        }
    }
    println!("{count} cases, {} failed", failures.len());
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}

fn matrix(name: &str) -> bool {
    name.starts_with("matmul") || name.starts_with("attention") || name.starts_with("conv1d")
}

#[test]
fn triton_matrices() {
    check("triton.json", matrix);
}

#[test]
fn triton_others() {
    check("triton.json", |n| !matrix(n));
}

#[test]
fn cute() {
    check("cute.json", |_| true);
}
