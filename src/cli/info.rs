//! `info`: what this build and this machine can do.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use inp_former::Result;
use inp_former::ops::attention::cuda as attention;
use inp_former::ops::linear::cuda as linear;
use inp_former::runtime::cuda::image::IMAGES;
use inp_former::runtime::cuda::{self, Gpu, Machine};
use inp_former::runtime::{Cpu, DType, Tier};
use serde_json::{Value, json};

use super::{Common, Done, print};

#[derive(Args)]
pub struct Info {
    /// Also show which kernels there are, which are chosen, and why
    #[arg(long)]
    kernels: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is said of a machine without a GPU: variants as an A100 would get them.
const A100: Machine = Machine { arch: 80, sms: 108, shared: 163 * 1024 };

impl Info {
    pub fn run(self, common: &Common) -> Result<Done> {
        let cpu = Cpu::new(common.threads.map(usize::from))?;
        let gpus = match common.device.as_str() {
            "cpu" | "auto" => cuda::count().and_then(|n| (0..n).map(Gpu::open).collect()),
            _ => Ok(vec![common.gpu()?]),
        };
        let (mut have, mut lack) = (Vec::new(), Vec::new());
        for tier in Tier::ALL {
            if tier.is_supported() { have.push(tier.name()) } else { lack.push(tier.name()) }
        }
        let tier = cpu.tier().name();
        let mut archs: Vec<u32> = IMAGES.iter().map(|i| i.arch).collect();
        archs.sort_unstable();
        archs.dedup();
        let describe = |g: &Gpu| {
            json!({
                "name": g.name(), "arch": g.arch(), "multiprocessors": g.sms(), "emulated": g.is_emulated(),
            })
        };
        if self.json {
            let found: Vec<Value> = gpus.iter().flatten().map(describe).collect();
            let why = gpus.as_ref().err().map(ToString::to_string);
            let mut v = json!({
                "version": env!("CARGO_PKG_VERSION"), "device": "cpu", "threads": cpu.threads(), "simd": tier,
                "simd_supported": have, "precisions": ["f32"], "gpus": found, "no_gpu_because": why,
                "cuda_images": archs, "cuda_precisions": DType::ALL.map(DType::name),
            });
            if self.kernels {
                v["kernels"] = kernels().into_iter().map(Kernel::json).collect();
            }
            print(&format!("{v:#}\n"))?;
            return Ok(Done::All);
        }
        let lacking = if lack.is_empty() { String::new() } else { format!(" (not: {})", lack.join(", ")) };
        let mut text = format!(
            "inp-former    {}\nprocessor     {} threads, f32\ninstructions  {tier}; this processor has {}{lacking}; \
             INP_SIMD=NAME chooses another\n",
            env!("CARGO_PKG_VERSION"),
            cpu.threads(),
            have.join(", "),
        );
        match &gpus {
            Ok(all) => all.iter().for_each(|g| {
                let kind = if g.is_emulated() { "emulated GPU " } else { "GPU          " };
                let (name, arch, sms) = (g.name(), g.arch(), g.sms());
                text += &format!("{kind} {name}, sm_{arch}, {sms} multiprocessors; bf16, f16, tf32\n");
            }),
            Err(e) => text += &format!("GPU           none: {e}\n"),
        }
        text += &match archs.as_slice() {
            [] => "cuda images   none in this build, as there was no nvcc: run tools/install-cuda-toolkit and build again\n".into(),
            _ => format!(
                "cuda images   {}\n",
                archs.iter().map(|a| format!("sm_{a}")).collect::<Vec<_>>().join(", ")
            ),
        };
        if self.kernels {
            text += &format!(
                "kernels       every op has one CPU body, compiled for each instruction set; {tier} was chosen {}\n",
                match std::env::var_os("INP_SIMD") {
                    Some(_) => "by INP_SIMD",
                    None => "as the best that this processor has",
                }
            );
            if !archs.is_empty() {
                let first = gpus.iter().flatten().next();
                let name = first.map_or("an A100, as there is no GPU", Gpu::name);
                text += &format!(
                    "{}\nchosen for {name}, bf16 at 392 pixels, by the fewest predicted cycles\n",
                    table()
                );
                text += &format!("{}\n", chosen(&first.map_or(A100, Machine::from))?);
            }
        }
        print(&text)?;
        Ok(Done::All)
    }
}

/// An embedded kernel.
struct Kernel {
    name: &'static str,
    arch: u32,
    registers: u32,
    spills: u32,
    shared: u32,
}

impl Kernel {
    fn json(self) -> Value {
        json!({
            "kernel": self.name, "arch": self.arch, "registers": self.registers, "spills": self.spills,
            "static_shared": self.shared,
        })
    }
}

fn kernels() -> Vec<Kernel> {
    let of = |i: &'static cuda::image::Image| {
        i.kernels.iter().map(|k| Kernel {
            name: k.name,
            arch: i.arch,
            registers: k.registers,
            spills: k.spills,
            shared: k.shared,
        })
    };
    IMAGES.iter().flat_map(of).collect()
}

fn table() -> Table {
    let mut t = Table::new();
    t.load_preset(presets::UTF8_BORDERS_ONLY);
    t.set_header(["kernel", "for", "registers", "spilled bytes", "static shared bytes"]);
    for k in kernels() {
        let numbers = [k.registers, k.spills, k.shared].map(|x| x.to_string());
        t.add_row([k.name.to_string(), format!("sm_{}", k.arch)].into_iter().chain(numbers));
    }
    t.column_iter_mut().skip(2).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    t
}

/// The variants of products and attention that a GPU gets.
fn chosen(m: &Machine) -> Result<Table> {
    const DTYPE: DType = DType::Bf16;
    const TOKENS: usize = 789;
    let mut t = Table::new();
    t.load_preset(presets::UTF8_BORDERS_ONLY);
    t.set_header(["model", "batch", "launch", "variant", "predicted cycles"]);
    let mut row = |model: &str, batch: usize, launch: &str, variant: &str, cycles: f64| {
        t.add_row([model, &batch.to_string(), launch, variant, &format!("{cycles:.0}")]);
    };
    for (model, heads) in [("S", 6), ("B", 12), ("L", 16)] {
        for batch in [1, 8] {
            let c = 64 * heads;
            let layers = [("qkv", 3 * c, c), ("proj", c, c), ("fc1", 4 * c, c), ("fc2", c, 4 * c)];
            for (name, outputs, inputs) in layers {
                let shape = linear::Shape { rows: batch * TOKENS, outputs, inputs };
                let gelu = name == "fc1";
                let v = linear::choose(DTYPE, m, &shape, gelu, cuda::asked("linear").as_deref())?;
                row(model, batch, name, v.name, linear::cycles(v, DTYPE, m, &shape, gelu));
            }
            let shape = attention::Shape { batch, tokens: TOKENS, heads };
            let v = attention::choose(DTYPE, m, &shape, cuda::asked("attention").as_deref())?;
            row(model, batch, "attention", v.name, attention::cycles(v, DTYPE, m, &shape));
        }
    }
    t.column_iter_mut().skip(4).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    Ok(t)
}
