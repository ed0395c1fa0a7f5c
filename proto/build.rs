//! Compiles `schema/*.proto` with protox: no `protoc` is needed on the machine that builds.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "schema/control.proto",
        "schema/lookup.proto",
        "schema/objects.proto",
        "schema/register.proto",
        "schema/store.proto",
        "schema/sync.proto",
    ];
    println!("cargo::rerun-if-changed=schema");
    let descriptors = protox::compile(files, ["schema"])?;
    prost_build::Config::new().include_file("schema.rs").compile_fds(descriptors)?;
    Ok(())
}
