//! `info`: what this build and this machine can do.

use clap::Args;
use inp_former::Result;
use inp_former::runtime::Tier;
use serde_json::json;

use super::{Common, Done, print};

#[derive(Args)]
pub struct Info {
    /// Also show which kernels were chosen and why
    #[arg(long)]
    kernels: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Info {
    pub fn run(self, common: &Common) -> Result<Done> {
        let cpu = common.cpu()?;
        let (mut have, mut lack) = (Vec::new(), Vec::new());
        for tier in Tier::ALL {
            if tier.is_supported() { have.push(tier.name()) } else { lack.push(tier.name()) }
        }
        let tier = cpu.tier().name();
        if self.json {
            let v = json!({
                "version": env!("CARGO_PKG_VERSION"), "device": "cpu", "threads": cpu.threads(), "simd": tier,
                "simd_supported": have, "precisions": ["f32"], "cuda_images": [],
            });
            print(&format!("{v:#}\n"))?;
            return Ok(Done::All);
        }
        let lacking = if lack.is_empty() { String::new() } else { format!(" (not: {})", lack.join(", ")) };
        let mut text = format!(
            "inp-former    {}\ndevice        cpu, {} threads\ninstructions  {tier}; this processor has {}{lacking}; \
             INP_SIMD=NAME chooses another\nprecision     f32\ncuda images   none in this build: no CUDA kernels yet\n",
            env!("CARGO_PKG_VERSION"),
            cpu.threads(),
            have.join(", "),
        );
        if self.kernels {
            text += &format!(
                "kernels       every op has one CPU body, compiled for each instruction set; {tier} was chosen {}\n",
                match std::env::var_os("INP_SIMD") {
                    Some(_) => "by INP_SIMD",
                    None => "as the best that this processor has",
                }
            );
        }
        print(&text)?;
        Ok(Done::All)
    }
}
