fn main() {
    println!("inp-former");
}
