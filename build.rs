//! Embedded migrations: a changed file has to reach the program.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
