//! The one bench binary: every op, then whole images. `cargo bench --bench all -- linear` runs one stem.

mod gpu;
mod metrics;
#[path = "../tests/models.rs"]
mod models;
mod ops;
mod peak;
mod score;
#[path = "../tests/support.rs"]
mod support;
mod train;

fn main() {
    inp_former::runtime::cpu::keep_freed_memory();
    let mut c = criterion::Criterion::default().configure_from_args();
    ops::all(&mut c);
    score::all(&mut c);
    train::all(&mut c);
    metrics::all(&mut c);
    c.final_summary();
}
