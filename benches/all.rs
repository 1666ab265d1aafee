//! The one bench binary: every op, then whole images. `cargo bench --bench all -- linear` runs one stem.

mod metrics;
mod ops;
mod peak;
#[path = "../tests/support.rs"]
mod support;

fn main() {
    let mut c = criterion::Criterion::default().configure_from_args();
    ops::all(&mut c);
    metrics::all(&mut c);
    c.final_summary();
}
