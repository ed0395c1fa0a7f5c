//! Makes the admin socket's service of its schema, with protox: no `protoc` is needed on the machine that builds.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto/schema");
    let descriptors = protox::compile(["../../proto/schema/admin.proto"], ["../../proto/schema"])?;
    tonic_prost_build::configure()
        .extern_path(".ringway.objects.v1", "::proto::objects")
        .extern_path(".ringway.register.v1", "::proto::register")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
